"""A storage of studies together with the locks of those who share it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final, TypeVar

from optuna.storages import BaseStorage

from trex.errors import StorageError
from trex.store.locks import Locks

_logger = logging.getLogger(__name__)
_T = TypeVar("_T")

#: how long a storage may be away; a server's restart takes seconds
PATIENCE_S: Final = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedStorage:
    """A storage of studies that processes share.

    Attributes:
        where: it is, for people; without a password.
        studies: Optuna's storage.
        locks: of the processes that share it.
        poll_s: how often to look for what others did.
        errors: a context that says what to do about the storage's errors.
        reopen: takes the connections and locks that a restart of the storage has broken; None
            where nothing can break.
    """

    where: str
    studies: BaseStorage
    locks: Locks
    poll_s: float
    errors: Callable[[], AbstractContextManager[None]] = nullcontext
    reopen: Callable[[], None] | None = None

    def patiently(self, work: Callable[[], _T]) -> _T:
        """What `work` returns; where the storage goes away, done again once it is back.

        Args:
            work: may be done twice, also where it was done but for its last word.

        Raises:
            StorageError: the storage is still away after a minute.
        """
        last = time.monotonic() + PATIENCE_S
        while True:
            try:
                with self.errors():
                    return work()
            except StorageError as error:
                if self.reopen is None or time.monotonic() > last:
                    raise
                _logger.warning("%s: waiting for it", error.message)
            while True:
                time.sleep(self.poll_s)
                try:
                    with self.errors():
                        self.reopen()
                except StorageError:
                    if time.monotonic() > last:
                        raise
                else:
                    break

    def close(self) -> None:
        """Let go of all locks and connections."""
        self.locks.close()
        self.studies.remove_session()
