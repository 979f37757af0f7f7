"""Spearman's correlation with an interval: what two benchmarks print. Not a script."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.stats import bootstrap, spearmanr


class RankCorrelation(NamedTuple):
    """Spearman's correlation of two measures, and its 95 % interval over what was measured."""

    rank: float
    low: float
    high: float


def rank_correlation(one: np.ndarray, other: np.ndarray) -> RankCorrelation:
    """Of two measures (n,) of the same things, by the percentile bootstrap."""

    def rank(x: np.ndarray, y: np.ndarray) -> float:
        return float(spearmanr(x, y)[0])

    spread = bootstrap(
        (one, other), rank, paired=True,
        vectorized=False, n_resamples=500, method="percentile", random_state=0,
    ).confidence_interval  # fmt: skip
    return RankCorrelation(rank(one, other), float(spread.low), float(spread.high))
