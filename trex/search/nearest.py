"""The plan nearest to a budget that none fits: costs alone decide, whatever the losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from trex.search.budget import Budget
from trex.search.feasible import PricedSpace
from trex.search.terms import Floats, Rows

#: Beginnings of plans kept at each encoder; where more are needed, the nearest may be missed.
_STATES: Final = 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class _Beginnings:
    """What the first encoders may do; `rows` are choice numbers of all encoders.

    Attributes:
        marks: (plans, 8): the costs that add up, the consumers in a row, the consumers. Of two
            plans with the same rest, the one with smaller marks is the nearer one.
    """

    rows: Rows
    marks: Floats


def nearest_row(priced: PricedSpace, budget: Budget | None = None) -> Rows:
    """The plan that overruns the budget least, by its worst limit; the least EDAP of equal ones.

    Args:
        priced: the space.
        budget: instead of the space's own.
    """
    budget = budget or priced.budget
    space = priced.space
    numbers = range(1, len(space.forms) + 1)
    groups = [list(numbers)] if space.mixed else [[number] for number in numbers]
    rows = np.concatenate([_undominated(priced, forms) for forms in groups])
    costs = priced.price(rows)
    overrun = budget.overrun(costs, priced.baseline)
    near = np.lexsort((costs.edap_j_s_m2, np.round(overrun, 12)))
    found: Rows = rows[near[0]]
    return found


def _undominated(priced: PricedSpace, forms: list[int]) -> Rows:
    """Plans of some forms that no other plan of the space beats in every cost."""
    space, choices, costs = priced.space, priced.choices, priced.pricer.by_form
    form_numbers, sources = choices.form_numbers(), choices.sources()
    states = _Beginnings(
        rows=np.zeros((1, space.num_encoders), dtype=np.intp), marks=np.zeros((1, 8))
    )
    for encoder in range(space.num_encoders):
        producing = states.marks.copy()
        producing[:, :6] += costs[:, encoder, 0]
        producing[:, 6] = 0
        rows, marks = [states.rows], [producing]
        if space.may_reuse[encoder]:
            free = (states.marks[:, 6] < space.max_run) & (states.marks[:, 7] < space.max_reuse)
            before = states.rows[free]
            # What a consumer costs does not depend on its source: the nearest producer will do.
            produced = np.where(before[:, :encoder] == 0, np.arange(encoder), -1)
            source = produced.max(axis=1, initial=-1)
            for form in forms:
                row = before.copy()
                match = form_numbers[encoder] == form
                match = match & (sources[encoder] == source[:, None])
                row[:, encoder] = match.argmax(axis=1)
                consuming = states.marks[free].copy()
                consuming[:, :6] += costs[:, encoder, form]
                consuming[:, 6:] += 1
                rows.append(row)
                marks.append(consuming)
        states = _pruned(_Beginnings(rows=np.concatenate(rows), marks=np.concatenate(marks)))
    return states.rows


def _pruned(states: _Beginnings) -> _Beginnings:
    """Without beginnings that another is nowhere worse than; of too many, the cheapest."""
    # Sums of equal encoders differ in their last digits by the order of adding up.
    scale = np.maximum(states.marks.max(axis=0), 1e-300)
    marks = np.round(states.marks / scale, 9)
    _, first = np.unique(marks, axis=0, return_index=True)
    order = first[np.argsort(marks[first].sum(axis=1), kind="stable")]
    kept: list[int] = []
    for index in order:
        if len(kept) == _STATES:
            break
        if not _beaten(marks[index], marks[kept]):
            kept.append(int(index))
    return _Beginnings(rows=states.rows[kept], marks=states.marks[kept])


def _beaten(mark: Floats, others: Floats) -> bool:
    return bool((others <= mark).all(axis=1).any())
