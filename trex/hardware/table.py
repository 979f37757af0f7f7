"""Costs of many plans at once, from one small table of what each encoder costs in each form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trex.architecture import Architecture, Operation
from trex.errors import ChipError, PlanError
from trex.hardware.chip import Chip, Schedule
from trex.hardware.prices import SHARED_RESOURCES, Accounting, Densities, OperationPrice
from trex.hardware.schedule import exposed_times, flow
from trex.hardware.system import Pricer, most_heads, streams_on
from trex.hardware.workload import AS_IT_IS, EncoderWork, encoder_work
from trex.plan import EncoderPlan, Form, Plan, Reuse
from trex.units import EDAP_MJ_MS_MM2

Floats = NDArray[np.float64]

#: Plans priced in one go: few enough that their columns stay in the processor's cache.
_CHUNK: Final = 1 << 13


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanCosts:
    """Costs of many plans, one entry a plan."""

    latency_s: Floats
    energy_j: Floats
    area_m2: Floats
    interval_s: Floats

    @property
    def edap_j_s_m2(self) -> Floats:
        """Energy × latency × area."""
        return self.energy_j * self.latency_s * self.area_m2

    @property
    def edap_mj_ms_mm2(self) -> Floats:
        """The same in the TReX paper's unit."""
        return self.edap_j_s_m2 * EDAP_MJ_MS_MM2


@dataclass(frozen=True, kw_only=True, slots=True)
class AdditiveCosts:
    """What adds up over a plan's encoders, for those who look for plans by their cost.

    Rows are energy without leakage (J), area (m²), leakage (W) and latency (s). A plan's energy is
    its first row's sum plus leakage × latency.

    Attributes:
        by_form: (4, encoders, 1 + forms).
        fixed: (4,), outside the encoders and shared by them.
        whole_latency: whether the latency is all there; pipelines add the time of their chains.
    """

    by_form: Floats
    fixed: Floats
    whole_latency: bool


