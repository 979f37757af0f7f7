"""Branch and bound over the choices of given sets of consumers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trex.search.feasible import PricedSpace
from trex.search.pool import Pool
from trex.search.relaxation import Box, Limits
from trex.search.terms import Floats, LossTerms, Rows

#: Partial plans held in memory at once.
_FRONTIER: Final = 1 << 14
#: Partial plans kept at each step where good plans are wanted fast, not the best.
BEAM: Final = 1 << 11

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What one encoder may choose; it may where `sets & test == want`.

    Attributes:
        numbers: (options,), choice numbers.
        sources: (options,), encoders.
        forms: (options,), form numbers.
        single: (options,), losses.
        test: (options,), bits of the encoders that decide.
        want: (options,), what they must be.
    """

    numbers: Rows
    sources: Rows
    forms: Rows
    single: Floats
    test: Ints
    want: Ints

    def open_to(self, sets: Ints) -> NDArray[np.bool_]:
        """(sets, options): which options exist in which sets of consumers."""
        found: NDArray[np.bool_] = (sets[:, None] & self.test) == self.want
        return found


class Members:
    """The encoders that may reuse, with their options: the bits of a set of consumers.

    Args:
        priced: the space and its costs.
        terms: of the predicted loss.
        forms: numbers of the forms, from 1, that plans may use.

    Attributes:
        encoders: their indices, bit by bit.
        options: of each.
        base: (6,), what the original costs, as sums.
        extra: of each, (6, options): what an option costs more than a producer.
        least_extra: of each, (6,): the least of every row of `extra`.
    """

    def __init__(self, priced: PricedSpace, terms: LossTerms, forms: list[int]) -> None:
        self._priced = priced
        self.encoders = [i for i, may in enumerate(priced.space.may_reuse) if may]
        self.options = [self._options_of(encoder, terms, forms) for encoder in self.encoders]
        costs = priced.pricer.by_form
        self.base = priced.pricer.fixed + costs[:, :, 0].sum(axis=1)
        self.extra = [
            costs[:, encoder, options.forms] - costs[:, encoder, :1]
            for encoder, options in zip(self.encoders, self.options, strict=True)
        ]
        self.least_extra = [extra.min(axis=1) for extra in self.extra]

    def __len__(self) -> int:
        return len(self.encoders)

    def box(self) -> Box:
        """Between which values the sums of all plans lie."""
        least = [np.minimum(extra, 0.0) for extra in self.least_extra]
        most = [np.maximum(extra.max(axis=1), 0.0) for extra in self.extra]
        low, high = (self.base + np.sum(changes, axis=0) for changes in (least, most))
        return Box(low=low, high=high)

    def values(self, bit: int, prices: Floats) -> Floats:
        """(options,): own losses plus prices (6,) times extra costs."""
        values: Floats = self.options[bit].single + prices @ self.extra[bit]
        return values

    def penalty(self, prices: Floats, fixed: float) -> Penalty:
        """Every option's values at some prices, and what all plans pay."""
        values = [self.values(bit, prices) for bit in range(len(self))]
        return Penalty(values=values, fixed=fixed)

    def _options_of(self, encoder: int, terms: LossTerms, forms: list[int]) -> Options:
        space, choices = self._priced.space, self._priced.choices
        bits = {e: 1 << b for b, e in enumerate(self.encoders)}
        found = []
        for number, form in enumerate(choices.form_numbers()[encoder]):
            if form not in forms:
                continue
            source = int(choices.sources()[encoder, number])
            want = test = 0
            if space.source == "nearest":
                between = range(source + 1, encoder)
                if any(e not in bits for e in between):
                    continue
                want = sum(bits[e] for e in between)
            test = want | bits.get(source, 0)
            found.append((number, source, form, terms.single[encoder, number], test, want))
        columns = list(zip(*found, strict=True))
        return Options(
            numbers=np.array(columns[0], dtype=np.intp),
            sources=np.array(columns[1], dtype=np.intp),
            forms=np.array(columns[2], dtype=np.intp),
            single=np.array(columns[3]),
            test=np.array(columns[4], dtype=np.int64),
            want=np.array(columns[5], dtype=np.int64),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Penalty:
    """Multipliers' effect: values of every encoder's options, and what all plans pay."""

    values: list[Floats]
    fixed: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Frontier:
    """Partial plans: choices are made for the lower bits; the others are taken at their best.

    Attributes:
        sets: (plans,), the consumers.
        picks: (plans, encoders that may reuse), choice numbers.
        bounds: (penalties, plans), on the loss.
        sums: (6, plans), least costs.
    """

    sets: Ints
    picks: NDArray[np.int16]
    bounds: Floats
    sums: Floats

    def of(self, plans: NDArray[np.bool_] | Rows) -> _Frontier:
        """Some of the plans."""
        return _Frontier(
            sets=self.sets[plans],
            picks=self.picks[plans],
            bounds=self.bounds[:, plans],
            sums=self.sums[:, plans],
        )

    def joined(self, other: _Frontier) -> _Frontier:
        """These plans and others."""
        return _Frontier(
            sets=np.concatenate([self.sets, other.sets]),
            picks=np.concatenate([self.picks, other.picks]),
            bounds=np.concatenate([self.bounds, other.bounds], axis=1),
            sums=np.concatenate([self.sums, other.sums], axis=1),
        )


class Branching:
    """Goes through the choices of sets of consumers.

    Args:
        priced: the space, its costs and its budget.
        terms: of the predicted loss.
        members: the encoders that may reuse.
        penalties: multipliers that bound losses from below.

    Attributes:
        work: partial plans gone through so far.
    """

    def __init__(
        self,
        priced: PricedSpace,
        terms: LossTerms,
        members: Members,
        penalties: list[Penalty],
    ) -> None:
        self._priced, self._terms = priced, terms
        self._members, self._penalties = members, penalties
        self._limits = Limits(priced)
        self.work = 0

    def explore(self, sets: Ints, shared: Floats, pool: Pool, beam: int | None = None) -> None:
        """Add to `pool` the plans of some sets of consumers that belong there.

        Args:
            sets: (sets,), bits of consumers.
            shared: (sets,), what they lose beyond their members' own losses.
            pool: bounds what is gone through.
            beam: keep only so many partial plans of least bounds at each step, and miss some.
        """
        members = self._members
        bounds = np.stack([shared + penalty.fixed for penalty in self._penalties])
        sums = np.repeat(members.base[:, None], len(sets), axis=1)
        for bit, options in enumerate(members.options):
            member = sets >> bit & 1 == 1
            closed = ~options.open_to(sets[member])
            for bound, penalty in zip(bounds, self._penalties, strict=True):
                values = np.where(closed, np.inf, penalty.values[bit])
                bound[member] += values.min(axis=1, initial=np.inf)
            sums[:, member] += members.least_extra[bit][:, None]
        picks = np.zeros((len(sets), len(members)), dtype=np.int16)
        stack = [(0, _Frontier(sets=sets, picks=picks, bounds=bounds, sums=sums))]
        while stack:
            bit, frontier = stack.pop()
            frontier = frontier.of(frontier.bounds.max(axis=0) < pool.threshold)
            if bit == len(members):
                self._offer(frontier, pool)
                continue
            grown = self._branch(bit, frontier, pool.threshold)
            self.work += len(grown.sets)
            # The most promising part is gone through first: it lowers the threshold.
            order = np.argsort(grown.bounds.max(axis=0), kind="stable")[:beam]
            parts = [order[i : i + _FRONTIER] for i in range(0, len(order), _FRONTIER)]
            stack += [(bit + 1, grown.of(part)) for part in reversed(parts)]

    def _branch(self, bit: int, frontier: _Frontier, threshold: float) -> _Frontier:
        """One more encoder's choice made; what cannot come below the threshold left out."""
        options, least = self._members.options[bit], self._members.least_extra[bit]
        member = frontier.sets >> bit & 1 == 1
        here = frontier.of(member)
        opened = options.open_to(here.sets)
        bounds = np.empty((len(self._penalties), *opened.shape))
        for bound, penalty, into in zip(here.bounds, self._penalties, bounds, strict=True):
            values = np.where(opened, penalty.values[bit], np.inf)
            into[:] = (bound - values.min(axis=1, initial=np.inf))[:, None] + values
        row, option = np.nonzero(bounds.max(axis=0) < threshold)
        sums = here.sums[:, row] + (self._members.extra[bit] - least[:, None])[:, option]
        kept = self._limits.within(sums)
        row, option = row[kept], option[kept]
        picks = here.picks[row]
        picks[:, bit] = options.numbers[option]
        consuming = _Frontier(
            sets=here.sets[row], picks=picks, bounds=bounds[:, row, option], sums=sums[:, kept]
        )
        return frontier.of(~member).joined(consuming)

    def _offer(self, leaves: _Frontier, pool: Pool) -> None:
        """Plans with all choices made: predicted, priced, and pooled where they fit."""
        rows = np.zeros((len(leaves.sets), self._priced.space.num_encoders), dtype=np.intp)
        rows[:, self._members.encoders] = leaves.picks
        losses = self._terms.predict(rows)
        good = losses < pool.threshold
        rows, losses = rows[good], losses[good]
        fits = self._priced.fits(self._priced.price(rows))
        pool.add(rows[fits], losses[fits])
