"""Writing files that a crash, a full disk or a second process cannot leave half-written."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
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

#: how files are called while they are written
_TEMPORARY: Final = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file, or replace it, at once: other processes see the old content or the new.

    Raises:
        StorageError: it cannot be written; what was there before stays.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        temporary, descriptor = _temporary(path)
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                # Named while it is open, and so locked: nobody takes it for left over.
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise _storage_error(path, error) from error


def make_folder(path: Path) -> None:
    """Make a folder where there is none; what killed writers left half-written in it goes.

    Raises:
        StorageError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"{path} cannot be created: {error.strerror}", hint="choose another folder"
        ) from error
    sweep(path)


def is_temporary(name: str) -> bool:
    """Whether a file is called as it is while it is written."""
    return _TEMPORARY.fullmatch(name) is not None


def sweep(folder: Path) -> list[str]:
    """Remove what killed writers left half-written in a folder; the names of what is gone.

    A writer that lives holds a lock on what it writes. What cannot be locked or removed stays.
    """
    removed = []
    try:
        names = [name for name in os.listdir(folder) if is_temporary(name)]
    except OSError:
        return []
    for name in names:
        path = folder / name
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
                removed.append(name)
            finally:
                os.close(descriptor)
    return removed


def _temporary(path: Path) -> tuple[Path, int]:
    """A new file beside `path`, open for writing and locked."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            with suppress(OSError):  # a file system without locks: nothing is swept there
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:
                return temporary, descriptor
        except BaseException:
            temporary.unlink(missing_ok=True)
            os.close(descriptor)
            raise
        os.close(descriptor)  # swept between its making and its locking: once more


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


def parse_json(text: str | bytes) -> Any:
    """The value that a JSON text holds.

    Raises:
        ValueError: it is no JSON, or nested deeper than any file of ours.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


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
            record = parse_json(line)
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
