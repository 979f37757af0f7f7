"""What plans cost in everything a budget can limit: on the chip, in parameters, in products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trex.architecture import Architecture
from trex.hardware import (
    Chip,
    CostTable,
    Densities,
    DeviceAccounting,
    MeasuredDevice,
    PlanArrays,
    PlanCosts,
    is_measured,
)
from trex.hardware.entries import rows_codes
from trex.plan import Form, Plan
from trex.reuse.sizes import ParameterTable
from trex.search.space import Steps
from trex.store.record import Estimate

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class VariantCosts(PlanCosts):
    """Costs of many plans, one entry a plan."""

    parameters: Floats

    def of(self, rows: Any) -> VariantCosts:
        """Some of the plans."""
        return VariantCosts(
            **{field.name: getattr(self, field.name)[rows] for field in fields(self)}
        )

    @property
    def overall(self) -> Floats:
        """What stands for all costs: EDAP (J·s·m²), or latency (s) on a measured machine."""
        return np.where(np.isnan(self.energy_j), self.latency_s, self.edap_j_s_m2)

    def estimate(
        self, row: int, device: Chip | MeasuredDevice, accounting: DeviceAccounting
    ) -> Estimate:
        """One plan's costs, for records; None where nobody measured them."""
        known = not isinstance(device, MeasuredDevice)
        spread = {"spread": device.spread} if isinstance(device, MeasuredDevice) else {}
        return Estimate(
            chip=device.name,
            accounting=accounting,
            basis=device.basis,
            latency_s=float(self.latency_s[row]),
            energy_j=float(self.energy_j[row]) if known else None,
            area_m2=float(self.area_m2[row]) if known else None,
            edap_mj_ms_mm2=float(self.edap_mj_ms_mm2[row]) if known else None,
            **spread,
            parameters=int(self.parameters[row]),
            macs=int(self.macs[row]),
        )


#: What adds up over a plan's encoders: the rows of `PlanPricer.encoder`.
ENERGY, AREA, LEAKAGE, LATENCY, MACS, PARAMETERS = range(6)


class PlanPricer:
    """Prices plans of one model on one device.

    Args:
        architecture: the model.
        device: a chip, or a measured machine.
        accounting: as in `trex.hardware.price`, of a chip.
        forms: what consumers may be, beside producers.
        parameters: of the model, for the same forms.
        densities: as in `trex.hardware.price`.

    Attributes:
        overall: which cost stands for all, as a budget calls it.
        whole_latency: whether what `encoder` and `outside` say of the latency is all of it; else
            it is a lower bound.
        baseline: what the original costs; one entry.
    """

    def __init__(
        self,
        architecture: Architecture,
        device: Chip | MeasuredDevice,
        accounting: DeviceAccounting,
        forms: Sequence[Form],
        parameters: ParameterTable,
        densities: Densities | None = None,
    ) -> None:
        if parameters.by_form.shape != (len(architecture.encoders), 1 + len(forms)):
            raise ValueError("parameters of another model, or of other forms")
        self._table = CostTable(architecture, device, accounting, forms, densities=densities)
        self._parameters = parameters
        self.overall: Literal["edap", "latency"] = "latency" if is_measured(device) else "edap"
        self.whole_latency = self._table.whole_latency
        self.baseline = self.price_plans([Plan()])

    def encoder(self, encoder: int, steps: Steps) -> Floats:
        """What an encoder costs in plans that do this there: (6, plans).

        Energy without leakage (J), area (m²), leakage (W), latency (s), multiply-accumulates,
        parameters; a plan's energy is the first's sum plus leakage × latency. What a measured
        machine does not tell counts as 0: no limit is set on it, and sums stay numbers.
        """
        costs = self._table.encoder(
            encoder,
            steps.forms,
            steps.gone,
            steps.pairs,
            steps.since,
            rows_codes(steps.shared, steps.taken, steps.own_class),
            steps.only_class,
        )
        counts = self._counts(np.full(len(steps.forms), encoder), steps.forms, steps.own_class)
        return np.concatenate([self._limited(costs), counts[None]])

    def outside(self, left: Any) -> Floats:
        """The same of everything outside the encoders, by the tokens behind the last."""
        costs = self._limited(self._table.outside(left))
        return np.concatenate([costs, np.full((1, len(left)), float(self._parameters.fixed))])

    def price(self, plans: PlanArrays) -> VariantCosts:
        """Costs of plans.

        Raises:
            ValueError: as `CostTable.price_plans`; consumers have class rows of their own, whose
                parameters are not known.
        """
        costs = self._table.price_plans(plans)
        encoders = np.arange(plans.forms.shape[1])
        own = np.zeros_like(plans.forms) if plans.own_class is None else plans.own_class
        counts = self._counts(encoders, plans.forms, own).sum(axis=1) + self._parameters.fixed
        return VariantCosts(
            **{field.name: getattr(costs, field.name) for field in fields(PlanCosts)},
            parameters=counts,
        )

    def price_plans(self, plans: Sequence[Plan]) -> VariantCosts:
        """The same of plans by themselves.

        Raises:
            PlanError: the model cannot run one, or it has another form.
            ValueError: as `price`.
        """
        return self.price(self._table.arrays_of(plans))

    def _limited(self, costs: Floats) -> Floats:
        if self.overall == "latency":
            costs = costs.copy()
            costs[[ENERGY, AREA, LEAKAGE]] = 0.0
        return costs

    def _counts(self, encoders: Any, forms: Any, own_class: Any) -> Floats:
        """Parameters. Merging and shared rows leave every one where it is."""
        counts: Floats = self._parameters.by_form[encoders, forms].astype(np.float64)
        if np.any(own_class):
            if self._parameters.own_class is None:
                raise ValueError("the parameters of own class rows were not counted")
            counts += self._parameters.own_class[encoders, forms] * own_class
        return counts