class CostTable:
    """Prices plans of one model on one chip by adding up encoders.

    Args:
        architecture: the model.
        chip: the chip.
        accounting: as in `price`.
        forms: the (tensor, transform) pairs a consumer may take; form k + 1 of a plan's row is
            `forms[k]`, form 0 a producer.
        schedule: as in `price`.
        densities: as in `price`.

    Which producer a consumer reuses does not change what it costs, so a plan is one row of form
    numbers, one for each encoder.

    Raises:
        ChipError: as `price`.
    """

    def __init__(
        self,
        architecture: Architecture,
        chip: Chip,
        accounting: Accounting = "paper",
        forms: Sequence[Form] = (("output", "none"),),
        *,
        schedule: Schedule | None = None,
        densities: Densities | None = None,
    ) -> None:
        if not architecture.encoders:
            raise ChipError(
                f"{architecture.model} has no encoders, so there are no plans to price",
                hint="price the model itself",
            )
        self.architecture = architecture
        self.accounting = accounting
        self.forms = tuple(forms)
        self._pricer = Pricer.of(chip, accounting, schedule, densities)
        self._schedule = self._pricer.options.schedule
        self._build()

    def forms_of(self, plan: Plan) -> list[int]:
        """A plan as a row of form numbers.

        Raises:
            PlanError: the plan does not fit the model or uses a form that is not in the table.
        """
        plan.validate(self.architecture.layout)
        row = [0] * len(self.architecture.encoders)
        for reuse in plan.reuses:
            if reuse.form not in self.forms:
                raise PlanError(
                    f"encoder {reuse.consumer} uses the form {reuse.form}",
                    hint=f"the table was built for {list(self.forms)}",
                )
            row[reuse.consumer] = self.forms.index(reuse.form) + 1
        return row

    def price(self, forms: Any) -> PlanCosts:
        """Costs of plans given as an integer matrix, plans × encoders, of form numbers.

        Raises:
            ValueError: the matrix has another width, or holds a number that is no form.
        """
        index = np.asarray(forms, dtype=np.intp)
        if index.ndim != 2 or index.shape[1] != len(self.architecture.encoders):
            raise ValueError(
                f"plans × {len(self.architecture.encoders)} expected, {index.shape} given"
            )
        if index.size and (index.min() < 0 or index.max() > len(self.forms)):
            raise ValueError(f"form numbers run from 0 to {len(self.forms)}")
        parts = [self._price(index[i : i + _CHUNK]) for i in range(0, max(len(index), 1), _CHUNK)]
        return PlanCosts(
            **{
                field.name: np.concatenate([getattr(part, field.name) for part in parts])
                for field in fields(PlanCosts)
            }
        )

    def additive(self) -> AdditiveCosts:
        """The tables that `price` adds up."""
        return AdditiveCosts(
            by_form=self._additive.copy(),
            fixed=self._fixed.copy(),
            whole_latency=self._schedule != "pipelined",
        )

    def _price(self, index: NDArray[np.intp]) -> PlanCosts:
        # Encoders × plans: one encoder's forms in all plans lie side by side.
        forms = np.ascontiguousarray(index.T)
        energy_j, area_m2, leakage_w, additive_s = (
            _gather_sum(self._additive, forms) + self._fixed[:, None]
        )
        if self._schedule == "pipelined":
            latency_s, interval_s = self._pipelined(forms, additive_s)
        else:
            latency_s = interval_s = additive_s
        return PlanCosts(
            latency_s=latency_s,
            energy_j=energy_j + leakage_w * latency_s,
            area_m2=area_m2,
            interval_s=interval_s,
        )

    def _build(self) -> None:
        pricer, arch = self._pricer, self.architecture
        outside = [pricer.outside(item) for item in arch.body if isinstance(item, Operation)]
        works = [
            encoder_work(encoder, here)
            for encoder in arch.encoders
            for here in (
                AS_IT_IS,
                *(EncoderPlan(Reuse(encoder.index, 0, *form), 0, None) for form in self.forms),
            )
        ]
        priced = [pricer.encoder(work) for work in works]
        self._additive = self._by_form([self._additive_row(prices) for prices in priced])
        leakage = pricer.chip.periphery.leakage_w_per_m2
        shared = sum(area for _, area in pricer.shared_area_m2(most_heads(iter(arch.operations))))
        fixed = np.sum([self._additive_row(p) for p in outside], axis=0) if outside else 0.0
        self._fixed = fixed + np.array([0.0, shared, shared * leakage, 0.0])
        if self._schedule == "pipelined":
            self._build_flows(priced, outside)

    def _additive_row(self, prices: Sequence[OperationPrice]) -> list[float]:
        """Energy, area, leakage power, and the part of the latency that adds up."""
        options = self._pricer.options
        doubled = options.double_buffered_writes
        if self._schedule == "pipelined":
            parts = flow(prices, double_buffered=doubled)
            seconds = parts.before.fill_s + parts.after.fill_s + parts.within_s
        else:
            times = exposed_times(prices, self._schedule, double_buffered=doubled)
            seconds = sum(s for time in times for _, s in time)
        return [
            sum(joules for p in prices for _, joules in p.energy_j),
            sum(area for p in prices for _, area in p.area_m2),
            sum(p.leakage_w for p in prices),
            seconds,
        ]

    def _build_flows(
        self, priced: list[tuple[OperationPrice, ...]], outside: list[tuple[OperationPrice, ...]]
    ) -> None:
        doubled = self._pricer.options.double_buffered_writes
        flows = [flow(prices, double_buffered=doubled) for prices in priced]
        self._before = self._by_form([(f.before.own_s, *f.before.shared_s) for f in flows])
        self._after = self._by_form([(f.after.own_s, *f.after.shared_s) for f in flows])
        self._barrier = self._by_form([(float(f.barrier),) for f in flows])
        self._occupied = self._by_form([(f.occupied_s,) for f in flows])
        self._shared = self._by_form([f.shared_s for f in flows])
        around = [flow(prices, double_buffered=doubled) for prices in outside]
        # An operation outside the encoders is a chain of its own.
        self._fixed[3] += sum(
            max(s.own_s, *s.shared_s) for f in around for s in (f.before, f.after)
        )
        self._outside_occupied = max((f.occupied_s for f in around), default=0.0)
        self._outside_shared = np.array(
            [sum(f.shared_s[i] for f in around) for i in range(len(SHARED_RESOURCES))]
        )
        body: list[Operation | EncoderWork | None] = [
            item if isinstance(item, Operation) else encoder_work(item)
            for item in self.architecture.body
        ]
        self._joins = [
            streams_on(earlier, item)
            for earlier, item in zip([None, *body], body, strict=False)
            if isinstance(item, EncoderWork)
        ]

    def _by_form(self, rows: Sequence[Sequence[float]]) -> Floats:
        """One row of numbers for each encoder and form as (numbers, encoders, 1 + forms)."""
        encoders = len(self.architecture.encoders)
        table = np.array(rows).T.reshape(len(rows[0]), encoders, -1)
        contiguous: Floats = np.ascontiguousarray(table)
        return contiguous

    def _pipelined(self, forms: NDArray[np.intp], additive_s: Floats) -> tuple[Floats, Floats]:
        """Latency and interval: chains put together encoder by encoder, for all plans at once."""
        latency_s = additive_s.copy()
        # The open chain's pace: at the slowest of its own arrays, then at each shared resource.
        pace = np.zeros((1 + len(SHARED_RESOURCES), forms.shape[1]))
        busiest = np.full(forms.shape[1], self._outside_occupied)
        for encoder, joined in enumerate(self._joins):
            at = forms[encoder]
            if not joined:
                latency_s += pace.max(axis=0)
                pace[:] = 0.0
            before = self._before[:, encoder].take(at, axis=1)
            np.maximum(pace[0], before[0], out=pace[0])
            pace[1:] += before[1:]
            barrier = self._barrier[0, encoder].take(at)
            latency_s += barrier * pace.max(axis=0)
            # A barrier ends the chain; nothing comes after one that is not there.
            pace *= 1 - barrier
            pace += self._after[:, encoder].take(at, axis=1)
            np.maximum(busiest, self._occupied[0, encoder].take(at), out=busiest)
        latency_s += pace.max(axis=0)
        shared_s = _gather_sum(self._shared, forms) + self._outside_shared[:, None]
        return latency_s, np.maximum(busiest, shared_s.max(axis=0))


def _gather_sum(table: Floats, forms: NDArray[np.intp]) -> Floats:
    """Sum over encoders of (numbers, encoders, forms) at each plan's forms: numbers × plans."""
    sums = np.zeros((len(table), forms.shape[1]))
    for encoder, at in enumerate(forms):
        sums += table[:, encoder].take(at, axis=1)
    return sums
