"""Which plans to measure next: near the best measured ones, or predicted well all over the space.

What predictions get wrong in one plan they get wrong in those like it. So the error of measured
plans is carried over to others by how many encoders do the same in both (a Gaussian process), and
the plans are measured next that are then expected to lose least.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trex.search.feasible import PricedSpace
from trex.search.predict import Losses
from trex.search.ranks import ranks_of_equals
from trex.search.space import Choice, Numbers, SearchSpace

Floats = NDArray[np.float64]

#: plans predicted to lose least, from which later ones are chosen too
RESERVOIR: Final = 64
#: plans of a round: they share the work of their common beginnings
ROUND: Final = 6
#: plans of a round with the same consumers, where plans have many
OF_EQUAL_CONSUMERS: Final = 2
#: measured plans whose neighbours are looked at
_CENTRES: Final = 3
#: encoders that must differ for errors to have little in common, and the share of an error's
#: variance that plans do not have in common
_LENGTH: Final = 2.5
_NOISE: Final = 0.05
#: how far below what is expected a plan is taken to be, in standard deviations
_HOPE: Final = 0.5


def neighbours(space: SearchSpace, row: Numbers) -> Numbers:
    """Plans of the space one change away: (plans, encoders).

    One encoder chooses anything else; or merges move from an encoder to another, all of them or a
    step; or two encoders exchange their forms, with the rows they share or without. A budget that
    needs many consumers leaves little but exchanges.
    """
    encoders = space.num_encoders
    found = [row]
    for encoder in range(encoders):
        for number in range(len(space.choices[encoder])):
            if number != row[encoder]:
                changed = row.copy()
                changed[encoder] = number
                found.append(changed)
    numbers = [{c: n for n, c in enumerate(of)} for of in space.choices]
    if space.forms:
        for one, other in itertools.combinations(range(encoders), 2):
            choice, second = space.choices[one][row[one]], space.choices[other][row[other]]
            for share in (False, True) if choice.form != second.form else ():
                here = numbers[one].get(_exchanged(choice, second, share))
                there = numbers[other].get(_exchanged(second, choice, share))
                if here is not None and there is not None:
                    changed = row.copy()
                    changed[[one, other]] = here, there
                    found.append(changed)
    if space.merges:
        steps = [of[0] if of else 0 for of in space.pairs]
        for one, other in itertools.permutations(range(encoders), 2):
            choice, second = space.choices[one][row[one]], space.choices[other][row[other]]
            for moved in {steps[one], choice.pairs}:
                here = numbers[one].get(_merging(choice, choice.pairs - moved))
                there = numbers[other].get(_merging(second, second.pairs + moved))
                if moved and here is not None and there is not None:
                    changed = row.copy()
                    changed[[one, other]] = here, there
                    found.append(changed)
    every = np.unique(np.stack(found[1:]), axis=0) if len(found) > 1 else row[None][:0]
    legal: Numbers = every[space.holds(every)]
    return legal


def _exchanged(choice: Choice, by: Choice, share: bool) -> Choice:
    """A choice with another's form and source, and perhaps the rows it shares."""
    changed = choice._replace(form=by.form, source=by.source)
    return changed._replace(share=by.share) if share else changed


def _merging(choice: Choice, pairs: int) -> Choice:
    return choice._replace(pairs=pairs)


def expected(
    losses: Losses, rows: Numbers, known: Numbers, measured: Floats
) -> tuple[Floats, Floats]:
    """What plans are expected to lose, and how far that may be off: (plans,) each.

    Args:
        losses: predicted.
        rows: the plans, (plans, encoders).
        known: measured plans, (plans, encoders).
        measured: what these lost.
    """
    predicted = losses.predict(rows)
    if not len(known):
        return predicted, np.zeros_like(predicted)
    errors = np.log(np.maximum(measured, 1e-9)) - np.log(np.maximum(losses.predict(known), 1e-9))
    mean, spread = float(errors.mean()), max(float(errors.std()), 1e-3)

    def alike(some: Numbers) -> Floats:
        kernel: Floats = np.exp(-(some[:, None] != known[None]).sum(axis=2) / _LENGTH)
        return kernel

    inverse = np.linalg.inv(alike(known) + _NOISE * np.eye(len(known)))
    near = alike(rows)
    error = mean + near @ inverse @ (errors - mean)
    doubt = np.sqrt(np.maximum(1.0 - np.einsum("pi,ij,pj->p", near, inverse, near), 0.0))
    whole = np.maximum(predicted, 1e-9) * np.exp(error)
    return whole, whole * doubt * spread


def next_rows(
    priced: PricedSpace,
    losses: Losses,
    reservoir: Numbers,
    measured: Mapping[bytes, float],
    wanted: int,
    of_equal_consumers: int | None = None,
) -> Numbers:
    """The plans within the budget to measure next, the most promising first; perhaps fewer.

    Args:
        priced: the space and its budget.
        losses: predicted.
        reservoir: plans predicted to lose little, (plans, encoders).
        measured: what plans lost, by their rows' bytes.
        wanted: how many.
        of_equal_consumers: at most so many with the same consumers; None for any number.
    """
    encoders = priced.space.num_encoders
    known = [np.frombuffer(row, dtype=np.intp) for row in measured]
    best = sorted(range(len(known)), key=lambda i: (list(measured.values())[i], tuple(known[i])))
    parts = [reservoir, *(neighbours(priced.space, known[i]) for i in best[:_CENTRES])]
    rows = np.unique(np.concatenate(parts), axis=0)
    rows = rows[[row.tobytes() not in measured for row in rows]]
    if not len(rows):
        return rows
    rows = rows[priced.fits(priced.price(rows))]
    whole = np.stack(known) if known else np.zeros((0, encoders), dtype=np.intp)
    mean, doubt = expected(losses, rows, whole, np.array(list(measured.values())))
    order = np.lexsort((*rows.T[::-1], np.round(mean - _HOPE * doubt, 9)))
    chosen: Numbers = rows[order]
    if of_equal_consumers is not None:
        _, sets = np.unique(priced.space.consumes(chosen), axis=0, return_inverse=True)
        chosen = chosen[ranks_of_equals(sets.reshape(-1)) < of_equal_consumers]
    return chosen[:wanted]
