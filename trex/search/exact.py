"""The plans of least predicted loss within a budget, with a proof.

Three methods, all exact, that differ in the spaces they can do: every plan listed and priced
(`exact_listing`); all sets of consumers bounded, the good ones gone through (`exact_sets`); a
mixed-integer programme (`exact_milp`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

import numpy as np

from trex.errors import InfeasibleError
from trex.search.budget import Budget, Limit
from trex.search.costs import VariantCosts
from trex.search.exact_listing import Listing
from trex.search.exact_milp import MilpSolver
from trex.search.exact_sets import MOST_FREE, SetSolver
from trex.search.feasible import PricedSpace
from trex.search.nearest import nearest_row
from trex.search.pareto import pareto_front
from trex.search.pool import Pool
from trex.search.space import MOST_PLANS
from trex.search.terms import Floats, LossTerms, Rows

Method = Literal["enumeration", "consumer sets", "milp"]

#: Partial plans gone through before a proof is given up; some minutes.
_MOST_WORK: Final = 200_000_000
#: A gap below this share of the loss counts as none.
_PROVED: Final = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class Solution:
    """The k best plans in order of predicted loss.

    Attributes:
        rows: (k, encoders), choice numbers; fewer than asked for where no more plans fit.
        losses: (k,), predicted.
        bounds: (k,): no plan but those listed before it is predicted to lose less than this.
        costs: of the plans.
        method: which one ran.
    """

    rows: Rows
    losses: Floats
    bounds: Floats
    costs: VariantCosts
    method: Method

    @property
    def gaps(self) -> Floats:
        """(k,): how far each plan may be from the one that belongs in its place."""
        return self.losses - self.bounds

    @property
    def proved(self) -> bool:
        """Whether every plan is proved to belong in its place, to six digits."""
        return bool((self.gaps <= _PROVED * np.maximum(np.abs(self.losses), 1e-3)).all())


def method_for(priced: PricedSpace) -> Method:
    """The method for a space: listing is limited by plans, sets by encoders that may reuse."""
    if priced.space.size <= MOST_PLANS:
        return "enumeration"
    return "consumer sets" if sum(priced.space.may_reuse) <= MOST_FREE else "milp"


def solve(
    priced: PricedSpace,
    terms: LossTerms,
    count: int = 1,
    *,
    method: Method | None = None,
    most_work: int = _MOST_WORK,
    listing: Listing | None = None,
) -> Solution:
    """The `count` plans of least predicted loss within the budget.

    Args:
        priced: the space, its costs and its budget.
        terms: of the predicted loss, for the space's choices.
        count: how many plans.
        method: instead of the one that suits the space.
        most_work: partial plans after which a proof is given up (mixed-integer programmes count
            as the partial plans of equal time); the gaps then say what is left open.
        listing: of the same space and losses, where there is one, for the method that lists.

    Raises:
        InfeasibleError: no plan fits; it names the nearest.
        SpaceError: the method cannot do a space of this size.
    """
    method = method or method_for(priced)
    pool = Pool(count, priced.space.num_encoders)
    if method == "enumeration":
        (listing or Listing.of(priced, terms)).fill(pool, priced)
        rest = float("inf")
    else:
        nearest = check_feasible(priced)[None]
        pool.add(nearest, terms.predict(nearest))
        solver = SetSolver if method == "consumer sets" else MilpSolver
        rest = min(
            solver(priced, terms, forms).solve(pool, most_work) for forms in _form_groups(priced)
        )
    costs = priced.price(pool.rows)
    order = np.lexsort((*pool.rows.T[::-1], costs.edap_j_s_m2, pool.losses))
    losses = pool.losses[order]
    return Solution(
        rows=pool.rows[order],
        losses=losses,
        bounds=np.minimum(losses, rest),
        costs=costs.of(order),
        method=method,
    )


def check_feasible(priced: PricedSpace) -> Rows:
    """A plan within the budget, by costs alone: the one furthest below its worst limit.

    Raises:
        InfeasibleError: no plan fits; it names the nearest.
    """
    nearest = nearest_row(priced)
    if not priced.fits(priced.price(nearest[None]))[0]:
        raise priced.infeasible(nearest)
    return nearest


def front(
    priced: PricedSpace,
    terms: LossTerms,
    points: int,
    *,
    method: Method | None = None,
    most_work: int = _MOST_WORK,
    listing: Listing | None = None,
) -> Solution:
    """The plans of least predicted loss at up to `points` levels of EDAP, cheapest first.

    The levels lie in equal ratios between the least EDAP there is and that of the best plan within
    the budget. No plan of the front is beaten by another of it. A plan's bound holds for all
    plans within the budget whose EDAP is not above its level.

    Args:
        priced: the space, its costs and its budget.
        terms: of the predicted loss.
        points: how many levels, at least one.
        method: as in `solve`.
        most_work: as in `solve`, for each level.
        listing: as in `solve`.

    Raises:
        InfeasibleError: no plan fits; it names the nearest.
        SpaceError: as in `solve`.
    """
    method = method or method_for(priced)
    if method == "enumeration":
        listing = listing or Listing.of(priced, terms)
    best_of = partial(solve, terms=terms, method=method, most_work=most_work, listing=listing)
    found = [best_of(priced)]
    highest = float(found[0].costs.edap_j_s_m2[0])
    cheapest = nearest_row(priced, Budget.parse({"edap": "1x"}))
    lowest = float(priced.price(cheapest[None]).edap_j_s_m2[0])
    for level in np.geomspace(highest, lowest, max(points, 2))[1:points]:
        if found[-1].costs.edap_j_s_m2[0] <= level:
            continue  # the plan found for a higher level is within this one too
        limit = Limit(quantity="edap", value=float(level), relative=False)
        try:
            best = best_of(priced.limited(limit))
        except InfeasibleError:
            break  # the budget's other limits leave nothing so cheap
        found.append(best)
    rows = np.concatenate([best.rows for best in found])
    losses = np.concatenate([best.losses for best in found])
    costs = priced.price(rows)
    kept = pareto_front(np.stack([costs.edap_j_s_m2, losses], axis=1))
    return Solution(
        rows=rows[kept],
        losses=losses[kept],
        bounds=np.concatenate([best.bounds for best in found])[kept],
        costs=costs.of(kept),
        method=found[0].method,
    )


def _form_groups(priced: PricedSpace) -> list[list[int]]:
    """Numbers of the forms that may stand together in one plan."""
    numbers = range(1, len(priced.space.forms) + 1)
    return [list(numbers)] if priced.space.mixed else [[number] for number in numbers]
