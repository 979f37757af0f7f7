"""Budgets: hard upper limits on latency, energy, area and EDAP."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from trex.errors import BudgetError, InfeasibleError, UnitError
from trex.hardware import PlanCosts
from trex.units import EDAP_MJ_MS_MM2, UNITS, format_quantity, parse_quantity, significant

Quantity = Literal["latency", "energy", "area", "edap"]
QUANTITIES: Final[tuple[Quantity, ...]] = get_args(Quantity)

_FIELDS: Final[dict[Quantity, str]] = {
    "latency": "latency_s",
    "energy": "energy_j",
    "area": "area_m2",
    "edap": "edap_j_s_m2",
}
_DIMENSIONS: Final[dict[Quantity, str]] = {
    "latency": "time",
    "energy": "energy",
    "area": "area",
    "edap": "edap",
}
_RELATIVE: Final = re.compile(r"\s*(\d+\.?\d*|\.\d+)\s*x\s*")

#: Rounding left over by adding up encoders; a plan this close to its limit is within it.
_TOLERANCE: Final = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """An upper limit: an SI value, or a share of the original's cost."""

    quantity: Quantity
    value: float
    relative: bool

    @classmethod
    def parse(cls, quantity: Quantity, text: str) -> Limit:
        """Read `9ms` or `0.6x`.

        Raises:
            BudgetError: neither of both, or not above zero.
        """
        match = _RELATIVE.fullmatch(text)
        try:
            value = float(match[1]) if match else parse_quantity(text, _DIMENSIONS[quantity])
        except UnitError as error:
            units = ", ".join(list(UNITS[_DIMENSIONS[quantity]])[-4:])
            raise BudgetError(
                f"--max-{quantity} {error.message}",
                hint=f"give a number with a unit ({units}), or a share of the original: 0.6x",
            ) from None
        if value <= 0:
            raise BudgetError(
                f"--max-{quantity} {text} is not above zero", hint="no plan costs nothing"
            )
        return cls(quantity=quantity, value=value, relative=match is not None)

    def absolute(self, baseline: float) -> float:
        """The limit in SI units, where the original costs `baseline`."""
        return self.value * baseline if self.relative else self.value

    def __str__(self) -> str:
        if self.relative:
            return f"{self.value:g}x"
        return format_cost(self.quantity, self.value)


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """All limits of one search; every one must hold."""

    limits: tuple[Limit, ...]

    @classmethod
    def parse(cls, texts: Mapping[Quantity, str | None]) -> Budget:
        """From the text of each limit that was given.

        Raises:
            BudgetError: none was given, or one is malformed.
        """
        limits = tuple(Limit.parse(q, text) for q, text in texts.items() if text is not None)
        if not limits:
            raise BudgetError(
                "no budget was given", hint="add --max-latency 9ms, or --max-latency 0.6x"
            )
        return cls(limits=limits)

    def feasible(self, costs: PlanCosts, baseline: PlanCosts) -> NDArray[np.bool_]:
        """Which of the plans are within every limit; `baseline` holds the original alone."""
        overrun = self._worst_overrun(costs, baseline)
        return overrun <= 1.0 + _TOLERANCE

    def nothing_fits(
        self, names: list[str], costs: PlanCosts, baseline: PlanCosts
    ) -> InfeasibleError:
        """The error that names the plan nearest to the budget, and by how much it misses.

        Args:
            names: the plans, in text.
            costs: what they cost.
            baseline: the original's costs.
        """
        nearest = int(np.argmin(self._worst_overrun(costs, baseline)))
        gaps = []
        for limit in self.limits:
            value = float(values(costs, limit.quantity)[nearest])
            allowed = limit.absolute(float(values(baseline, limit.quantity)[0]))
            gaps.append(
                f"{limit.quantity} {format_cost(limit.quantity, value)} "
                f"(allowed {format_cost(limit.quantity, allowed)}, "
                f"{value / allowed - 1:+.1%})"
            )
        return InfeasibleError(
            f"none of {len(names):,} plans fits the budget; the nearest is "
            f'"{names[nearest]}": {", ".join(gaps)}',
            hint="raise the limit to that, allow more encoders to reuse, or choose another chip",
        )

    def _worst_overrun(self, costs: PlanCosts, baseline: PlanCosts) -> NDArray[np.float64]:
        shares = [
            values(costs, limit.quantity)
            / limit.absolute(float(values(baseline, limit.quantity)[0]))
            for limit in self.limits
        ]
        worst: NDArray[np.float64] = np.max(shares, axis=0)
        return worst

    def __str__(self) -> str:
        return ", ".join(f"{limit.quantity} <= {limit}" for limit in self.limits)


def values(costs: PlanCosts, quantity: Quantity) -> NDArray[np.float64]:
    """One quantity of many plans, in SI units."""
    array: NDArray[np.float64] = getattr(costs, _FIELDS[quantity])
    return array


def format_cost(quantity: Quantity, value: float) -> str:
    """A cost with its unit, for people."""
    if quantity == "edap":
        return f"{significant(value * EDAP_MJ_MS_MM2)} mJ*ms*mm2"
    unit = {"latency": "s", "energy": "J", "area": "m2"}[quantity]
    return format_quantity(value, unit)
