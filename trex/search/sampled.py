"""Plans proposed by Optuna's samplers, which learn from what was measured before.

A proposal names a choice for every encoder, which need not make a plan of the space: of the
choices that its beginning allows, the nearest is meant. A plan over budget is never measured: its
price is known, and the sampler is told by how much it overruns. Nor is one measured twice: its
result is told again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.trial import TrialState

from trex.plan import Plan
from trex.search.budget import TOLERANCE
from trex.search.entries import EDAP, LATENCY, LOSS, Options
from trex.search.feasible import PricedSpace
from trex.search.problem import SearchSettings
from trex.search.space import Choice, Numbers, SearchSpace
from trex.search.study import Entry, Study

_logger = logging.getLogger(__name__)

#: plans asked for at once: they share the work of their common beginnings
_BATCH: Final = 4
#: proposals in a row that are over budget or known, after which the sampler is taken to be done
_MOST_REFUSED: Final = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampler:
    """A sampler of Optuna's, and what it minimises."""

    objectives: tuple[str, ...]
    make: Callable[[], BaseSampler]


def sampler_of(settings: SearchSettings, overall: Literal["edap", "latency"]) -> Sampler:
    """The sampler that the settings ask for; `overall`: the cost beside the loss."""
    seed = settings.seed
    if settings.sampler == "tpe":
        return Sampler(objectives=(LOSS,), make=lambda: TPESampler(seed=seed))
    population = max(4, settings.evaluations // 4)
    return Sampler(
        objectives=(LOSS, EDAP if overall == "edap" else LATENCY),
        make=lambda: NSGAIISampler(population_size=population, seed=seed),
    )


def propose(
    study: Study,
    *,
    priced: PricedSpace,
    options: Options,
    total: int,
    entry: Callable[[Plan], Entry],
) -> Sequence[Plan]:
    """Take some new plans within the budget, or none if there are enough or no more are found.

    Args:
        study: that learns.
        priced: the plans, their prices and the budget.
        options: what every encoder may do, as the study names it.
        total: how many plans the study is to hold.
        entry: what a study says of a plan before it is measured.
    """
    taken: list[Plan] = []
    with study.shared.errors(), study.shared.locks.exclusive():
        known = study.trials()
        if any(trial.state == TrialState.WAITING for trial in known.values()):
            return []
        refused = 0
        while len(taken) < _BATCH and len(known) < total and refused < _MOST_REFUSED:
            trial = study.optuna.ask()
            row = _row(trial, priced.space, options)
            overrun = float(priced.budget.overrun(priced.price(row[None]), priced.baseline)[0])
            trial.set_constraint("over the budget, as a share of it", overrun - 1.0 - TOLERANCE)
            if overrun > 1.0 + TOLERANCE:
                study.optuna.tell(trial, state=TrialState.PRUNED)
            else:
                plan = priced.space.plan(row)
                same = known.get(plan.key)
                if same is None:
                    study.adopt(trial, entry(plan))
                    known = study.trials()
                    taken.append(plan)
                    refused = 0
                    continue
                trial.set_user_attr("same plan as", f"trial {same.number}")
                if same.state == TrialState.COMPLETE:
                    study.optuna.tell(trial, same.values)
                else:
                    study.optuna.tell(trial, state=TrialState.FAIL)
            refused += 1
    if refused == _MOST_REFUSED:
        _logger.info("the sampler proposed nothing new %d times in a row", refused)
    return taken


def _row(trial: optuna.Trial, space: SearchSpace, options: Options) -> Numbers:
    """The plan of the space that a trial's suggestions stand for."""
    plans = space.begin()
    for encoder, names in enumerate(options.chosen):
        wanted = space.choices[encoder][0]
        if len(names) > 1:
            name = trial.suggest_categorical(f"encoder {encoder}", options.names[encoder])
            wanted = space.choices[encoder][names.index(str(name))]
        legal = np.flatnonzero(space.legal(encoder, plans)[0])
        nearest = max(legal, key=lambda number: _nearness(space.choices[encoder][number], wanted))
        plans = space.follow(encoder, plans, np.array([nearest]))
    row: Numbers = plans.rows[0]
    return row


def _nearness(choice: Choice, wanted: Choice) -> tuple[bool, bool, bool, bool, int]:
    """How much of what was suggested a choice does: its form first, then its source."""
    return (
        (choice.form > 0) == (wanted.form > 0),
        choice.form == wanted.form,
        choice.source == wanted.source,
        choice.share == wanted.share,
        -abs(choice.pairs - wanted.pairs),
    )
