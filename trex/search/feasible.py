"""A space with its prices and its budget: which plans fit."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from trex.architecture import Architecture
from trex.errors import InfeasibleError
from trex.hardware import Accounting, Chip, Densities
from trex.reuse.sizes import ParameterTable
from trex.search.budget import Budget, Limit
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

    def limited(self, limit: Limit) -> PricedSpace:
        """The same with one more limit."""
        return replace(self, budget=Budget(limits=(*self.budget.limits, limit)))

    def price(self, rows: Rows) -> VariantCosts:
        """Costs of plans given as rows of choice numbers, (plans, encoders)."""
        return self.pricer.price(self.choices.row_forms(rows))

    def fits(self, costs: VariantCosts) -> NDArray[np.bool_]:
        """Which plans are within every limit."""
        return self.budget.feasible(costs, self.baseline)

    def infeasible(self, nearest: Rows) -> InfeasibleError:
        """The error that names the plan nearest to the budget, given as its row."""
        return self.budget.nothing_fits(
            str(self.choices.plan(nearest)),
            self.price(nearest[None]),
            self.baseline,
            self.space.size,
        )
