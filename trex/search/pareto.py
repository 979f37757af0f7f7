"""Which of many results no other one beats, how good they are together, and where they bend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def pareto_front(objectives: Floats) -> NDArray[np.intp]:
    """Indices of the rows no other row beats, in order of the first column.

    A row beats another when it is nowhere larger and somewhere smaller. Of equal rows the first
    stays.

    Args:
        objectives: (results, objectives), all to be small.
    """
    order = np.lexsort(objectives.T[::-1])
    if objectives.shape[1] == 2:
        # Sorted by the first, a row stays where its second is less than all before it.
        second = objectives[order, 1]
        before = np.minimum.accumulate(np.concatenate([[np.inf], second[:-1]]))
        # Infinite losses are beaten by the first row, if by any.
        stays: NDArray[np.intp] = order[(second < before) | (np.arange(len(order)) == 0)]
        return stays
    front: list[int] = []
    for row in order:
        if not (objectives[front] <= objectives[row]).all(axis=1).any():
            front.append(int(row))
    return np.array(front, dtype=np.intp)


def cost_front(costs: Sequence[float], losses: Sequence[float], spread: float = 0.0) -> list[int]:
    """Indices of results that no other beats in cost and loss, the cheapest first.

    Costs of equal plans differ in the last digits, by the order in which their encoders are added
    up. Measured ones that are closer than their spread cannot be told apart: of those the one of
    least loss stays.

    Args:
        costs: of results, all of one device.
        losses: of the same.
        spread: relative; 0 where costs are exact.
    """
    rounded = [float(f"{cost:.9g}") for cost in costs]
    front = pareto_front(np.array([rounded, losses]).T.reshape(-1, 2)).tolist()
    kept: list[int] = []
    for index in reversed(front):  # the least loss first, and then ever cheaper ones
        if not kept or rounded[kept[-1]] - rounded[index] > spread * rounded[index]:
            kept.append(index)
    return kept[::-1]


def hypervolume(objectives: Floats, reference: Floats) -> float:
    """The volume that results beat, up to a reference: exact, larger is better.

    A result beats all points that are nowhere smaller. Rows that are not below the reference in
    every objective add nothing. The time grows with the results to the power of the objectives
    less one; for fronts of a hundred and four objectives it is seconds.

    Args:
        objectives: (results, objectives), all to be small.
        reference: (objectives,), for example the original's.
    """
    inside = objectives[(objectives < reference).all(axis=1)]
    return _volume(inside[pareto_front(inside)], reference) if len(inside) else 0.0


def _volume(rows: Floats, reference: Floats) -> float:
    """The same for rows below the reference that do not beat each other."""
    if rows.shape[1] == 1:
        return float(reference[0] - rows.min())
    if rows.shape[1] == 2:
        first, second = rows[np.argsort(rows[:, 0])].T
        heights = np.concatenate([reference[1:], second[:-1]]) - second
        return float(((reference[0] - first) * heights).sum())
    # Slices along the last objective: between two values, what all rows up to there beat.
    rows = rows[np.argsort(rows[:, -1], kind="stable")]
    ends = np.concatenate([rows[1:, -1], reference[-1:]])
    total = 0.0
    for number, (start, end) in enumerate(zip(rows[:, -1], ends, strict=True), start=1):
        if end > start:
            slab = rows[:number, :-1]
            total += (end - start) * _volume(slab[pareto_front(slab)], reference[:-1])
    return float(total)


def knee(front: Floats) -> int | None:
    """The row furthest below the chord between a front's ends, where it bends most.

    Distances are taken with both objectives scaled to the front's extent.

    Args:
        front: (results, 2), no row beating another.

    Returns:
        Its index; None where no row lies below the chord.
    """
    if len(front) < 3:
        return None
    low, high = front.min(axis=0), front.max(axis=0)
    if not (high > low).all():
        return None
    below = 1.0 - ((front - low) / (high - low)).sum(axis=1)
    lowest = int(np.argmax(below))
    return lowest if below[lowest] > 1e-12 else None
