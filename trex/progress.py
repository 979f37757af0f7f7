"""How far work has come, for whoever asked to be told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far one step has come.

    Attributes:
        step: its name, such as `original`, `candidates`, `final fit`.
        done: of `total`.
        total: what the step will do.
        unit: of both: images, plans, encoder steps, batches.
    """

    step: str
    done: int
    total: int
    unit: str

    @property
    def share(self) -> float:
        """Between 0 and 1."""
        return min(1.0, self.done / max(self.total, 1))


#: what is called with every step forward
Callback = Callable[[Progress], object]

_callback: ContextVar[Callback | None] = ContextVar("trex_progress", default=None)


@contextmanager
def told_to(callback: Callback | None) -> Iterator[None]:
    """Inside, `callback` is told of all progress, and no bars are drawn; None changes nothing."""
    if callback is None:
        yield
        return
    token = _callback.set(callback)
    try:
        yield
    finally:
        _callback.reset(token)


def is_told() -> bool:
    """Whether somebody is told, so that no bar is needed."""
    return _callback.get() is not None


def tell(step: str, done: int, total: int, unit: str) -> None:
    """Say how far a step has come; nothing where nobody asked."""
    callback = _callback.get()
    if callback is not None:
        callback(Progress(step=step, done=done, total=total, unit=unit))
