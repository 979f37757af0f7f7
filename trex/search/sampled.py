"""Plans proposed by Optuna's samplers, which learn from what was measured before.

A proposal names a choice for every encoder, which need not make a plan of the space: where a
source reuses, its own source is meant; where the space wants the nearest, that; where it wants one
form, the first consumer's. A plan over budget is never measured: its price is known, and the
sampler is told by how much it overruns. Nor is one measured twice: its result is told again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.trial import TrialState

from trex.plan import EncoderPlan, Form, Plan, Reuse
from trex.search.budget import TOLERANCE
from trex.search.entries import EDAP, LOSS, decision_name
from trex.search.feasible import PricedSpace
from trex.search.plans import holds
from trex.search.problem import SearchSettings
from trex.search.space import SearchSpace
from trex.search.study import Entry, Study
from trex.search.terms import Choices, Rows

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


def sampler_of(settings: SearchSettings) -> Sampler:
    """The sampler that the settings ask for."""
    seed = settings.seed
    if settings.sampler == "tpe":
        return Sampler(objectives=(LOSS,), make=lambda: TPESampler(seed=seed))
    population = max(4, settings.evaluations // 4)
    return Sampler(
        objectives=(LOSS, EDAP),
        make=lambda: NSGAIISampler(population_size=population, seed=seed),
    )


def propose(
    study: Study, *, priced: PricedSpace, total: int, entry: Callable[[Plan], Entry]
) -> Sequence[Plan]:
    """Take some new plans within the budget, or none if there are enough or no more are found.

    Args:
        study: that learns.
        priced: the plans, their prices and the budget.
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
            row = _row(trial, priced.space, priced.choices)
            overrun = float(priced.budget.overrun(priced.price(row[None]), priced.baseline)[0])
            trial.set_constraint("over the budget, as a share of it", overrun - 1.0 - TOLERANCE)
            if not holds(priced.space, row[None])[0]:
                trial.set_constraint("no plan of the search space", 1.0)
                study.optuna.tell(trial, state=TrialState.PRUNED)
            elif overrun > 1.0 + TOLERANCE:
                study.optuna.tell(trial, state=TrialState.PRUNED)
            else:
                plan = priced.choices.plan(row)
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


def _row(trial: optuna.Trial, space: SearchSpace, choices: Choices) -> Rows:
    """The plan that a trial's suggestions stand for."""
    row = np.zeros(choices.num_encoders, dtype=np.intp)
    sources: dict[int, int] = {}
    form: Form | None = None
    for encoder, options in enumerate(choices.of):
        if len(options) < 2:
            continue
        names = [decision_name(EncoderPlan(option)) for option in options]
        chosen = options[names.index(trial.suggest_categorical(f"encoder {encoder}", names))]
        if chosen is not None:
            source = encoder - 1 if space.source == "nearest" else chosen.source
            form = chosen.form if space.mixed or form is None else form
            sources[encoder] = sources.get(source, source)
            row[encoder] = options.index(Reuse(encoder, sources[encoder], *form))
    return row
