"""Costs of many plans at once, looked up in a table of what encoders cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trex.architecture import Architecture, Operation
from trex.errors import ChipError, PlanError
from trex.hardware.chip import Chip, Schedule
from trex.hardware.entries import (
    AFTER,
    AREA,
    BARRIER,
    BEFORE,
    ENERGY,
    LATENCY,
    LEAKAGE,
    MACS,
    OCCUPIED,
    SHARED,
    SUMS,
    Entries,
    Floats,
    Whole,
    rows_codes,
)
from trex.hardware.measured import MeasuredDevice
from trex.hardware.prices import Densities, DeviceAccounting
from trex.hardware.system import pricer_of, streams_on
from trex.hardware.workload import EncoderWork, encoder_work
from trex.plan import Form, Plan
from trex.units import EDAP_MJ_MS_MM2

#: Plans priced in one go: few enough that their columns stay in the processor's cache.
_CHUNK: Final = 1 << 13
#: Rows of what adds up over encoders, in order.
_ADDITIVE: Final = [ENERGY, AREA, LEAKAGE, LATENCY, MACS]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanCosts:
    """Costs of many plans, one entry a plan.

    `macs` are multiply-accumulates an image of the whole model, whatever the accounting.
    """

    latency_s: Floats
    energy_j: Floats
    area_m2: Floats
    interval_s: Floats
    macs: Floats

    @property
    def edap_j_s_m2(self) -> Floats:
        """Energy × latency × area."""
        return self.energy_j * self.latency_s * self.area_m2

    @property
    def edap_mj_ms_mm2(self) -> Floats:
        """The same in the TReX paper's unit."""
        return self.edap_j_s_m2 * EDAP_MJ_MS_MM2


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanArrays:
    """Plans as whole numbers of any width, (plans, encoders) each but for `class_rows`.

    What a model cannot run must not be in them; too many pairs, and rows, are found out. The last
    three are None where no plan has such rows.

    Attributes:
        forms: as a table numbers them; 0 for producers.
        sources: of consumers; a producer's is itself.
        pairs: of tokens that merge.
        class_rows: (plans,), whether the last encoder computes class rows only.
        shared: rows that an encoder's tokens share; 0 where each has its own.
        taken: whether it takes the groups of an encoder before it.
        own_class: whether class rows of a consumer of maps are its own.
    """

    forms: NDArray[Any]
    sources: NDArray[Any]
    pairs: NDArray[Any]
    class_rows: NDArray[Any]
    shared: NDArray[Any] | None = None
    taken: NDArray[Any] | None = None
    own_class: NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.forms)

    def some(self, rows: slice) -> PlanArrays:
        """Some of the plans."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        some: dict[str, Any] = {
            name: None if whole is None else whole[rows] for name, whole in given.items()
        }
        return PlanArrays(**some)

    def rows_codes(self) -> NDArray[np.intp] | None:
        """(encoders, plans): by `trex.hardware.entries.rows_codes`; None where nothing is said."""
        codes = [
            np.zeros((1, 1), dtype=np.intp)
            if whole is None
            else np.ascontiguousarray(whole.T, dtype=np.intp)
            for whole in (self.shared, self.taken, self.own_class)
        ]
        whole: NDArray[np.intp] = rows_codes(*codes)
        return None if whole.shape == (1, 1) and not whole.any() else whole


class CostTable:
    """Prices plans of one model on one device by adding up encoders.

    What an encoder costs depends on its form, on the tokens that enter it and its MLP, on its
    rows and whether it matches its tokens for them, and, for a consumer, on the tokens in its
    source's attention; which source it is does not matter. Each such situation is priced once,
    when the first plan puts an encoder in it.

    Args:
        architecture: the model.
        chip: the chip; or a measured machine, whose energy and area are NaN.
        accounting: as in `price`; of a chip.
        forms: the (tensor, transform) pairs a consumer may take; form k + 1 of a plan's row is
            `forms[k]`, form 0 a producer.
        schedule: as in `price`.
        densities: as in `price`.

    Raises:
        ChipError: as `price`.
    """

    def __init__(
        self,
        architecture: Architecture,
        chip: Chip | MeasuredDevice,
        accounting: DeviceAccounting = "paper",
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
        if isinstance(chip, MeasuredDevice):
            chip.check(architecture)
        pricer = pricer_of(chip, accounting, schedule, densities, architecture)
        self._pipelined = pricer.options.schedule == "pipelined"
        self._leaks_over_interval = pricer.leaks_over_interval
        self._entries = Entries(architecture, pricer, self.forms)
        self._joins = _joins(architecture)

    def arrays_of(self, plans: Sequence[Plan]) -> PlanArrays:
        """Plans as `price_plans` takes them.

        Raises:
            PlanError: the model cannot run one, or it has a form that is not in the table.
        """
        shape = len(plans), len(self.architecture.encoders)
        numbers = {form: number for number, form in enumerate(self.forms, start=1)}
        forms, pairs, shared = (np.zeros(shape, dtype=np.intp) for _ in range(3))
        taken, own_class = np.zeros(shape, dtype=np.bool_), np.zeros(shape, dtype=np.bool_)
        class_rows = np.zeros(len(plans), dtype=np.bool_)
        sources = np.tile(np.arange(shape[1]), (shape[0], 1))
        for row, plan in enumerate(plans):
            plan.validate(self.architecture.layout)
            for reuse in plan.reuses:
                if reuse.form not in numbers:
                    raise PlanError(
                        f"encoder {reuse.consumer} uses the form {reuse.form}",
                        hint=f"the table was built for {list(self.forms)}",
                    )
                forms[row, reuse.consumer] = numbers[reuse.form]
                sources[row, reuse.consumer] = reuse.source
            for merge in plan.merges:
                pairs[row, merge.encoder] = merge.pairs
            for at, here in ((rows.encoder, plan.at(rows.encoder)) for rows in plan.rows):
                class_rows[row] |= here.only_class
                own_class[row, at] = here.own_class
                shared[row, at] = here.shared
                taken[row, at] = here.groups_of is not None
        return PlanArrays(
            forms=forms,
            sources=sources,
            pairs=pairs,
            class_rows=class_rows,
            shared=shared if shared.any() else None,
            taken=taken if taken.any() else None,
            own_class=own_class if own_class.any() else None,
        )

    def price(self, forms: Any) -> PlanCosts:
        """Costs of plans that only reuse, as an integer matrix, plans × encoders, of form numbers.

        Raises:
            ValueError: the matrix has another width, or holds a number that is no form.
        """
        index = self._checked(np.asarray(forms), len(self.forms), "form numbers")
        entries = self._entries
        outside = entries.outside(np.array([self.architecture.layout.tokens]))

        def located(rows: slice) -> Whole:
            # Encoders × plans: one encoder's entries in all plans lie side by side.
            some = np.ascontiguousarray(index[rows].T, dtype=np.intp)
            found = [of.take(at) for of, at in zip(entries.plain, some, strict=True)]
            return np.stack([*found, np.broadcast_to(outside, some.shape[1])])

        return self._priced(len(index), located)

    def price_plans(self, plans: PlanArrays) -> PlanCosts:
        """Costs of plans.

        Raises:
            ValueError: an array has another shape, or a number means nothing.
            PlanError: an encoder cannot merge so many pairs, or share so many rows.
        """
        layout, encoders = self.architecture.layout, len(self.architecture.encoders)
        self._checked(plans.forms, len(self.forms), "form numbers")
        self._checked(plans.pairs, self._entries.most_pairs, "pairs")
        self._checked(plans.sources, encoders - 1, "sources")
        for given, most, name in (
            (plans.shared, self._entries.most_rows, "shared rows"),
            (plans.taken, 1, "groups that are taken"),
            (plans.own_class, 1, "own class rows"),
        ):
            if given is not None:
                self._checked(given, most, name)
        if plans.class_rows.any() and (layout.no_class_rows or not layout.class_rows):
            raise ValueError(f"no class rows alone: {layout.no_class_rows or 'none are read'}")
        return self._priced(len(plans), lambda rows: self._located(plans.some(rows)))

    def encoder(
        self,
        encoder: int,
        forms: NDArray[Any],
        gone: NDArray[Any],
        pairs: NDArray[Any],
        since: NDArray[Any],
        rows: NDArray[Any],
        only_class: bool = False,
    ) -> Floats:
        """What one encoder costs in several situations, of what adds up: (5, situations).

        Energy without leakage (J), area (m²), leakage (W), latency (s) and multiply-accumulates. A
        plan's energy is its first row's sum plus leakage × latency; pipelines add the time of
        their chains to the latency. Where a pipeline leaks over its interval, leakage is 0 here
        and the energy a lower bound.

        Args:
            encoder: its index.
            forms: their numbers; 0 for producers.
            gone: tokens merged before it.
            pairs: that it merges.
            since: of a consumer, tokens merged since its source's attention.
            rows: by `trex.hardware.entries.rows_codes`.
            only_class: whether it computes class rows only.
        """
        entries = self._entries
        at = np.full_like(pairs, entries.most_pairs + 1) if only_class else pairs
        found = entries.find(encoder, forms, gone, at)
        if rows.any():
            found = entries.with_rows(encoder, found, rows)
        moved = np.flatnonzero((since > 0) & (forms > 0))
        if len(moved):
            found[moved] = entries.moved(encoder, found[moved], since[moved])
        return self._additive(found)

    def outside(self, left: NDArray[Any]) -> Floats:
        """The same of everything outside the encoders, by the tokens behind the last: (5, n)."""
        return self._additive(self._entries.outside(left))

    def _additive(self, found: Whole) -> Floats:
        costs: Floats = self._entries.values[:, found][_ADDITIVE]
        if self._leaks_over_interval:  # no sum knows the interval: energies are lower bounds
            costs[_ADDITIVE.index(LEAKAGE)] = 0.0
        return costs

    @property
    def whole_latency(self) -> bool:
        """Whether the latency adds up; else what adds up is a lower bound."""
        return not self._pipelined

    def _checked(self, numbers: NDArray[Any], most: int, name: str) -> NDArray[Any]:
        encoders = len(self.architecture.encoders)
        if numbers.ndim != 2 or numbers.shape[1] != encoders:
            raise ValueError(f"plans × {encoders} expected, {numbers.shape} given")
        if numbers.size and (numbers.min() < 0 or numbers.max() > most):
            raise ValueError(f"{name} run from 0 to {most}")
        return numbers

    def _located(self, plans: PlanArrays) -> Whole:
        """(1 + encoders, plans): every encoder's entry, and that of everything outside."""
        entries, layout = self._entries, self.architecture.layout
        forms, sources, pairs = (
            np.ascontiguousarray(numbers.T, dtype=np.intp)
            for numbers in (plans.forms, plans.sources, plans.pairs)
        )
        codes = plans.rows_codes()
        last, class_rows = len(forms) - 1, plans.class_rows.astype(np.bool_)
        found = np.empty((len(forms) + 1, len(plans)), dtype=np.intp)
        gone = np.zeros((len(forms) + 1, len(plans)), dtype=np.intp)
        places = np.arange(len(plans))
        for encoder, merged in enumerate(pairs):
            np.add(gone[encoder], merged, out=gone[encoder + 1])
            at = (
                np.where(class_rows, entries.most_pairs + 1, merged) if encoder == last else merged
            )
            found[encoder] = entries.find(encoder, forms[encoder], gone[encoder], at)
            if codes is not None and codes[encoder].any():
                found[encoder] = entries.with_rows(encoder, found[encoder], codes[encoder])
            if forms[encoder].any():
                since = gone[encoder] - gone.take(sources[encoder] * len(plans) + places)
                moved = np.flatnonzero((since > 0) & (forms[encoder] > 0))
                found[encoder, moved] = entries.moved(encoder, found[encoder, moved], since[moved])
        left = np.where(class_rows, layout.class_rows, layout.tokens - gone[-1])
        found[-1] = entries.outside(left if layout.class_rows else left * 0 + layout.tokens)
        return found

    def _priced(self, plans: int, located: Callable[[slice], Whole]) -> PlanCosts:
        parts = [
            self._costs(located(slice(start, start + _CHUNK)))
            for start in range(0, max(plans, 1), _CHUNK)
        ]
        return PlanCosts(
            **{
                field.name: np.concatenate([getattr(part, field.name) for part in parts])
                for field in fields(PlanCosts)
            }
        )

    def _costs(self, found: Whole) -> PlanCosts:
        values = self._entries.values
        sums = np.zeros((SUMS if self._pipelined else SHARED.start, found.shape[1]))
        for at in found:
            sums += values[: len(sums)].take(at, axis=1)
        latency_s = interval_s = sums[LATENCY]
        if self._pipelined:
            latency_s = latency_s + self._chains(found)
            busiest = values[OCCUPIED].take(found).max(axis=0)
            interval_s = np.maximum(busiest, sums[SHARED].max(axis=0))
        leaking_s = interval_s if self._leaks_over_interval else latency_s
        return PlanCosts(
            latency_s=latency_s,
            energy_j=sums[ENERGY] + sums[LEAKAGE] * leaking_s,
            area_m2=sums[AREA],
            interval_s=interval_s,
            macs=sums[MACS],
        )

    def _chains(self, found: Whole) -> Floats:
        """The time of a pipeline's chains, put together encoder by encoder."""
        values = self._entries.values
        seconds = np.zeros(found.shape[1])
        # The open chain's pace: at the slowest of its own arrays, then at each shared resource.
        pace = np.zeros((AFTER.stop - AFTER.start, found.shape[1]))
        for at, joined in zip(found, self._joins, strict=False):
            if not joined:
                seconds += pace.max(axis=0)
                pace[:] = 0.0
            before = values[BEFORE].take(at, axis=1)
            np.maximum(pace[0], before[0], out=pace[0])
            pace[1:] += before[1:]
            barrier = values[BARRIER].take(at)
            seconds += barrier * pace.max(axis=0)
            # A barrier ends the chain; nothing comes after one that is not there.
            pace *= 1 - barrier
            pace += values[AFTER].take(at, axis=1)
        whole: Floats = seconds + pace.max(axis=0)
        return whole


def _joins(architecture: Architecture) -> list[bool]:
    """For every encoder, whether vectors stream on into it from the encoder before it.

    Merging does not change that: as many tokens enter an encoder as leave the one before it.
    """
    body: list[Operation | EncoderWork | None] = [
        item if isinstance(item, Operation) else encoder_work(item) for item in architecture.body
    ]
    return [
        streams_on(earlier, item)
        for earlier, item in zip([None, *body], body, strict=False)
        if isinstance(item, EncoderWork)
    ]
