"""A storage of studies together with the locks of those who share it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from optuna.storages import BaseStorage

from trex.store.locks import Locks


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedStorage:
    """A storage of studies that processes share.

    Attributes:
        where: it is, for people; without a password.
        studies: Optuna's storage.
        locks: of the processes that share it.
        poll_s: how often to look for what others did.
        errors: a context that says what to do about the storage's errors.
    """

    where: str
    studies: BaseStorage
    locks: Locks
    poll_s: float
    errors: Callable[[], AbstractContextManager[None]] = nullcontext

    def close(self) -> None:
        """Let go of all locks and connections."""
        self.locks.close()
        self.studies.remove_session()
