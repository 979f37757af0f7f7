"""Exact minimisation by sets of consumers.

Of a predicted loss, all but the choices' own losses depends on the set of consumers alone, and
given the set, its members choose independently of each other, but for the budget. So the loss of
all sets is laid out in arrays (2 to the number of encoders that may reuse), and bounded from below
by Lagrange multipliers on the budget: with prices added to the losses, every member takes the
choice that is best for itself. Sets whose bound is not above the best plans' loss are then gone
through choice by choice, by branch and bound.

Subsets are numbered by bits: bit b stands for the b-th encoder that may reuse.
"""

from __future__ import annotations

import itertools
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from trex.search.branching import BEAM, Branching, Penalty
from trex.search.feasible import PricedSpace
from trex.search.members import Members
from trex.search.pool import Pool
from trex.search.relaxation import Limits
from trex.search.terms import Floats, LossTerms

#: With more encoders that may reuse than this, the arrays over all sets do not fit in memory.
MOST_FREE: Final = 23
#: Multipliers tried at most, and how near to the best possible ones they must come.
_MULTIPLIERS: Final = 24
_NEAR: Final = 1e-3
#: The highest multiplier, in losses of the plans met.
_HIGHEST: Final = 1e3
#: Multipliers that are carried through branch and bound.
_CARRIED: Final = 4
#: Sets gone through together, and partial plans held in memory at once.
_SETS: Final = 1 << 11
_FRONTIER: Final = 1 << 14


