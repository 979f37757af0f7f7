"""The best plans found so far, and what may still be better."""

from __future__ import annotations

import numpy as np

from trex.search.terms import Floats, Rows

#: Losses that differ by less, as a share of the larger, count as equal.
EQUAL = 1e-9


class Pool:
    """The plans of least loss among those added, each once.

    Args:
        count: how many to keep.
        num_encoders: of the model.
    """

    def __init__(self, count: int, num_encoders: int) -> None:
        self.count = count
        self.rows: Rows = np.zeros((0, num_encoders), dtype=np.intp)
        self.losses: Floats = np.zeros(0)

    @property
    def threshold(self) -> float:
        """A plan must lose less than this to be kept; infinite until there are enough."""
        if len(self.losses) < self.count:
            return float("inf")
        last = float(self.losses[-1])
        return last - EQUAL * max(abs(last), 1e-3)

    def add(self, rows: Rows, losses: Floats) -> None:
        """Offer plans, each once: (plans, encoders) and (plans,)."""
        good = np.flatnonzero(losses < self.threshold)
        good = good[np.argsort(losses[good], kind="stable")[: self.count]]
        if not len(good):
            return
        rows, losses = rows[good], losses[good]
        every = np.concatenate([self.rows, rows])
        _, first = np.unique(every, axis=0, return_index=True)
        both = np.concatenate([self.losses, losses])[first]
        order = np.argsort(both, kind="stable")[: self.count]
        self.rows, self.losses = every[first][order], both[order]
