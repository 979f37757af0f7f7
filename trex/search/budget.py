"""Budgets: hard upper limits on latency, energy, area, EDAP, parameters and products."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from trex.errors import BudgetError, InfeasibleError, UnitError
from trex.units import EDAP_MJ_MS_MM2, UNITS, format_quantity, parse_quantity, significant

if TYPE_CHECKING:  # costs load torch, which reading a budget does without
    from trex.search.costs import VariantCosts

Quantity = Literal["latency", "energy", "area", "edap", "params", "macs"]
QUANTITIES: Final[tuple[Quantity, ...]] = get_args(Quantity)

_FIELDS: Final[dict[Quantity, str]] = {
    "latency": "latency_s",
    "energy": "energy_j",
    "area": "area_m2",
    "edap": "edap_j_s_m2",
    "params": "parameters",
    "macs": "macs",
}
_DIMENSIONS: Final[dict[Quantity, str]] = {
    "latency": "time",
    "energy": "energy",
    "area": "area",
    "edap": "edap",
    "params": "count",
    "macs": "count",
}
_RELATIVE: Final = re.compile(r"\s*(\d+\.?\d*|\.\d+)\s*x\s*")

#: Rounding left over by adding up encoders; a plan this close to its limit is within it.
TOLERANCE: Final = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """An upper limit: an SI value, or a share of the original's cost."""

    quantity: Quantity
    value: float
    relative: bool

    @classmethod
    def parse(cls, quantity: Quantity, text: str) -> Limit:
        """Read `9ms`, `4M` (of parameters or products) or `0.6x`.

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

    def allowed(self, baseline: VariantCosts) -> float:
        """The same, where `baseline` holds what the original costs."""
        return self.absolute(float(values(baseline, self.quantity)[0]))

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

    def feasible(self, costs: VariantCosts, baseline: VariantCosts) -> NDArray[np.bool_]:
        """Which of the plans are within every limit; `baseline` holds the original alone."""
        return self.overrun(costs, baseline) <= 1.0 + TOLERANCE

    def overrun(self, costs: VariantCosts, baseline: VariantCosts) -> NDArray[np.float64]:
        """Every plan's cost as a share of its limit, of the limit it keeps worst."""
        shares = [values(costs, limit.quantity) / limit.allowed(baseline) for limit in self.limits]
        worst: NDArray[np.float64] = np.max(shares, axis=0)
        return worst

    def nothing_fits(
        self, nearest: str, costs: VariantCosts, baseline: VariantCosts, num_plans: int
    ) -> InfeasibleError:
        """The error that names the plan nearest to the budget, and by how much it misses.

        Args:
            nearest: the plan, in text.
            costs: what it costs; one entry.
            baseline: the original's costs.
            num_plans: how many plans there are.
        """
        gaps = []
        for limit in self.limits:
            value = float(values(costs, limit.quantity)[0])
            allowed = limit.allowed(baseline)
            gaps.append(
                f"{limit.quantity} {format_cost(limit.quantity, value)} "
                f"(allowed {format_cost(limit.quantity, allowed)}, "
                f"{value / allowed - 1:+.1%})"
            )
        return InfeasibleError(
            f"none of {num_plans:,} plans fits the budget; the nearest is "
            f'"{nearest}": {", ".join(gaps)}',
            hint="raise the limit to that, allow more encoders to reuse, or choose another chip",
        )

    def __str__(self) -> str:
        return ", ".join(f"{limit.quantity} <= {limit}" for limit in self.limits)


def values(costs: VariantCosts, quantity: Quantity) -> NDArray[np.float64]:
    """One quantity of many plans, in SI units."""
    array: NDArray[np.float64] = getattr(costs, _FIELDS[quantity])
    return array


def format_cost(quantity: Quantity, value: float) -> str:
    """A cost with its unit, for people."""
    if quantity == "edap":
        return f"{significant(value * EDAP_MJ_MS_MM2)} mJ*ms*mm2"
    unit = {"latency": "s", "energy": "J", "area": "m2"}.get(quantity, "")
    return format_quantity(value, unit).strip()
