"""Exact minimisation by listing every plan, once for all budgets that are asked about."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from trex.search.budget import TOLERANCE
from trex.search.costs import VariantCosts
from trex.search.feasible import PricedSpace
from trex.search.plans import all_rows
from trex.search.pool import Pool
from trex.search.terms import Floats, LossTerms, Rows

#: Plans priced and predicted at once, so that memory beyond the list does not grow with it.
_CHUNK = 1 << 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """All plans of a space.

    Attributes:
        rows: (plans, encoders), choice numbers.
        losses: (plans,), predicted.
        costs: of the plans.
    """

    rows: Rows
    losses: Floats
    costs: VariantCosts

    @classmethod
    def of(cls, priced: PricedSpace, terms: LossTerms) -> Listing:
        """List, price and predict; the budget does not matter.

        Raises:
            SpaceError: there are too many plans.
        """
        rows = all_rows(priced.space)
        chunks = [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]
        costs = [priced.price(some) for some in chunks]
        return cls(
            rows=rows,
            losses=np.concatenate([terms.predict(some) for some in chunks]),
            costs=VariantCosts(
                **{
                    field.name: np.concatenate([getattr(of, field.name) for of in costs])
                    for field in fields(VariantCosts)
                }
            ),
        )

    def fill(self, pool: Pool, priced: PricedSpace) -> None:
        """Add to `pool` the plans within the budget that belong there.

        Args:
            pool: of the best plans.
            priced: the space, with any budget.

        Raises:
            InfeasibleError: no plan fits; it names the nearest.
        """
        overrun = priced.budget.overrun(self.costs, priced.baseline)
        fits = np.flatnonzero(overrun <= 1.0 + TOLERANCE)
        if not len(fits):
            raise priced.infeasible(self.rows[overrun.argmin()])
        losses = self.losses[fits]
        if pool.count < len(fits):
            # Rows are copied for the best alone, with all that equal the last of them.
            last = np.partition(losses, pool.count - 1)[pool.count - 1]
            fits, losses = fits[losses <= last], losses[losses <= last]
        pool.add(self.rows[fits], losses)
