"""Writing files that a crash, a full disk or a second process cannot leave half-written."""

from __future__ import annotations

import errno
import json
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from trex.errors import RunError, StorageError

_HINTS: Final = {
    errno.ENOSPC: "free some space on the disk, or choose another folder",
    errno.EDQUOT: "your disk quota is used up: free some space, or choose another folder",
    errno.EACCES: "choose a folder you may write to",
    errno.EPERM: "choose a folder you may write to",
    errno.EROFS: "choose a folder you may write to",
    errno.ENOENT: "create the folder first",
}


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file, or replace it, at once: other processes see the old content or the new.

    Raises:
        StorageError: it cannot be written; what was there before stays.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise _storage_error(path, error) from error


def append_line(path: Path, line: str) -> None:
    """Append `line` and a line feed to a file, which is created where it is missing.

    One write call, so that several processes may append; on disk when this returns.

    Raises:
        StorageError: it cannot be written; a part that was written is taken back.
    """
    assert "\n" not in line
    data = f"{line}\n".encode()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            written = os.write(descriptor, data)
            if written < len(data):
                _take_back(descriptor, written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _storage_error(path, error) from error


def _take_back(descriptor: int, written: int) -> None:
    with suppress(OSError):  # the caller reports the first error; a reader drops a torn line
        os.ftruncate(descriptor, os.fstat(descriptor).st_size - written)


@dataclass(frozen=True, kw_only=True, slots=True)
class JsonLines:
    """A file of one JSON object a line.

    Attributes:
        records: the objects, in order.
        torn: whether the last line was cut off by a crash, and so left out.
    """

    records: tuple[dict[str, Any], ...]
    torn: bool


def read_jsonl(path: Path, *, recover: bool = True) -> JsonLines:
    """Read a file of JSON objects.

    Args:
        path: the file.
        recover: leave a torn last line out; otherwise it is an error.

    Raises:
        RunError: the file is missing or unreadable, or a line is no JSON object.
    """
    records, sound, size = _parse(path)
    if sound < size and not recover:
        raise RunError(f"{path}: the last line is cut off", hint="remove it")
    return JsonLines(records=tuple(records), torn=sound < size)


def repair_jsonl(path: Path) -> bool:
    """Cut a torn last line off, so that appending goes on cleanly; whether there was one.

    Raises:
        RunError: as `read_jsonl`.
        StorageError: the file cannot be written.
    """
    _, sound, size = _parse(path)
    try:
        if sound < size:
            os.truncate(path, sound)
    except OSError as error:
        raise _storage_error(path, error) from error
    return sound < size


def _parse(path: Path) -> tuple[list[dict[str, Any]], int, int]:
    """The records, the bytes up to the last complete line, and all bytes."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RunError(
            f"{path}: cannot be read: {error.strerror}", hint="check the path"
        ) from None
    # A line feed is the last byte of an append: what has none behind it was not all written.
    sound = data.rfind(b"\n") + 1
    records = []
    for number, line in enumerate(data[:sound].split(b"\n")[:-1], start=1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise RunError(
                f"{path}:{number}: is not a JSON object", hint="restore the file, or drop the line"
            )
        records.append(record)
    return records, sound, len(data)


def _storage_error(path: Path, error: OSError) -> StorageError:
    hint = _HINTS.get(error.errno or 0, "check the path and the disk")
    return StorageError(f"{path}: cannot be written: {error.strerror or error}", hint=hint)