class SetSolver:
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
        #: what sets lose beyond their members' own losses; infinite where nothing is allowed
        self._shared = self._shared_losses()
        self._shared[~self._affordable()] = np.inf

    def solve(self, pool: Pool, most_work: int) -> float:
        """Add to `pool` all plans that belong there.

        Args:
            pool: of the best plans, perhaps of other searches too.
            most_work: give up after so many partial plans.

        Returns:
            A lower bound on the loss of all plans that were not gone through; infinite where
            every plan that belongs into the pool is there.
        """
        if not np.isfinite(self._shared).any():
            return float("inf")
        bounds, penalties = self._bounds()
        branching = Branching(self._priced, self._terms, self._members, penalties, most_work)
        sets = np.flatnonzero(np.isfinite(bounds))
        first = sets[np.argpartition(bounds[sets], min(_SETS, len(sets)) - 1)[:_SETS]]
        branching.explore(first, self._shared[first], pool, beam=BEAM)
        sets = sets[bounds[sets] < pool.threshold]
        sets = sets[np.argsort(bounds[sets], kind="stable")]
        for start in range(0, len(sets), _SETS):
            chunk = sets[start : start + _SETS]
            chunk = chunk[bounds[chunk] < pool.threshold]
            left_out = branching.explore(chunk, self._shared[chunk], pool)
            if left_out < np.inf:
                left_out = max(left_out, float(bounds[chunk[0]]))
                return min([left_out, *map(float, bounds[sets[start + _SETS :][:1]])])
        return float("inf")

    def _shared_losses(self) -> Floats:
        """(sets,): built from the last encoder to the first, so that bit 0 ends up lowest."""
        free, terms, space = self._members.encoders, self._terms, self._priced.space
        losses = np.zeros(1)
        sizes = np.zeros(1, dtype=np.uint8)
        for bit in reversed(range(len(free))):
            encoder, later = free[bit], free[bit + 1 :]
            added, most = np.zeros(1), np.zeros(1)
            for other in later:
                added = np.concatenate([added, added + terms.added[encoder, other]])
                most = np.concatenate([most, np.maximum(most, terms.corrected[encoder, other])])
            consuming = losses + added - most
            for (low, j), (high, k) in itertools.combinations(enumerate(later), 2):
                if paid := terms.triples[encoder, j, k]:
                    both = consuming.reshape(-1, 2, 2 ** (high - low - 1), 2, 2**low)
                    both[:, 1, :, 1] += paid
            run = space.max_run
            if later[:run] == list(range(encoder + 1, encoder + 1 + run)):
                consuming.reshape(-1, 2**run)[:, -1] = np.inf
            losses = np.stack([losses, consuming], axis=1).ravel()
            sizes = np.stack([sizes, sizes + 1], axis=1).ravel()
        losses[sizes > space.max_reuse] = np.inf
        return losses

    def _affordable(self) -> NDArray[np.bool_]:
        """(sets,): whether a set fits the budget where all its members take what is cheapest."""

        def least(row: int) -> Floats:
            sums = np.full(1, self._members.base[row])
            for extra in self._members.least_extra:
                sums = np.concatenate([sums, sums + extra[row]])
            return sums

        return self._limits.within({row: least(row) for row in self._limits.rows})

    def _bounds(self) -> tuple[Floats, list[Penalty]]:
        """Lower bounds of all sets' losses, and penalties for branch and bound.

        Multipliers are those of the linear conditions; their best values are found by cutting
        planes (Kelley): every plan met bounds from above what any multipliers can reach.
        """
        limits = self._limits.linear(self._limits.tightened(self._members.box()))
        slack = limits.weights @ self._members.base - limits.most
        every: Floats = np.full(len(self._shared), -np.inf)
        multipliers, plans, reached = [np.zeros(len(limits.most))], [], -np.inf
        while True:
            prices = multipliers[-1] @ limits.weights
            bounds = self._penalised(prices) + multipliers[-1] @ slack
            np.maximum(every, bounds, out=every)
            least = int(np.argmin(bounds))
            reached = max(reached, float(bounds[least]))
            loss, sums = self._relaxed_plan(least, prices)
            plans.append([loss, *(limits.weights @ sums - limits.most)])
            upper, better = _best_multipliers(np.array(plans))
            near = _NEAR * max(abs(reached), 1e-6)
            if len(plans) == _MULTIPLIERS or upper <= reached + near:
                break
            multipliers.append(better)
        kept = [multipliers[0], *multipliers[1:][1 - _CARRIED :]]
        return every, [Penalty(prices=m @ limits.weights, fixed=float(m @ slack)) for m in kept]

    def _penalised(self, prices: Floats) -> Floats:
        """(sets,): least losses plus prices (6,) times costs beyond the original's."""
        sums = np.zeros(1)
        for bit in range(len(self._members)):
            least = self._least(bit, self._members.values(bit, prices))
            sums = np.concatenate([sums, sums + least])
        sums += self._shared
        return sums

    def _least(self, bit: int, values: Floats) -> Floats:
        """(sets of lower bits,): the least of one encoder's values that is open to it."""
        space, encoder = self._priced.space, self._members.encoders[bit]
        of_source = np.full(encoder, np.inf)
        np.minimum.at(of_source, self._members.options[bit].sources, values)
        least = np.full(1, np.inf)
        # From the first encoder on: one that consumes leaves what was open; one that produces
        # is one more source, or the new nearest one.
        for source, value in enumerate(of_source):
            if space.stages[source] != space.stages[encoder]:
                produced = least
            elif space.source == "nearest":
                produced = np.full_like(least, value)
            else:
                produced = np.minimum(least, value)
            least = np.concatenate([produced, least]) if space.may_reuse[source] else produced
        return least

    def _relaxed_plan(self, consumers: int, prices: Floats) -> tuple[float, Floats]:
        """Loss and sums (6,) of the plan that attains a set's bound."""
        members = self._members
        loss, sums = float(self._shared[consumers]), members.base.copy()
        for bit, options in enumerate(members.options):
            if consumers >> bit & 1:
                opened = options.open_to(np.array([consumers]))[0]
                chosen = int(np.argmin(np.where(opened, members.values(bit, prices), np.inf)))
                loss += float(options.single[chosen])
                sums += members.extra[bit][:, chosen]
        return loss, sums


def _best_multipliers(plans: Floats) -> tuple[float, Floats]:
    """The multipliers that raise the least penalised loss of some plans most, and that loss.

    Args:
        plans: (plans, 1 + conditions), each plan's loss and by how much it exceeds conditions.
    """
    highest = _HIGHEST * (np.abs(plans[:, 0]).max() + 1e-6)
    conditions = plans.shape[1] - 1
    answer = linprog(
        [-1.0, *[0.0] * conditions],
        A_ub=np.column_stack([np.ones(len(plans)), -plans[:, 1:]]),
        b_ub=plans[:, 0],
        bounds=[(None, None), *[(0, highest)] * conditions],
    )
    return -float(answer.fun), answer.x[1:]
