"""A space with its prices and its budget: which plans fit, and which comes nearest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trex.architecture import Architecture
from trex.errors import InfeasibleError, SpaceError
from trex.hardware import Accounting, Chip, Densities
from trex.reuse.sizes import ParameterTable
from trex.search.budget import Budget
from trex.search.costs import PlanPricer, VariantCosts
from trex.search.space import SearchSpace
from trex.search.terms import Choices, Rows


@dataclass(frozen=True, kw_only=True, slots=True)
class PricedSpace:
    """A space, what its plans cost, and what they may cost."""

    space: SearchSpace
    choices: Choices
    pricer: PlanPricer
    budget: Budget

    @classmethod
    def of(
        cls,
        architecture: Architecture,
        chip: Chip,
        accounting: Accounting,
        space: SearchSpace,
        budget: Budget,
        parameters: ParameterTable,
        densities: Densities | None = None,
    ) -> PricedSpace:
        """Price a space.

        Args:
            architecture: the model.
            chip: where.
            accounting: as in `trex.hardware.price`.
            space: the plans.
            budget: what they must fit.
            parameters: of the model, for the space's forms.
            densities: of the original's inputs, as in `trex.hardware.price`.
        """
        pricer = PlanPricer(architecture, chip, accounting, space.forms, parameters, densities)
        return cls(space=space, choices=space.choices(), pricer=pricer, budget=budget)

    @property
    def baseline(self) -> VariantCosts:
        """What the original costs; one entry."""
        return self.pricer.baseline

    def price(self, rows: Rows) -> VariantCosts:
        """Costs of plans given as rows of choice numbers, (plans, encoders)."""
        return self.pricer.price(self.choices.row_forms(rows))

    def fits(self, costs: VariantCosts) -> NDArray[np.bool_]:
        """Which plans are within every limit."""
        return self.budget.feasible(costs, self.baseline)

    def infeasible(self, nearest: Rows) -> InfeasibleError:
        """The error that names the plan nearest to the budget, given as its row."""
        return self.budget.nothing_fits(
            str(self.choices.candidate(nearest).plan),
            self.price(nearest[None]),
            self.baseline,
            self.space.size,
        )


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
    costs: VariantCosts
    baseline: VariantCosts
    space_size: int

    def estimate(self, row: int, chip: Chip, accounting: Accounting) -> dict[str, Any]:
        """What one plan costs, as plain values."""
        return self.costs.estimate(row, chip, accounting)

    def baseline_estimate(self, chip: Chip, accounting: Accounting) -> dict[str, Any]:
        """What the original costs, as plain values."""
        return self.baseline.estimate(0, chip, accounting)


def feasible_plans(priced: PricedSpace) -> FeasiblePlans:
    """Cost every plan of the space and keep those within the budget.

    Raises:
        InfeasibleError: there is none; it names the nearest.
        SpaceError: the space is too large to enumerate, or its plans are more than consumers.
    """
    space = priced.space
    if space.mixed or space.source != "nearest":
        raise SpaceError(
            f"plans of the space {space.name} are not told by their consumers alone",
            hint="choose a space of nearest sources and one form for all consumers",
        )
    masks = space.masks()
    # The plan without reuse is the same in every form; it is listed once.
    all_masks = np.concatenate([masks, *(masks[1:] for _ in space.forms[1:])])
    all_forms = np.repeat(
        np.arange(len(space.forms)), [len(masks), *([len(masks) - 1] * (len(space.forms) - 1))]
    )
    costs = priced.pricer.price(all_masks * (all_forms[:, None] + 1))
    fits = priced.fits(costs)
    if not fits.any():
        nearest = int(np.argmin(priced.budget.overrun(costs, priced.baseline)))
        form = space.forms[all_forms[nearest]]
        candidate = space.candidate(all_masks[nearest], form)
        raise priced.infeasible(priced.choices.row(candidate))
    return FeasiblePlans(
        masks=all_masks[fits],
        forms=all_forms[fits],
        costs=costs.of(fits),
        baseline=priced.baseline,
        space_size=space.size,
    )
