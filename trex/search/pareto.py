"""Which of many results no other one beats."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def pareto_front(objectives: NDArray[np.float64]) -> NDArray[np.intp]:
    """Indices of the rows no other row beats, in order of the first column.

    A row beats another when it is nowhere larger and somewhere smaller. Of equal rows the first
    stays.

    Args:
        objectives: (results, objectives), all to be small.
    """
    order = np.lexsort(objectives.T[::-1])
    front: list[int] = []
    for row in order:
        beaten = any(np.all(objectives[kept] <= objectives[row]) for kept in front)
        if not beaten:
            front.append(int(row))
    return np.array(front, dtype=np.intp)
