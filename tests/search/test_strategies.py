"""Strategies: what they choose is within the budget, and what makes each of them itself."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from optuna.trial import TrialState
from priced_spaces import priced_space, random_losses

from trex.errors import InfeasibleError, SpaceError
from trex.plan import Plan, uniform_plans
from trex.search.entries import Options, entry
from trex.search.feasible import PricedSpace
from trex.search.predict import Losses
from trex.search.problem import SearchSettings
from trex.search.sampled import propose, sampler_of
from trex.search.space import Numbers
from trex.search.storage import open_storage
from trex.search.strategies import STRATEGIES, Chosen, Task
from trex.search.study import Study

SPACES = ("default", "mixed", "any", "joint")
#: of the joint space, so that few plans are many
COARSE = {"merging.step": 0.25, "merging.most": 0.5, "rows.shares": [0.5]}
#: those that choose from a space
CHOOSING = sorted(STRATEGIES.keys() - {"given"})


def space(name: str, encoders: int = 5, budget: str = "0.85x") -> PricedSpace:
    return priced_space(
        encoders, {"latency": budget}, space=name, accounting="paper",
        overrides=COARSE if name == "joint" else None,
    )  # fmt: skip


def choose(name: str, priced: PricedSpace, wanted: int = 8, seed: int = 0, **more: int) -> Chosen:
    losses = random_losses(priced, 0)
    return STRATEGIES[name].choose(
        Task(priced=priced, losses=losses, wanted=wanted, seed=seed, **more)
    )


def rows_of(chosen: Chosen, priced: PricedSpace) -> Numbers:
    return np.stack([priced.space.row(plan) for plan in chosen.plans])


@pytest.mark.parametrize("within", SPACES)
@pytest.mark.parametrize("name", CHOOSING)
def test_chosen_plans_are_different_ones_within_the_budget(name: str, within: str) -> None:
    priced = space(within)
    rows = rows_of(choose(name, priced), priced)
    assert 0 < len(rows) <= 8
    assert len(np.unique(rows, axis=0)) == len(rows)
    assert priced.space.holds(rows).all()
    assert priced.fits(priced.price(rows)).all()


@pytest.mark.parametrize("name", CHOOSING)
def test_a_budget_nothing_fits_is_refused(name: str) -> None:
    with pytest.raises((InfeasibleError, SpaceError)) as caught:
        choose(name, space("default", budget="0.01x"))
    assert caught.value.hint


@pytest.mark.parametrize("within", SPACES)
def test_exact_begins_with_the_plan_of_least_predicted_loss(within: str) -> None:
    priced = space(within)
    chosen = choose("exact", priced)
    rows = priced.space.all_rows()
    fitting = rows[priced.fits(priced.price(rows))]
    least = random_losses(priced, 0).predict(fitting).min()
    assert chosen.proof is not None
    assert chosen.proof.predicted_loss == pytest.approx(least)
    assert chosen.proof.proved
    assert chosen.proof.bound == pytest.approx(least)
    assert random_losses(priced, 0).predict(rows_of(chosen, priced)[:1])[0] == pytest.approx(least)


def test_levels_of_edap_cover_more_prices() -> None:
    priced = space("default", 5, "1x")

    def spread(chosen: Chosen) -> float:
        edap = np.log(priced.price(rows_of(chosen, priced)).edap_j_s_m2)
        return float(np.ptp(edap) / len(edap) + np.std(edap))

    narrow, wide = (choose("exact", priced, 12, levels=levels) for levels in (0, 8))
    assert spread(wide) > spread(narrow)
    assert wide.plans[0] == narrow.plans[0]


def test_random_draws_every_plan_alike() -> None:
    priced = space("default", 4)
    rows = priced.space.all_rows()
    fitting = rows[priced.fits(priced.price(rows))]
    counts = {priced.space.plan(row): 0 for row in fitting}
    for seed in range(300):
        counts[choose("random", priced, 1, seed).plans[0]] += 1
    expected = 300 / len(counts)
    chi2 = sum((count - expected) ** 2 / expected for count in counts.values())
    assert chi2 < 4 * len(counts)


def test_random_repeats_with_its_seed() -> None:
    priced = space("any", 12)  # too many plans to list
    one, same, other = (choose("random", priced, seed=seed).plans for seed in (1, 1, 2))
    assert one == same
    assert one != other


def test_the_papers_candidates_are_its_uniform_patterns_of_the_least_number() -> None:
    priced = space("default", 9, "0.75x")
    chosen = choose("paper", priced, 99).plans
    counts = {plan.n_reuse for plan in chosen}
    assert len(counts) == 1
    n_reuse = counts.pop()
    assert set(chosen) == set(uniform_plans(9, n_reuse))
    fewer = uniform_plans(9, n_reuse - 1)[0]
    row = np.array([fewer.reuse_of(i) is not None and 1 for i in range(9)], dtype=np.intp)
    assert not priced.fits(priced.price(row[None]))[0]


def test_given_plans_are_taken_whatever_they_cost_and_do() -> None:
    priced = space("default", budget="0.01x")
    given = (Plan.parse("3~4 4=class"), Plan.parse("2<-1:map"))
    task = Task(priced=priced, losses=None, wanted=1, seed=0, given=given)
    assert STRATEGIES["given"].choose(task) == Chosen(plans=given)


class Sampled:
    """A study that a sampler fills; losses are predicted ones."""

    def __init__(self, priced: PricedSpace, folder: Path, **settings: str) -> None:
        self.priced = priced
        self.losses: Losses = random_losses(priced, 0)
        asked = SearchSettings(evaluations=24, **settings)  # type: ignore[arg-type]
        self.sampler = sampler_of(asked, "edap")
        self.open = lambda: Study(
            open_storage(None, folder, "sampled"),
            "sampled",
            self.sampler.objectives,
            {},
            self.sampler.make(),
        )

    def fill(self, study: Study, total: int) -> Numbers:
        evaluated = []
        options = Options(self.priced.space)
        note = partial(entry, options=options, notes={})
        while taken := propose(
            study, priced=self.priced, options=options, total=total, entry=note
        ):
            for candidate in taken:
                row = self.priced.space.row(candidate)
                evaluated.append(row)
                values = [float(self.losses.predict(row[None])[0])]
                if len(self.sampler.objectives) == 2:
                    values.append(float(self.priced.price(row[None]).edap_mj_ms_mm2[0]))
                study.finish(candidate.key, values, {})
        return np.array(evaluated)


@pytest.mark.parametrize("within", SPACES)
@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_a_sampler_measures_only_new_plans_within_the_budget(
    within: str, sampler: str, tmp_path: Path
) -> None:
    priced = space(within, 5)
    sampled = Sampled(priced, tmp_path, sampler=sampler)
    with closing(sampled.open()) as study:
        rows = sampled.fill(study, 10)
        assert len(rows) == len(np.unique(rows, axis=0)) == 10
        assert priced.fits(priced.price(rows)).all()
        assert priced.space.holds(rows).all()
        assert len(sampled.fill(study, 10)) == 0
        for trial in study.optuna.trials:
            if trial.state == TrialState.PRUNED:
                assert max(trial.constraints.values()) > 0
            elif "same plan as" in trial.user_attrs:
                assert trial.state in (TrialState.COMPLETE, TrialState.FAIL)


def test_a_sampler_ends_where_every_plan_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trex.search.sampled._MOST_REFUSED", 40)
    priced = space("default", 3, "1x")
    sampled = Sampled(priced, tmp_path)
    with closing(sampled.open()) as study:
        assert len(sampled.fill(study, 99)) == 4
