"""Writing files that a crash, a full disk or a second process cannot leave half-written."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

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


#: what a line ends with that carries the hash of all before it
_SEAL: Final = re.compile(rb', ?"check": ?"([0-9a-f]{16})"\}$')


def sealed_line(record: Mapping[str, Any], separators: tuple[str, str] = (", ", ": ")) -> str:
    """A JSON object as a line that carries a hash of itself as its last field, `check`.

    Args:
        record: not empty.
        separators: as `json.dumps` has them.
    """
    text = json.dumps(record, separators=separators)
    comma, colon = separators
    return f'{text[:-1]}{comma}"check"{colon}"{_hash(text.encode())}"}}'


def unsealed(line: bytes) -> tuple[Any, bool]:
    """The value of a line without its hash, and whether it had one.

    Raises:
        ValueError: it is no JSON, or does not have the hash it was written with.
    """
    found = _SEAL.search(line)
    if found is None:
        return parse_json(line), False
    text = line[: found.start()] + b"}"
    if _hash(text) != found[1].decode():
        raise ValueError("it does not have the checksum it was written with")
    return parse_json(text), True


def _hash(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:16]


class GrowingLines:
    """A file of JSON objects that others append to: every look at it parses what is new.

    Lines carry hashes of themselves or, as earlier versions wrote them, do not; behind the first
    that does, all do.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._forget()

    def _still_begins(self, file: BinaryIO) -> bool:
        """Whether what was read last is where it was: a hash, where lines carry one."""
        file.seek(self._end - len(self._last))
        return file.read(len(self._last)) == self._last

    def _forget(self) -> None:
        self._end, self._count, self._inode, self._sealed, self._last = 0, 0, -1, False, b""
        #: whether the last line was cut off, and so left out
        self.torn = False

    def new(self) -> tuple[list[tuple[int, dict[str, Any]]], bool]:
        """Lines that have come whole since the last look, with their numbers from 1.

        Returns:
            Also whether they begin at the first: the file was replaced, cut, or never looked at.

        Raises:
            RunError: the file is missing or unreadable, or a line is no JSON object or damaged.
                The next look begins at the first line.
        """
        try:
            with self._path.open("rb") as file:
                stat = os.fstat(file.fileno())
                if stat.st_ino != self._inode or not self._still_begins(file):
                    self._forget()
                first = self._end == 0
                file.seek(self._end)
                data = file.read()
        except OSError as error:
            self._forget()
            raise RunError(
                f"{self._path}: cannot be read: {error.strerror}", hint="check the path"
            ) from None
        self._inode = stat.st_ino
        # A line feed is the last byte of an append: what has none behind it was not all written.
        sound = data[: data.rfind(b"\n") + 1]
        try:
            lines = [self._parsed(line) for line in sound.split(b"\n")[:-1]]
        except RunError:
            self._forget()
            raise
        self._end += len(sound)
        self._last = sound[-_LAST:] or self._last
        self.torn = len(sound) < len(data)
        return lines, first

    def _parsed(self, line: bytes) -> tuple[int, dict[str, Any]]:
        self._count += 1
        where = f"{self._path}:{self._count}"
        try:
            record, sealed = unsealed(line)
        except ValueError as error:
            if "checksum" in str(error):
                raise RunError(f"{where} is damaged: {error}", hint=_DROP) from None
            record, sealed = None, False
        if not isinstance(record, dict):
            raise RunError(f"{where}: is not a JSON object", hint=_DROP)
        if self._sealed and not sealed:
            raise RunError(
                f"{where} is damaged: it has no checksum, and those before it have", hint=_DROP
            )
        self._sealed = sealed
        return self._count, record


_DROP: Final = "restore the file, or drop the line"
_LAST: Final = 64


def read_jsonl(path: Path, *, recover: bool = True) -> JsonLines:
    """Read a file of JSON objects.

    Args:
        path: the file.
        recover: leave a torn last line out; otherwise it is an error.

    Raises:
        RunError: the file is missing or unreadable, or a line is no JSON object or damaged.
    """
    file = GrowingLines(path)
    lines, _ = file.new()
    if file.torn and not recover:
        raise RunError(f"{path}: the last line is cut off", hint="remove it")
    return JsonLines(records=tuple(record for _, record in lines), torn=file.torn)


def repair_jsonl(path: Path) -> bool:
    """Cut a torn last line off, so that appending goes on cleanly; whether there was one.

    Raises:
        RunError: the file is missing or unreadable.
        StorageError: the file cannot be written.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            sound = _last_line_feed(file, size)
    except OSError as error:
        raise RunError(
            f"{path}: cannot be read: {error.strerror}", hint="check the path"
        ) from None
    try:
        if sound < size:
            os.truncate(path, sound)
    except OSError as error:
        raise _storage_error(path, error) from error
    return sound < size


def _last_line_feed(file: BinaryIO, size: int) -> int:
    """The bytes up to and with the last line feed, looked for from the end."""
    start = size
    while start:
        stop, start = start, max(0, start - _CHUNK)
        file.seek(start)
        if (found := file.read(stop - start).rfind(b"\n")) >= 0:
            return start + found + 1
    return 0


_CHUNK: Final = 1 << 16


def _storage_error(path: Path, error: OSError) -> StorageError:
    hint = _HINTS.get(error.errno or 0, "check the path and the disk")
    return StorageError(f"{path}: cannot be written: {error.strerror or error}", hint=hint)
