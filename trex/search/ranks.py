"""Ranks among equals: of many plans, the first few of every kind."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def ranks_of_equals(of: NDArray[Any]) -> NDArray[np.intp]:
    """(n,): how many before each entry are equal to it."""
    order = np.argsort(of, kind="stable")
    _, starts, counts = np.unique(of[order], return_index=True, return_counts=True)
    ranks = np.empty(len(of), dtype=np.intp)
    ranks[order] = np.arange(len(of)) - np.repeat(starts, counts)
    return ranks
