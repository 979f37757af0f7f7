"""Branch and bound over the choices of given sets of consumers.

Three things keep it small. Choices that cost the same differ in their own losses alone, so only
the best of them is branched on, and the others are put in its place at the end. Of partial plans
of the same consumers that cost the same so far, only as many go on as plans are wanted. And bounds
by several multipliers leave out what cannot be among the best.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trex.search.feasible import PricedSpace
from trex.search.members import Ints, Members
from trex.search.pool import Pool
from trex.search.relaxation import Limits
from trex.search.terms import Floats, LossTerms, Rows

#: Partial plans held in memory at once.
_FRONTIER: Final = 1 << 14
#: Partial plans kept at each step where good plans are wanted fast, not the best.
BEAM: Final = 1 << 11
#: Sums that differ by less, as a share of the original's, count as equal.
_SAME: Final = 1e-10


@dataclass(frozen=True, kw_only=True, slots=True)
class Penalty:
    """A lower bound on losses: what plans lose and cost at some prices, and what all pay.

    Attributes:
        prices: (6,), of the sums.
        fixed: to be added.
    """

    prices: Floats
    fixed: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Frontier:
    """Partial plans: choices are made for the lower bits; the others are taken at their best.

    Attributes:
        order: (plans,), the place of their sets among those gone through.
        sets: (plans,), the consumers.
        picks: (plans, encoders that may reuse), numbers among each encoder's options.
        losses: (plans,), without what the choices to come lose.
        bounds: (plans, penalties), on the whole loss.
        sums: (plans, 6), least costs.
    """

    order: Ints
    sets: Ints
    picks: NDArray[np.int16]
    losses: Floats
    bounds: Floats
    sums: Floats

    def __len__(self) -> int:
        return len(self.sets)

    def of(self, plans: Any) -> _Frontier:
        """Some of the plans."""
        return _Frontier(**{f.name: getattr(self, f.name)[plans] for f in fields(self)})

    def joined(self, other: _Frontier) -> _Frontier:
        """These plans and others."""
        both = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        return _Frontier(**{name: np.concatenate(parts) for name, parts in both.items()})

    def distinct(self, count: int, scale: Floats) -> _Frontier:
        """Of those with the same consumers and the same sums, the `count` of least loss."""
        sums = np.round(self.sums / (np.where(scale > 0, scale, 1.0) * _SAME))
        best = np.lexsort((self.losses, *sums.T, self.order))
        same = (np.diff(sums[best], axis=0) == 0).all(axis=1) & (np.diff(self.order[best]) == 0)
        place = np.arange(len(best))
        first = np.maximum.accumulate(np.where(np.concatenate([[True], ~same]), place, 0))
        return self.of(best[place - first < count])

    def parts(self) -> list[_Frontier]:
        """Pieces of about `_FRONTIER` plans, those of one set together, in order of the sets."""
        if len(self) <= _FRONTIER:
            return [self]
        ordered = self.of(np.argsort(self.order, kind="stable"))
        starts = np.flatnonzero(np.diff(ordered.order, prepend=-1))
        cuts = np.unique(starts[np.searchsorted(starts, np.arange(0, len(self), _FRONTIER))[:-1]])
        ends = [*cuts[1:], len(self)]
        return [ordered.of(slice(a, b)) for a, b in zip(cuts, ends, strict=True)]


class Branching:
    """Goes through the choices of sets of consumers.

    Args:
        priced: the space, its costs and its budget.
        terms: of the predicted loss.
        members: the encoders that may reuse.
        penalties: bounds on the loss.
        most_work: stop after so many partial plans.
    """

    def __init__(
        self,
        priced: PricedSpace,
        terms: LossTerms,
        members: Members,
        penalties: list[Penalty],
        most_work: float,
    ) -> None:
        self._priced, self._terms = priced, terms
        self._members, self._penalties = members, penalties
        self._limits = Limits(priced)
        self._work_left = most_work

    def explore(self, sets: Ints, shared: Floats, pool: Pool, beam: int | None = None) -> float:
        """Add to `pool` the plans of some sets of consumers that belong there.

        Args:
            sets: (sets,), bits of consumers, the most promising first.
            shared: (sets,), what they lose beyond their members' own losses.
            pool: bounds what is gone through.
            beam: keep only so many partial plans of least bounds at each step, and miss some.

        Returns:
            A lower bound on the loss of what was left out for want of work; infinite if nothing.
        """
        stack = [(0, self._whole(sets, shared))]
        while stack:
            bit, frontier = stack.pop()
            frontier = frontier.of(frontier.bounds.max(axis=1) < pool.threshold)
            if not len(frontier):
                continue
            if bit == len(self._members):
                self._offer(frontier, pool)
                continue
            if self._work_left <= 0 and beam is None:
                rest = [frontier, *(other for _, other in stack)]
                return min(float(f.bounds.max(axis=1).min(initial=np.inf)) for f in rest)
            grown = self._branch(bit, frontier, pool.threshold)
            self._work_left -= len(grown)
            grown = grown.distinct(pool.count, self._members.base)
            if beam is not None:
                grown = grown.of(np.argsort(grown.bounds.max(axis=1), kind="stable")[:beam])
            # The most promising part is gone through first: it lowers the threshold.
            stack += [(bit + 1, part) for part in reversed(grown.parts())]
        return float("inf")

    def _whole(self, sets: Ints, shared: Floats) -> _Frontier:
        """Sets with no choice made."""
        members = self._members
        bounds = np.stack([shared + penalty.fixed for penalty in self._penalties], axis=1)
        sums = np.repeat(members.base[None], len(sets), axis=0)
        for bit in range(len(members)):
            member = sets >> bit & 1 == 1
            best, _ = self._best_of_classes(bit, sets[member])
            for number, penalty in enumerate(self._penalties):
                values = best + penalty.prices @ self._class_extra(bit)
                bounds[member, number] += values.min(axis=1, initial=np.inf)
            sums[member] += members.least_extra[bit]
        return _Frontier(
            order=np.arange(len(sets)),
            sets=sets,
            picks=np.zeros((len(sets), len(members)), dtype=np.int16),
            losses=shared,
            bounds=bounds,
            sums=sums,
        )

    def _class_extra(self, bit: int) -> Floats:
        """(6, classes): what an option of each class costs more than a producer."""
        members = self._members
        extra: Floats = members.extra[bit][:, [of[0] for of in members.classes[bit]]]
        return extra

    def _best_of_classes(self, bit: int, sets: Ints) -> tuple[Floats, Rows]:
        """(sets, classes) twice: the least own loss of the options open to each set, and whose."""
        options = self._members.options[bit]
        losses = np.where(options.open_to(sets), options.single, np.inf)
        classes = self._members.classes[bit]
        chosen = [numbers[losses[:, numbers].argmin(axis=1)] for numbers in classes]
        picks = np.stack(chosen, axis=1)
        return np.take_along_axis(losses, picks, axis=1), picks

    def _branch(self, bit: int, frontier: _Frontier, threshold: float) -> _Frontier:
        """One more encoder's choice made; what cannot come below the threshold left out."""
        member = frontier.sets >> bit & 1 == 1
        here, extra = frontier.of(member), self._class_extra(bit)
        best, chosen = self._best_of_classes(bit, here.sets)
        bounds = np.empty((*best.shape, len(self._penalties)))
        for number, penalty in enumerate(self._penalties):
            values = best + penalty.prices @ extra
            others = here.bounds[:, number] - values.min(axis=1, initial=np.inf)
            bounds[:, :, number] = others[:, None] + values
        row, of_class = np.nonzero(bounds.max(axis=2) < threshold)
        changes = (extra - self._members.least_extra[bit][:, None]).T
        sums = here.sums[row] + changes[of_class]
        kept = self._limits.within(sums.T)
        row, of_class = row[kept], of_class[kept]
        picks = here.picks[row]
        picks[:, bit] = chosen[row, of_class]
        consuming = _Frontier(
            order=here.order[row],
            sets=here.sets[row],
            picks=picks,
            losses=here.losses[row] + best[row, of_class],
            bounds=bounds[row, of_class],
            sums=sums[kept],
        )
        return frontier.of(~member).joined(consuming)

    def _offer(self, leaves: _Frontier, pool: Pool) -> None:
        """Plans with all choices made, and those with others of the same cost, into the pool."""
        leaves = leaves.of(self._priced.fits(self._priced.price(self._rows(leaves))))
        best = leaves.of(np.argsort(leaves.losses, kind="stable")[: pool.count])
        for bit, options in enumerate(self._members.options):
            member = best.sets >> bit & 1 == 1
            here = best.of(member)
            own = np.empty(len(options.numbers), dtype=np.intp)
            for number, numbers in enumerate(self._members.classes[bit]):
                own[numbers] = number
            now = here.picks[:, bit]
            alike = options.open_to(here.sets) & (own[now][:, None] == own)
            row, option = np.nonzero(alike)
            picks = here.picks[row]
            picks[:, bit] = option
            losses = here.losses[row] + options.single[option] - options.single[now[row]]
            consuming = replace(here.of(row), picks=picks, losses=losses)
            best = best.of(~member).joined(consuming)
            best = best.of(best.losses < pool.threshold)
            best = best.of(np.argsort(best.losses, kind="stable")[: pool.count])
        rows = self._rows(best)
        pool.add(rows, self._terms.predict(rows))

    def _rows(self, plans: _Frontier) -> Rows:
        rows = np.zeros((len(plans), self._priced.space.num_encoders), dtype=np.intp)
        for bit, (encoder, options) in enumerate(
            zip(self._members.encoders, self._members.options, strict=True)
        ):
            member = plans.sets >> bit & 1 == 1
            rows[member, encoder] = options.numbers[plans.picks[member, bit]]
        return rows
