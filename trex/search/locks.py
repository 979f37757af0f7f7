"""Locks that end with the process that holds them, however it ends.

Workers take work under one lock that excludes all others, and hold another lock for as long as
they live: what a worker was at when its lock went free has to be done again. Neither needs a clock
or a time-out. On one machine the kernel keeps the locks, for many a PostgreSQL server does.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from trex.errors import StorageError

if TYPE_CHECKING:
    from sqlalchemy import Engine


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
        """See `Locks`."""
        self._held[worker] = _open(self._folder / worker)
        fcntl.flock(self._held[worker], fcntl.LOCK_EX)

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


class PostgresLocks:
    """Locks of processes on many machines: a server's advisory locks, which end with a connection.

    A connection pooler in front of the server must keep sessions (PgBouncer: `pool_mode=session`).

    Args:
        engine: SQLAlchemy's, of the server.
        study: what the locks are for.
    """

    def __init__(self, engine: Engine, study: str) -> None:
        self._study = study
        self._engine = engine
        self._own: set[str] = set()
        self._connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        # A machine that vanishes closes no connection: the server asks it after half a minute.
        for name, seconds in (("idle", 30), ("interval", 10), ("count", 3)):
            self._connection.exec_driver_sql(f"SET tcp_keepalives_{name} = {seconds}")

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """See `Locks`."""
        self._call("pg_advisory_lock", "")
        try:
            yield
        finally:
            self._call("pg_advisory_unlock", "")

    def hold(self, worker: str) -> None:
        """See `Locks`."""
        self._call("pg_advisory_lock", worker)
        self._own.add(worker)

    def is_held(self, worker: str) -> bool:
        """See `Locks`."""
        if worker in self._own:  # a session may take its own locks again
            return True
        if not self._call("pg_try_advisory_lock", worker):
            return True
        self._call("pg_advisory_unlock", worker)
        return False

    def close(self) -> None:
        """See `Locks`."""
        self._own = set()
        # Not back into the pool: the locks belong to the connection.
        self._connection.invalidate()
        self._connection.close()
        self._engine.dispose()

    def _call(self, function: str, name: str) -> bool:
        digest = hashlib.sha256(f"{self._study}\n{name}".encode()).digest()
        number = int.from_bytes(digest[:8], "big", signed=True)
        return bool(self._connection.exec_driver_sql(f"SELECT {function}({number})").scalar())


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
