"""Every plan of a space costed, and the ones within the budget kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trex.architecture import Architecture
from trex.hardware import Accounting, Chip, CostTable, Densities, PlanCosts
from trex.search.budget import Budget
from trex.search.space import SearchSpace


@dataclass(frozen=True, kw_only=True, slots=True)
class FeasiblePlans:
    """The plans within the budget, and what the original costs.

    Attributes:
        masks: (plans, encoders), which encoders reuse.
        forms: (plans,), the number of each plan's form in the space.
        costs: what the plans cost.
        baseline: what the original costs; one entry.
        space_size: how many plans the space holds.
    """

    masks: NDArray[np.bool_]
    forms: NDArray[np.intp]
    costs: PlanCosts
    baseline: PlanCosts
    space_size: int

    def estimate(self, row: int, chip: Chip, accounting: Accounting) -> dict[str, Any]:
        """What one plan costs, as plain values."""
        return _estimate(self.costs, row, chip, accounting)

    def baseline_estimate(self, chip: Chip, accounting: Accounting) -> dict[str, Any]:
        """What the original costs, as plain values."""
        return _estimate(self.baseline, 0, chip, accounting)


def feasible_plans(
    architecture: Architecture,
    chip: Chip,
    accounting: Accounting,
    space: SearchSpace,
    budget: Budget,
    densities: Densities | None = None,
) -> FeasiblePlans:
    """Cost every plan of the space and keep those within the budget.

    Args:
        architecture: the model.
        chip: where.
        accounting: as in `price`.
        space: the plans.
        budget: what they must fit.
        densities: of the original's inputs, as in `price`.

    Raises:
        InfeasibleError: there is none; it names the nearest.
        SpaceError: the space is too large to enumerate.
    """
    table = CostTable(architecture, chip, accounting, space.forms, densities=densities)
    masks = space.masks()
    producers = np.zeros((1, space.num_encoders), dtype=np.intp)
    baseline = table.price(producers)
    # The plan without reuse is the same in every form; it is listed once.
    all_masks = np.concatenate([masks, *(masks[1:] for _ in space.forms[1:])])
    all_forms = np.repeat(
        np.arange(len(space.forms)), [len(masks), *([len(masks) - 1] * (len(space.forms) - 1))]
    )
    costs = table.price(all_masks * (all_forms[:, None] + 1))
    fits = budget.feasible(costs, baseline)
    if not fits.any():
        names = [
            str(space.plan(mask, space.forms[form][0]))
            for mask, form in zip(all_masks, all_forms, strict=True)
        ]
        raise budget.nothing_fits(names, costs, baseline)
    return FeasiblePlans(
        masks=all_masks[fits],
        forms=all_forms[fits],
        costs=_select(costs, fits),
        baseline=baseline,
        space_size=space.size,
    )


def _estimate(costs: PlanCosts, row: int, chip: Chip, accounting: Accounting) -> dict[str, Any]:
    return {
        "chip": chip.name,
        "accounting": accounting,
        "latency_s": float(costs.latency_s[row]),
        "energy_j": float(costs.energy_j[row]),
        "area_m2": float(costs.area_m2[row]),
        "edap_mj_ms_mm2": float(costs.edap_mj_ms_mm2[row]),
    }


def _select(costs: PlanCosts, rows: NDArray[np.bool_]) -> PlanCosts:
    return PlanCosts(
        latency_s=costs.latency_s[rows],
        energy_j=costs.energy_j[rows],
        area_m2=costs.area_m2[rows],
        interval_s=costs.interval_s[rows],
    )
