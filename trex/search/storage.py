"""Where a search's studies are kept: a journal in the run folder, or a PostgreSQL database."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend

from trex.errors import RunError, StorageError
from trex.files import parse_json, sealed_line, unsealed
from trex.search.shared import SharedStorage
from trex.store.locks import LOCKS, FileLocks, file_lock

_logger = logging.getLogger(__name__)

#: the journal's name in a run folder; `optuna-dashboard` opens it
JOURNAL: Final = "study.log"


def open_storage(url: str | None, folder: Path, study: str) -> SharedStorage:
    """The storage at `url`; the journal in the run folder where there is none.

    Processes that fork open it anew in every child.

    Raises:
        RunError: it is of a kind TReX cannot share work through, or the journal is damaged in the
            middle.
        StorageError: it cannot be reached.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if url is None:
        locks = FileLocks(folder / LOCKS)
        journal = Journal(folder / JOURNAL, folder / LOCKS / "journal")
        with _errors(folder / JOURNAL):
            studies = JournalStorage(journal)
        return SharedStorage(
            where=str(folder / JOURNAL),
            studies=studies,
            locks=locks,
            poll_s=0.1,
            errors=partial(_errors, folder / JOURNAL),
        )
    try:
        from trex.search.database import open_database
    except ImportError:
        raise RunError(
            "--storage needs psycopg, which is not installed",
            hint='pip install "trex-vit[postgres]"',
        ) from None
    return open_database(url, study)


@contextmanager
def _errors(journal: Path) -> Iterator[None]:
    """What Optuna stumbles over in entries that are JSON, but not what it wrote."""
    try:
        yield
    except (
        AssertionError, AttributeError, IndexError, KeyError, NotImplementedError, TypeError,
        ValueError,
    ) as error:  # fmt: skip
        raise RunError(
            f"{journal} is damaged: {type(error).__name__} {error}"[:500],
            hint="remove the file: it is made again from results.jsonl",
        ) from error


class Journal(BaseJournalBackend):
    """Optuna's journal as a file of one JSON object a line.

    Unlike Optuna's own backend it survives `kill -9`: the kernel keeps its lock, and a line that
    was cut off is removed before the next one is written. Lines are not forced to the disk, since
    a run's records are kept in `results.jsonl`, from which the journal can be made again.

    Args:
        path: the journal.
        lock: a file to lock while appending.

    Raises:
        RunError: a line before the last is no JSON object.
    """

    def __init__(self, path: Path, lock: Path) -> None:
        self._path = path
        self._lock = lock
        #: where every line that was read begins, and the last one ends
        self._ends = [0]
        with file_lock(lock):
            self._path.touch()
            self._repair()

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """Entries from a number on; a last one that is not all written yet is left out."""
        with self._path.open("rb") as file:
            file.seek(self._ends[log_number_from])
            del self._ends[log_number_from + 1 :]
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._ends.append(self._ends[-1] + len(line))
                yield self._entry(line[:-1], len(self._ends) - 1)

    def _entry(self, line: bytes, number: int) -> dict[str, Any]:
        entry: dict[str, Any]
        try:
            entry, _ = unsealed(line)
        except ValueError as error:
            raise RunError(
                f"{self._path}:{number} is damaged: {error}",
                hint="remove the file: it is made again from results.jsonl",
            ) from None
        return entry

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add entries, each with a hash of itself, which other readers of Optuna's pass over."""
        data = "".join(sealed_line(log, (",", ":")) + "\n" for log in logs).encode()
        with file_lock(self._lock):
            try:
                with self._path.open("r+b") as file:
                    size = file.seek(0, os.SEEK_END)
                    if size:
                        file.seek(size - 1)
                        if file.read(1) != b"\n":
                            self._repair()
                            size = file.seek(0, os.SEEK_END)
                    try:
                        file.write(data)
                        file.flush()
                    except OSError:
                        os.truncate(self._path, size)
                        raise
            except OSError as error:
                raise StorageError(
                    f"{self._path}: cannot be written: {error.strerror}",
                    hint="free some space on the disk; the same command goes on",
                ) from error

    def _repair(self) -> None:
        """Cut off what a crash left of the last entries; the lock is held."""
        data = self._path.read_bytes()
        sound, damaged = 0, 0
        for number, line in enumerate(data.splitlines(keepends=True), start=1):
            if _is_entry(line):
                if damaged:
                    raise RunError(
                        f"{self._path}:{damaged}: is not an entry of a study",
                        hint="remove the file: it is made again from results.jsonl",
                    )
                sound += len(line)
            elif not damaged:
                damaged = number
        if damaged:
            os.truncate(self._path, sound)
            _logger.warning(
                "%s: the end was damaged, %d bytes from line %d on are left out",
                self._path, len(data) - sound, damaged,
            )  # fmt: skip


def _is_entry(line: bytes) -> bool:
    if not line.endswith(b"\n"):
        return False
    try:
        return isinstance(parse_json(line), dict)
    except ValueError:
        return False
