"""Budgets as the exact solvers need them: checked on sums, and as linear conditions.

Costs add up over encoders but for two: leakage is power times latency, and EDAP is a product of
three sums. Linear conditions that every plan within the budget meets keep a bound on the loss
valid; whether a plan fits is always decided by the budget itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trex.search.budget import TOLERANCE, Quantity, values
from trex.search.costs import AREA, ENERGY, LATENCY, LEAKAGE, MACS, PARAMETERS
from trex.search.feasible import PricedSpace
from trex.search.terms import Floats

#: Quantities that are one sum each.
_SUMS: Final[dict[Quantity, int]] = {
    "latency": LATENCY,
    "area": AREA,
    "params": PARAMETERS,
    "macs": MACS,
}
#: The sums each quantity is made of.
_ROWS: Final[dict[Quantity, tuple[int, ...]]] = {
    **{quantity: (row,) for quantity, row in _SUMS.items()},
    "energy": (ENERGY, LEAKAGE, LATENCY),
    "edap": (ENERGY, LEAKAGE, LATENCY, AREA),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """Between which values the sums of `PlanPricer.by_form` lie, (6,) each."""

    low: Floats
    high: Floats


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearLimits:
    """Conditions `weights @ sums <= most` that all plans of a box within the budget meet.

    Attributes:
        weights: (conditions, 6).
        most: (conditions,).
    """

    weights: Floats
    most: Floats


class Limits:
    """A budget's limits on sums.

    Args:
        priced: the space and its budget.
    """

    def __init__(self, priced: PricedSpace) -> None:
        self._most: dict[Quantity, float] = {}
        for limit in priced.budget.limits:
            most = limit.absolute(float(values(priced.baseline, limit.quantity)[0]))
            self._most[limit.quantity] = min(most, self._most.get(limit.quantity, np.inf))

    @property
    def rows(self) -> tuple[int, ...]:
        """The sums that the limits are about."""
        needed = {row for quantity in self._most for row in _ROWS[quantity]}
        return tuple(sorted(needed))

    @property
    def multiplied(self) -> tuple[int, ...]:
        """Those of them that some limit multiplies with others."""
        needed = {row for q in self._most if q not in _SUMS for row in _ROWS[q]}
        return tuple(sorted(needed))

    def within(self, sums: Any) -> NDArray[np.bool_]:
        """Whether sums, (6, plans) or the rows of them that are needed, keep every limit.

        All limits grow with every sum, so where least sums do not, no plan of these does.
        """
        inside: NDArray[np.bool_] = np.ones(np.shape(sums[self.rows[0]]), dtype=np.bool_)
        for quantity, most in self._most.items():
            if quantity in _SUMS:
                value = sums[_SUMS[quantity]]
            else:
                value = sums[ENERGY] + sums[LEAKAGE] * sums[LATENCY]
            if quantity == "edap":
                value = value * sums[LATENCY] * sums[AREA]
            inside &= value <= most * (1 + TOLERANCE)
        return inside

    def tightened(self, box: Box) -> Box:
        """The box without what lies above a limit whatever the other sums are."""
        low, high = box.low, box.high.copy()
        least_j = low[ENERGY] + low[LEAKAGE] * low[LATENCY]
        for quantity, limit in self._most.items():
            most = limit * (1 + TOLERANCE)
            if quantity in _SUMS:
                row = _SUMS[quantity]
                high[row] = min(high[row], most)
                continue
            rest = 1.0 if quantity == "energy" else low[LATENCY] * low[AREA]
            high[ENERGY] = min(high[ENERGY], most / rest - low[LEAKAGE] * low[LATENCY])
            if quantity == "edap":
                high[LATENCY] = min(high[LATENCY], most / (least_j * low[AREA]))
                high[AREA] = min(high[AREA], most / (least_j * low[LATENCY]))
        return Box(low=low, high=np.maximum(high, low))

    def linear(self, box: Box) -> LinearLimits:
        """Linear conditions for the plans of a box."""
        rows: list[tuple[Floats, float]] = []
        for quantity, limit in self._most.items():
            most = limit * (1 + TOLERANCE)
            if quantity in _SUMS:
                weights = np.zeros(6)
                weights[_SUMS[quantity]] = 1.0
                rows.append((weights, most))
            elif quantity == "energy":
                rows += [(weights, most - least) for weights, least in _energies(box)]
            else:
                rows += self._product(box, most)
        # Every condition in units of its own limit, so that none is out of scale.
        scales = [float(np.abs(weights) @ np.abs(box.high)) or 1.0 for weights, _ in rows]
        return LinearLimits(
            weights=np.array([w / s for (w, _), s in zip(rows, scales, strict=True)]),
            most=np.array([m / s for (_, m), s in zip(rows, scales, strict=True)]),
        )

    def _product(self, box: Box, most: float) -> list[tuple[Floats, float]]:
        """Log E + log D + log A <= log most, each logarithm replaced by a chord below it."""
        least_j = box.low[ENERGY] + box.low[LEAKAGE] * box.low[LATENCY]
        most_j = box.high[ENERGY] + box.high[LEAKAGE] * box.high[LATENCY]
        slope, offset = _chord(least_j, most_j)
        rows = []
        for weights, least in _energies(box):
            whole, fixed = slope * weights, offset + slope * least
            for row in (LATENCY, AREA):
                one, other = _chord(box.low[row], box.high[row])
                whole[row] += one
                fixed += other
            rows.append((whole, float(np.log(most)) - fixed))
        return rows


def _energies(box: Box) -> list[tuple[Floats, float]]:
    """Linear functions, weights and offset, that are nowhere in the box above the energy.

    McCormick's two planes below the product of leakage and latency.
    """
    planes = []
    for corner in (box.low, box.high):
        weights = np.zeros(6)
        weights[ENERGY] = 1.0
        weights[LATENCY], weights[LEAKAGE] = corner[LEAKAGE], corner[LATENCY]
        planes.append((weights, -float(corner[LEAKAGE] * corner[LATENCY])))
    if not box.high[LEAKAGE]:
        return [(np.eye(6)[ENERGY], 0.0)]
    return planes


def _chord(low: float, high: float) -> tuple[float, float]:
    """Slope and offset of the line through the logarithm at both ends."""
    if high <= low * (1 + 1e-12):
        return 0.0, float(np.log(low))
    slope = float(np.log(high / low) / (high - low))
    return slope, float(np.log(low)) - slope * low
