"""Studies in a PostgreSQL database, for workers on many machines.

Needs psycopg: importing this module without it fails.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import psycopg  # noqa: F401 (SQLAlchemy would find out only when it connects)
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage, get_storage
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from trex.errors import RunError, StorageError
from trex.search.shared import SharedStorage

_HINT: Final = "give postgresql://user:password@host:5432/database, of a server that runs"
_CONNECTION: Final[dict[str, Any]] = {
    "connect_args": {"connect_timeout": 10},
    "pool_pre_ping": True,
}


def open_database(url: str, study: str) -> SharedStorage:
    """The studies in a database, with locks for one of them.

    Raises:
        RunError: the address is of something else.
        StorageError: the server does not answer.
    """
    address = _address(url)
    with _errors(url):
        locks = PostgresLocks(create_engine(address, **_CONNECTION), study)
        try:
            # Two processes must not make the tables at once.
            with locks.exclusive():
                storage = RDBStorage(address, engine_kwargs=dict(_CONNECTION))
            locks.also_close(storage.engine)
        except BaseException:
            locks.close()
            raise
    return SharedStorage(
        where=_without_password(url),
        studies=get_storage(storage),
        locks=locks,
        poll_s=0.5,
        errors=partial(_errors, url),
        reopen=locks.reopen,
    )


class PostgresLocks:
    """Locks of processes on many machines: a server's advisory locks, which end with a connection.

    A connection pooler in front of the server must keep sessions (PgBouncer: `pool_mode=session`).

    Args:
        engine: SQLAlchemy's, of the server.
        study: whose workers hold locks.
    """

    def __init__(self, engine: Engine, study: str) -> None:
        self._study = study
        self._engines = [engine]
        self._own: set[str] = set()
        self._connection = _connected(engine)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """See `Locks`; other studies of the database are kept out, too."""
        name = "exclusive"
        self._call("pg_advisory_lock", name)
        try:
            yield
        finally:
            self._call("pg_advisory_unlock", name)

    def hold(self, worker: str) -> None:
        """See `Locks`."""
        self._call("pg_advisory_lock", self._of_study(worker))
        self._own.add(worker)

    def is_held(self, worker: str) -> bool:
        """See `Locks`."""
        if worker in self._own:  # a session may take its own locks again
            return True
        if not self._call("pg_try_advisory_lock", self._of_study(worker)):
            return True
        self._call("pg_advisory_unlock", self._of_study(worker))
        return False

    def reopen(self) -> None:
        """Connect anew, and hold again what was held: a server's restart frees all locks."""
        self._connection.invalidate()
        self._connection.close()
        self._connection = _connected(self._engines[0])
        for worker in self._own:
            self._call("pg_advisory_lock", self._of_study(worker))

    def also_close(self, engine: Engine) -> None:
        """Give an engine's connections back together with the locks."""
        self._engines.append(engine)

    def close(self) -> None:
        """See `Locks`."""
        self._own = set()
        # Not back into the pool: the locks belong to the connection.
        self._connection.invalidate()
        self._connection.close()
        for engine in self._engines:
            engine.dispose()

    def _of_study(self, worker: str) -> str:
        return f"{self._study}\n{worker}"

    def _call(self, function: str, name: str) -> bool:
        digest = hashlib.sha256(f"trex\n{name}".encode()).digest()
        number = int.from_bytes(digest[:8], "big", signed=True)
        return bool(self._connection.exec_driver_sql(f"SELECT {function}({number})").scalar())


def _connected(engine: Engine) -> Connection:
    connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    # A machine that vanishes closes no connection: the server asks it after half a minute.
    for name, seconds in (("idle", 30), ("interval", 10), ("count", 3)):
        connection.exec_driver_sql(f"SET tcp_keepalives_{name} = {seconds}")
    return connection


def _address(url: str) -> str:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise RunError(f"--storage {url} is not an address", hint=_HINT) from None
    if parsed.get_backend_name() != "postgresql":
        raise RunError(
            f"--storage {_without_password(url)} is not a PostgreSQL database",
            hint=f"{_HINT}; without --storage the study is in the run folder",
        )
    # SQLAlchemy before 2.1 would look for another driver.
    return parsed.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


@contextmanager
def _errors(url: str) -> Iterator[None]:
    """Turn a database's errors into one that says what to do."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        cause = error.__cause__ or error
        reason = str(getattr(cause, "orig", cause)).strip().splitlines()[0]
        raise StorageError(
            f"the study's database {_without_password(url)} does not answer: {reason}",
            hint=f"{_HINT}; the same command goes on",
        ) from error


def _without_password(url: str) -> str:
    return make_url(url).render_as_string(hide_password=True)
