"""Locks that end with the process that holds them, however it ends.

Workers take work under one lock that excludes all others, and hold another lock for as long as
they live: what a worker was at when its lock went free has to be done again. Neither needs a clock
or a time-out. On one machine the kernel keeps the locks; for many a PostgreSQL server does
(`search.database`).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol

from trex.errors import StorageError

#: the folder of lock files in a run folder
LOCKS: Final = ".locks"


class Locks(Protocol):
    """What a study's workers need to agree on who does what."""

    def exclusive(self) -> AbstractContextManager[None]:
        """Keep all other workers of the study out; waits for its turn."""
        ...

    def hold(self, worker: str) -> None:
        """Say that a worker lives, until `close` or the end of this process."""
        ...

    def is_held(self, worker: str) -> bool:
        """Whether a worker lives."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


class FileLocks:
    """Locks of processes on one machine, or on one file system with working `flock`.

    Args:
        folder: where the lock files are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, int] = {}

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """See `Locks`."""
        with file_lock(self._folder / "exclusive"):
            yield

    def hold(self, worker: str) -> None:
        """See `Locks`; what dead workers left is removed."""
        while True:
            descriptor = _open(self._folder / worker)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:
                break
            os.close(descriptor)  # removed as a dead one's before it was locked: once more
        self._held[worker] = descriptor
        for path in self._folder.glob("worker-*"):
            if path.name not in self._held:
                self.is_held(path.name)

    def is_held(self, worker: str) -> bool:
        """See `Locks`; what a dead worker left is removed."""
        path = self._folder / worker
        if not path.exists():
            return False
        descriptor = _open(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        else:
            path.unlink(missing_ok=True)
            return False
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """See `Locks`."""
        for worker, descriptor in self._held.items():
            with suppress(OSError):
                (self._folder / worker).unlink()
            os.close(descriptor)
        self._held = {}


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Keep others out who lock the same file; waits for its turn.

    Raises:
        StorageError: the file cannot be made.
    """
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(exist_ok=True)
        return os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
    except OSError as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path} cannot be written: {error.strerror}", hint="choose another --out folder"
    )
