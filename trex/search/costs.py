"""What plans cost in everything a budget can limit: on the chip, in parameters, in products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from trex.architecture import Architecture, Operation
from trex.hardware import Accounting, Chip, CostTable, Densities, Form, PlanCosts, encoder_work
from trex.reuse.sizes import ParameterTable
from trex.search.terms import Floats


@dataclass(frozen=True, kw_only=True, slots=True)
class VariantCosts(PlanCosts):
    """Costs of many plans, one entry a plan; `macs` are multiply-accumulates an image."""

    parameters: Floats
    macs: Floats

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
    """Prices plans of one model on one chip, given as rows of form numbers.

    Args:
        architecture: the model.
        chip: the chip.
        accounting: as in `trex.hardware.price`.
        forms: what consumers may be, beside producers.
        parameters: of the model, for the same forms.
        densities: as in `trex.hardware.price`.

    Attributes:
        by_form: (6, encoders, 1 + forms): energy without leakage (J), area (m²), leakage (W),
            latency (s), parameters, multiply-accumulates, of every encoder in every form.
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
        macs = np.array(
            [
                [sum(op.macs for op in encoder_work(encoder, *form).operations) for form in row]
                for encoder in architecture.encoders
                for row in [((None, "none"), *forms)]
            ],
            dtype=np.float64,
        )
        outside = sum(item.macs for item in architecture.body if isinstance(item, Operation))
        if parameters.by_form.shape != macs.shape:
            raise ValueError("parameters of another model, or of other forms")
        self.by_form = np.concatenate(
            [additive.by_form, parameters.by_form[None].astype(np.float64), macs[None]]
        )
        self.fixed = np.array([*additive.fixed, parameters.fixed, outside])
        self.whole_latency = additive.whole_latency
        self.baseline = self.price(np.zeros((1, len(macs)), dtype=np.intp))

    def price(self, forms: Any) -> VariantCosts:
        """Costs of plans given as an integer matrix, plans × encoders, of form numbers."""
        costs = self._table.price(forms)
        rows = np.asarray(forms, dtype=np.intp)
        encoders = np.arange(rows.shape[1])
        counts = [
            self.by_form[row][encoders, rows].sum(axis=1) + self.fixed[row]
            for row in (PARAMETERS, MACS)
        ]
        return VariantCosts(
            **{field.name: getattr(costs, field.name) for field in fields(PlanCosts)},
            parameters=counts[0],
            macs=counts[1],
        )
