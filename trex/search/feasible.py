"""A space with its prices and its budget: which plans fit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trex.architecture import Architecture
from trex.errors import InfeasibleError
from trex.hardware import Chip, Densities, DeviceAccounting, MeasuredDevice, PlanArrays
from trex.reuse.sizes import ParameterTable
from trex.search.budget import Budget
from trex.search.costs import PlanPricer, VariantCosts
from trex.search.space import Numbers, SearchSpace


@dataclass(frozen=True, kw_only=True, slots=True)
class PricedSpace:
    """A space, what its plans cost, and what they may cost."""

    space: SearchSpace
    pricer: PlanPricer
    budget: Budget

    @classmethod
    def of(
        cls,
        architecture: Architecture,
        device: Chip | MeasuredDevice,
        accounting: DeviceAccounting,
        space: SearchSpace,
        budget: Budget,
        parameters: ParameterTable,
        densities: Densities | None = None,
    ) -> PricedSpace:
        """Price a space.

        Args:
            architecture: the model.
            device: a chip, or a measured machine.
            accounting: as in `trex.hardware.price`, of a chip.
            space: the plans.
            budget: what they must fit.
            parameters: of the model, for the space's forms.
            densities: of the original's inputs, as in `trex.hardware.price`.
        """
        pricer = PlanPricer(architecture, device, accounting, space.forms, parameters, densities)
        return cls(space=space, pricer=pricer, budget=budget)

    @property
    def baseline(self) -> VariantCosts:
        """What the original costs; one entry."""
        return self.pricer.baseline

    def with_budget(self, budget: Budget) -> PricedSpace:
        """The same with another budget."""
        return replace(self, budget=budget)

    def price(self, rows: Any) -> VariantCosts:
        """Costs of plans of the space, given as rows of choice numbers, (plans, encoders)."""
        rows = np.asarray(rows, dtype=np.intp)
        steps = [step for _, step in self.space.walk(rows)]

        def all_of(name: str) -> NDArray[Any]:
            return np.stack([getattr(step, name) for step in steps], axis=1)

        return self.pricer.price(
            PlanArrays(
                forms=all_of("forms"),
                sources=all_of("sources"),
                pairs=all_of("pairs"),
                class_rows=np.full(len(rows), self.space.dead_rows),
                shared=all_of("shared"),
                taken=all_of("taken"),
                own_class=all_of("own_class"),
            )
        )

    def fits(self, costs: VariantCosts) -> NDArray[np.bool_]:
        """Which plans are within every limit."""
        return self.budget.feasible(costs, self.baseline)

    def infeasible(self, nearest: Numbers) -> InfeasibleError:
        """The error that names the plan nearest to the budget, given as its row."""
        return self.budget.nothing_fits(
            str(self.space.plan(nearest)),
            self.price(nearest[None]),
            self.baseline,
            self.space.size,
        )
