"""Exact minimisation as a mixed-integer programme, for more encoders than sets can be listed for.

Binary variables say which encoders consume and by which choice; what sets of consumers
lose is made linear by one variable each. Limits that are products hold as linear conditions in a
box of the sums they are made of; where a plan meets the conditions but not the limit, the box is
split, until the best plan of the most promising box is within the budget itself.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from trex.search.branching import BEAM, Branching, Penalty
from trex.search.feasible import PricedSpace
from trex.search.members import Members
from trex.search.pool import Pool
from trex.search.relaxation import Box, Limits
from trex.search.terms import Floats, LossTerms, Rows

#: A programme of n factors takes about as long as n² partial plans of the other methods by this
#: share, and n more for every node: programmes of 400 to 10,000 factors, timed (SciPy 1.17).
_PARTIAL_PLANS: Final = 1 / 40
#: A box narrower than this in all sums, as a share of them, is not split any more.
_NARROW: Final = 1e-7
#: `scipy.optimize.milp`'s status where nothing meets the conditions.
_INFEASIBLE: Final = 2


class _Programme:
    """Rows and columns of a programme under construction."""

    def __init__(self) -> None:
        self.costs: list[float] = []
        self.most: list[float] = []
        self.integral: list[int] = []
        self.entries: list[tuple[int, int, float]] = []
        self.lower: list[float] = []
        self.upper: list[float] = []

    def variable(self, cost: float = 0.0, most: float = 1.0, *, binary: bool = False) -> int:
        """A variable from 0 to `most`."""
        self.costs.append(cost)
        self.most.append(most)
        self.integral.append(int(binary))
        return len(self.costs) - 1

    def row(
        self, terms: Iterable[tuple[int, float]], lower: float = -np.inf, upper: float = np.inf
    ) -> None:
        """A condition lower <= sum of variables times factors <= upper."""
        number = len(self.lower)
        self.entries += [(number, variable, factor) for variable, factor in terms if factor]
        self.lower.append(lower)
        self.upper.append(upper)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Node:
    """A box with the best plan of its relaxation; none where it was not solved yet."""

    box: Box
    plan: Rows | None = None


class MilpSolver:
    """Finds the plans of least predicted loss in a space whose forms may mix freely.

    Args:
        priced: the space, its costs and its budget.
        terms: of the predicted loss.
        forms: numbers of the forms, from 1, that plans may use.
    """

    def __init__(self, priced: PricedSpace, terms: LossTerms, forms: list[int]) -> None:
        self._priced, self._terms = priced, terms
        self._members = Members(priced, terms, forms)
        self._limits = Limits(priced)
        self._programme = _Programme()
        programme, members = self._programme, self._members
        self._consumes = [programme.variable(binary=True) for _ in members.encoders]
        self._picks = [
            [programme.variable(float(loss), binary=True) for loss in options.single]
            for options in members.options
        ]
        self._choose()
        self._pay_for_sets()

    def _choose(self) -> None:
        """Every consumer takes one option that is open to it; neither too many nor in a row."""
        programme, members, space = self._programme, self._members, self._priced.space
        bits = {encoder: bit for bit, encoder in enumerate(members.encoders)}
        for bit, options in enumerate(members.options):
            picks = self._picks[bit]
            programme.row([*((v, 1.0) for v in picks), (self._consumes[bit], -1.0)], 0.0, 0.0)
            for source in np.unique(options.sources):
                of_source = [(picks[i], 1.0) for i in np.flatnonzero(options.sources == source)]
                if source in bits:
                    programme.row([*of_source, (self._consumes[bits[source]], 1.0)], upper=1.0)
                if space.source == "nearest":
                    for between in range(source + 1, members.encoders[bit]):
                        consumes = self._consumes[bits[between]]
                        programme.row([*of_source, (consumes, -1.0)], upper=0.0)
        programme.row([(v, 1.0) for v in self._consumes], upper=space.max_reuse)
        for first in members.encoders:
            window = [bits.get(e) for e in range(first, first + space.max_run + 1)]
            if None not in window:
                run = [(self._consumes[bit], 1.0) for bit in window if bit is not None]
                programme.row(run, upper=space.max_run)

    def _pay_for_sets(self) -> None:
        programme, encoders, terms = self._programme, self._members.encoders, self._terms
        consumes = dict(zip(encoders, self._consumes, strict=True))
        for encoder in encoders:
            later = [e for e in encoders if e > encoder]
            for other in later:
                if added := float(terms.added[encoder, other]):
                    both = programme.variable(added)
                    pair = [(consumes[encoder], 1.0), (consumes[other], 1.0), (both, -1.0)]
                    programme.row(pair, upper=1.0)
            corrections = []
            for other in later:
                if corrected := float(terms.corrected[encoder, other]):
                    corrections.append(programme.variable(-corrected))
                    programme.row([(corrections[-1], 1.0), (consumes[other], -1.0)], upper=0.0)
            if corrections:
                once = [(v, 1.0) for v in corrections]
                programme.row([*once, (consumes[encoder], -1.0)], upper=0.0)
            for other, last in itertools.combinations(later, 2):
                if paid := float(terms.triples[encoder, other, last]):
                    all_three = programme.variable(paid)
                    three = [(consumes[e], 1.0) for e in (encoder, other, last)]
                    programme.row([*three, (all_three, -1.0)], upper=2.0)

    def solve(self, pool: Pool, most_work: int) -> float:
        """Add to `pool` the plans that belong there, best first.

        Args:
            pool: of the best plans.
            most_work: give up after so much work, in partial plans of the other methods.

        Returns:
            A lower bound on the loss of all plans that were not added.
        """
        if not len(self._members):
            original = np.zeros((1, self._priced.space.num_encoders), dtype=np.intp)
            fits = self._priced.fits(self._priced.price(original))
            pool.add(original[fits], self._terms.predict(original[fits]))
            return float("inf")
        found: list[Rows] = []
        number = itertools.count()
        queue: list[tuple[float, int, _Node]] = []
        root = self._limits.tightened(self._members.box())
        heapq.heappush(queue, (-np.inf, next(number), _Node(box=root)))
        while queue:
            bound, _, node = heapq.heappop(queue)
            if bound >= pool.threshold or most_work <= 0:
                return bound
            if node.plan is not None and not any((node.plan == row).all() for row in found):
                # It is dealt with here: the next best is wanted.
                found.append(node.plan)
                self._exclude(node.plan)
                if self._priced.fits(self._priced.price(node.plan[None]))[0]:
                    pool.add(node.plan[None], self._terms.predict(node.plan[None]))
                elif parts := self._split(node):
                    for part in parts:
                        heapq.heappush(queue, (bound, next(number), _Node(box=part)))
                    continue
            better, plan, work = self._relaxed(node.box)
            most_work -= work
            if plan is not None:
                self._look_around(plan, pool)
                entry = replace(node, plan=plan)
                heapq.heappush(queue, (max(bound, better), next(number), entry))
        return float("inf")

    def _look_around(self, plan: Rows, pool: Pool) -> None:
        """Offer plans of nearly the same consumers: good ones, where a proof takes too long."""
        consumes = plan[self._members.encoders] != 0
        one = np.eye(len(consumes), dtype=np.bool_)
        two = (one[:, None] | one).reshape(-1, len(consumes))
        near = np.unique(np.concatenate([consumes[None], consumes ^ two]), axis=0)
        masks = np.zeros((len(near), len(plan)), dtype=np.bool_)
        masks[:, self._members.encoders] = near
        allowed = self._priced.space.allows(masks)
        sets = near[allowed] @ (1 << np.arange(near.shape[1], dtype=np.int64))
        shared = self._terms.of_consumers(masks[allowed])
        penalties = [Penalty(prices=np.zeros(6), fixed=0.0)]
        branching = Branching(self._priced, self._terms, self._members, penalties, np.inf)
        branching.explore(sets, shared, pool, beam=BEAM)

    def _relaxed(self, box: Box) -> tuple[float, Rows | None, int]:
        """A bound for a box's plans, the plan that attains it, and the work that took.

        There is no plan where the box is empty.
        """
        programme, members = self._programme, self._members
        limits = self._limits.linear(box)
        weights = np.concatenate([limits.weights, np.eye(6) / box.high.clip(1e-300)[:, None]])
        lower = np.concatenate(
            [np.full(len(limits.most), -np.inf), box.low / box.high.clip(1e-300)]
        )
        upper = np.concatenate([limits.most, np.ones(6)])
        at_base = weights @ members.base
        columns = np.concatenate([*map(np.array, self._picks)]).astype(np.intp)
        extra = np.concatenate(members.extra, axis=1)
        costs = np.zeros((len(weights), len(programme.costs)))
        costs[:, columns] = weights @ extra
        rows, variables, factors = zip(*programme.entries, strict=True)
        shape = (len(programme.lower), len(programme.costs))
        answer = milp(
            programme.costs,
            integrality=programme.integral,
            bounds=Bounds(0.0, np.array(programme.most)),
            constraints=[
                LinearConstraint(
                    csr_array((factors, (rows, variables)), shape=shape),
                    np.array(programme.lower),
                    np.array(programme.upper),
                ),
                LinearConstraint(csr_array(costs), lower - at_base, upper - at_base),
            ],
            options={"mip_rel_gap": 1e-9},
        )
        factors_in_all = len(programme.entries) + int(np.count_nonzero(costs))
        nodes = int(answer.mip_node_count or 0)
        work = int(_PARTIAL_PLANS * factors_in_all**2) + nodes * factors_in_all
        if answer.status == _INFEASIBLE:
            return np.inf, None, work
        assert answer.x is not None, answer.message
        return float(answer.mip_dual_bound), self._plan(answer.x), work

    def _plan(self, values: Floats) -> Rows:
        row = np.zeros(self._priced.space.num_encoders, dtype=np.intp)
        for encoder, options, picks in zip(
            self._members.encoders, self._members.options, self._picks, strict=True
        ):
            chosen = int(np.argmax(values[picks]))
            if values[picks[chosen]] > 0.5:
                row[encoder] = options.numbers[chosen]
        return row

    def _exclude(self, plan: Rows) -> None:
        """Leave one plan out from now on: something must differ from it."""
        terms, chosen = [], 0
        for bit, (encoder, options) in enumerate(
            zip(self._members.encoders, self._members.options, strict=True)
        ):
            if plan[encoder]:
                option = int(np.flatnonzero(options.numbers == plan[encoder])[0])
                terms.append((self._picks[bit][option], 1.0))
                chosen += 1
            else:
                terms.append((self._consumes[bit], -1.0))
        self._programme.row(terms, upper=chosen - 1)

    def _split(self, node: _Node) -> list[Box]:
        """The box in two parts, at its plan, along the widest sum of those that are multiplied."""
        assert node.plan is not None
        low, high = node.box.low, node.box.high
        rows = self._limits.multiplied
        if not rows:
            return []
        width = (high - low) / high.clip(1e-300)
        row = max(rows, key=lambda r: float(width[r]))
        if width[row] < _NARROW:
            return []
        forms = self._priced.choices.row_forms(node.plan[None])[0]
        pricer = self._priced.pricer
        at = pricer.fixed[row] + pricer.by_form[row][np.arange(len(forms)), forms].sum()
        margin = 0.2 * (high[row] - low[row])
        at = float(np.clip(at, low[row] + margin, high[row] - margin))
        lower, upper = high.copy(), low.copy()
        lower[row] = upper[row] = at
        parts = (replace(node.box, high=lower), replace(node.box, low=upper))
        return [self._limits.tightened(part) for part in parts]
