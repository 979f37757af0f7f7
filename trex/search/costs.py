"""What plans cost in everything a budget can limit: on the chip, in parameters, in products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from trex.architecture import Architecture
from trex.hardware import Accounting, Chip, CostTable, Densities, PlanCosts
from trex.plan import Form, Plan
from trex.reuse.sizes import ParameterTable
from trex.search.terms import Floats


@dataclass(frozen=True, kw_only=True, slots=True)
class VariantCosts(PlanCosts):
    """Costs of many plans, one entry a plan."""

    parameters: Floats

    def of(self, rows: Any) -> VariantCosts:
        """Some of the plans."""
        return VariantCosts(
            **{field.name: getattr(self, field.name)[rows] for field in fields(self)}
        )

    def estimate(self, row: int, chip: Chip, accounting: Accounting) -> dict[str, Any]:
        """One plan's costs as plain values, for records."""
        return {
            "chip": chip.name,
            "accounting": accounting,
            "latency_s": float(self.latency_s[row]),
            "energy_j": float(self.energy_j[row]),
            "area_m2": float(self.area_m2[row]),
            "edap_mj_ms_mm2": float(self.edap_mj_ms_mm2[row]),
            "parameters": int(self.parameters[row]),
            "macs": int(self.macs[row]),
        }


#: What adds up over a plan's encoders: the rows of `PlanPricer.by_form`.
ENERGY, AREA, LEAKAGE, LATENCY, PARAMETERS, MACS = range(6)


class PlanPricer:
    """Prices plans of one model on one chip.

    Args:
        architecture: the model.
        chip: the chip.
        accounting: as in `trex.hardware.price`.
        forms: what consumers may be, beside producers.
        parameters: of the model, for the same forms.
        densities: as in `trex.hardware.price`.

    Attributes:
        by_form: (6, encoders, 1 + forms): energy without leakage (J), area (m²), leakage (W),
            latency (s), parameters, multiply-accumulates, of every encoder in every form at the
            original's tokens.
        fixed: (6,), the same outside the encoders.
        whole_latency: whether the latency adds up; else its row is a lower bound.
        baseline: what the original costs; one entry.
    """

    def __init__(
        self,
        architecture: Architecture,
        chip: Chip,
        accounting: Accounting,
        forms: Sequence[Form],
        parameters: ParameterTable,
        densities: Densities | None = None,
    ) -> None:
        self._table = CostTable(architecture, chip, accounting, forms, densities=densities)
        additive = self._table.additive()
        if parameters.by_form.shape != additive.macs.shape:
            raise ValueError("parameters of another model, or of other forms")
        counts = np.stack([parameters.by_form.astype(np.float64), additive.macs])
        self.by_form = np.concatenate([additive.by_form, counts])
        self.fixed = np.array([*additive.fixed, parameters.fixed, additive.fixed_macs])
        self._own_class = parameters.own_class
        self.whole_latency = additive.whole_latency
        self.baseline = self.price_plans([Plan()])

    def price(self, forms: Any) -> VariantCosts:
        """Costs of plans that only reuse, as an integer matrix, plans × encoders, of form numbers.

        Raises:
            ValueError: the matrix has another width, or holds a number that is no form.
        """
        return self._with_parameters(self._table.price(forms), np.asarray(forms, dtype=np.intp))

    def price_plans(self, plans: Sequence[Plan]) -> VariantCosts:
        """Costs of any plans.

        Raises:
            PlanError: the model cannot run one, or it has another form.
            ValueError: consumers have class rows of their own, whose parameters are not known.
        """
        arrays = self._table.arrays_of(plans)
        costs = self._table.price_plans(arrays)
        return self._with_parameters(costs, arrays.forms, arrays.own_class)

    def _with_parameters(
        self, costs: PlanCosts, forms: Any, own_class: Any = None
    ) -> VariantCosts:
        """Merging and other rows leave every parameter where it is.

        A consumer's form decides, and whether it has class rows of its own.
        """
        encoders = np.arange(forms.shape[1])
        counts = self.by_form[PARAMETERS][encoders, forms].sum(axis=1) + self.fixed[PARAMETERS]
        if own_class is not None:
            if self._own_class is None:
                raise ValueError("the parameters of own class rows were not counted")
            counts = counts + (self._own_class[encoders, forms] * own_class).sum(axis=1)
        return VariantCosts(
            **{field.name: getattr(costs, field.name) for field in fields(PlanCosts)},
            parameters=counts,
        )
