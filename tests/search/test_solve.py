"""The solver against looking at every plan."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from priced_spaces import MACHINE, drawn_spaces, priced_space, random_losses

from trex.errors import InfeasibleError
from trex.hardware import load_chip
from trex.search.budget import Budget
from trex.search.feasible import PricedSpace
from trex.search.predict import Losses
from trex.search.solve import Solver, _going_on
from trex.search.space import SearchSpace

#: coarse enough to list
COARSE = {
    "merging": {"step": 0.25, "most": 0.5, "least": 0.2},
    "rows": {"shares": [0.5], "groups": True},
}
SPACES: dict[str, tuple[int, dict[str, Any]]] = {
    "default": (9, {"space": "default"}),
    "any": (4, {"space": "any"}),
    "unmixed": (6, {"space": "any", "overrides": {"mixed": False, "max_run": 2, "max_reuse": 3}}),
    "joint": (4, {"space": "joint", "overrides": COARSE}),
    "rows": (5, {"space": "joint", "overrides": COARSE, "keep_tokens": True}),
}
BUDGETS: list[dict[Any, str | None]] = [
    {"latency": "0.8x"},
    {"edap": "0.6x"},
    {"energy": "0.85x", "area": "0.95x"},
    {"params": "0.9x", "macs": "0.9x"},
]


def best_of_all(priced: PricedSpace, losses: Losses) -> tuple[np.ndarray, np.ndarray]:
    rows = priced.space.all_rows()
    rows = rows[priced.fits(priced.price(rows))]
    found = losses.predict(rows)
    order = np.argsort(found, kind="stable")
    return rows[order], found[order]


@pytest.mark.parametrize("budget", BUDGETS, ids=lambda b: ",".join(b))
@pytest.mark.parametrize("name", SPACES)
def test_the_best_plans_are_those_of_looking_at_every_plan(
    name: str, budget: dict[Any, str | None]
) -> None:
    encoders, kind = SPACES[name]
    priced = priced_space(encoders, budget, seed=1, **kind)
    losses = random_losses(priced, 0)
    rows, expected = best_of_all(priced, losses)
    if not len(rows):
        with pytest.raises(InfeasibleError):
            Solver(priced, losses).solve(priced.budget, 5)
        return
    found = Solver(priced, losses).solve(priced.budget, 5)
    np.testing.assert_allclose(found.losses, expected[:5], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(losses.predict(found.rows), found.losses)
    assert found.proved
    assert priced.fits(found.costs).all()
    assert priced.space.holds(found.rows).all()
    assert len(np.unique(found.rows, axis=0)) == len(found.rows)


@pytest.mark.parametrize("name", SPACES)
def test_a_narrow_search_says_what_it_leaves_open(name: str) -> None:
    encoders, kind = SPACES[name]
    priced = priced_space(encoders, {"latency": "0.75x"}, seed=3, **kind)
    losses = random_losses(priced, 5)
    _, expected = best_of_all(priced, losses)
    found = Solver(priced, losses).solve(priced.budget, 3, most=3)
    assert (found.bounds[0] <= expected[0] + 1e-9).all()
    assert (found.gaps >= -1e-12).all()


def test_the_nearest_plan_is_named_where_none_fits() -> None:
    priced = priced_space(4, {"latency": "0.1x"}, space="joint", overrides=COARSE)
    losses = random_losses(priced, 0)
    rows = priced.space.all_rows()
    overrun = priced.budget.overrun(priced.price(rows), priced.baseline)
    nearest = str(priced.space.plan(rows[overrun.argmin()]))
    with pytest.raises(InfeasibleError, match="none of") as caught:
        Solver(priced, losses).solve(priced.budget)
    named = Solver(priced, losses).nearest(priced.budget)
    costs = priced.price(named[None])
    assert priced.budget.overrun(costs, priced.baseline)[0] == pytest.approx(overrun.min())
    assert f'"{priced.space.plan(named)}"' in caught.value.message
    assert nearest


def test_a_front_is_best_at_every_level() -> None:
    priced = priced_space(4, {"latency": "0.9x"}, space="joint", overrides=COARSE, seed=2)
    losses = random_losses(priced, 1)
    front = Solver(priced, losses).front(priced.budget, 4)
    rows, expected = best_of_all(priced, losses)
    edap = priced.price(rows).edap_j_s_m2
    assert (np.diff(front.costs.edap_j_s_m2) > 0).all()
    assert (np.diff(front.losses) < 0).all()
    for at, loss in zip(front.costs.edap_j_s_m2, front.losses, strict=True):
        assert loss == pytest.approx(expected[edap <= at * (1 + 1e-12)].min())


@pytest.mark.parametrize(
    "budget", [{"latency": "0.8x"}, {"latency": "0.9x", "params": "0.95x"}, {"macs": "0.85x"}],
    ids=lambda b: ",".join(b),
)  # fmt: skip
@pytest.mark.parametrize("name", SPACES)
def test_a_measured_machine_is_solved_like_a_chip(
    name: str, budget: dict[Any, str | None]
) -> None:
    encoders, kind = SPACES[name]
    priced = priced_space(encoders, budget, chip=MACHINE, accounting="measured", seed=1, **kind)
    losses = random_losses(priced, 0)
    agrees(priced, losses, 5)


def test_a_front_on_a_measured_machine_is_one_of_latencies() -> None:
    priced = priced_space(
        4, {"latency": "0.9x"}, space="joint", overrides=COARSE, chip=MACHINE,
        accounting="measured", seed=2,
    )  # fmt: skip
    losses = random_losses(priced, 1)
    front = Solver(priced, losses).front(priced.budget, 4)
    rows, expected = best_of_all(priced, losses)
    latency = priced.price(rows).latency_s
    assert len(front.rows) > 1
    assert (np.diff(front.costs.latency_s) > 0).all()
    assert (np.diff(front.losses) < 0).all()
    for at, loss in zip(front.costs.latency_s, front.losses, strict=True):
        assert loss == pytest.approx(expected[latency <= at * (1 + 1e-12)].min())
    price = front.costs.estimate(0, MACHINE, "measured")
    assert (price.basis, price.energy_j, price.edap_mj_ms_mm2) == ("measured", None, None)


def test_no_losses_are_needed_to_know_what_fits() -> None:
    priced = priced_space(5, {"edap": "0.9x"}, space="joint", overrides=COARSE)
    budget = Budget.parse({"edap": "0.9x"})
    row = Solver(priced, random_losses(priced, 0)).nearest(budget)
    assert priced.fits(priced.price(row[None]))[0]


budgets = st.dictionaries(
    st.sampled_from(["latency", "energy", "area", "edap", "params", "macs"]),
    st.floats(0.4, 1.1).map(lambda x: f"{x:.4f}x"),
    min_size=1,
)


def agrees(priced: PricedSpace, losses: Losses, count: int) -> None:
    """The best plans are found and proved; where none fits the nearest is named."""
    rows, expected = best_of_all(priced, losses)
    solver = Solver(priced, losses)
    if not len(rows):
        with pytest.raises(InfeasibleError, match="the nearest is") as caught:
            solver.solve(priced.budget, count)
        every = priced.space.all_rows()
        overrun = priced.budget.overrun(priced.price(every), priced.baseline)
        nearest = every[overrun <= overrun.min() * (1 + 1e-9)]
        assert any(f'"{priced.space.plan(row)}"' in caught.value.message for row in nearest)
        return
    found = solver.solve(priced.budget, count)
    np.testing.assert_allclose(found.losses, expected[:count], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(losses.predict(found.rows), found.losses, rtol=1e-9, atol=1e-12)
    assert len(np.unique(found.rows, axis=0)) == len(found.rows)
    assert priced.space.holds(found.rows).all()
    assert priced.fits(found.costs).all()
    assert found.proved
    assert (found.bounds <= expected[:count] * (1 + 1e-6) + 1e-9).all()


@given(
    space=drawn_spaces(4), budget=budgets, seed=st.integers(0, 10_000),
    count=st.integers(1, 20), full=st.booleans(), digits=st.sampled_from([None, 0, 1]),
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_any_space_is_solved(
    space: SearchSpace, budget: Any, seed: int, count: int, full: bool, digits: int | None
) -> None:
    priced = priced_space(
        space.num_encoders, budget, space=space, seed=seed,
        accounting="full" if full else "paper",
    )  # fmt: skip
    agrees(priced, random_losses(priced, seed, digits), count)


@pytest.mark.parametrize("schedule", ["parallel", "pipelined"])
@given(budget=budgets, seed=st.integers(1, 10_000))
@settings(max_examples=4, deadline=None)
def test_every_schedule_of_the_chip(schedule: str, budget: Any, seed: int) -> None:
    chip = load_chip("trex_fefet_32nm", {"options.schedule": schedule})
    priced = priced_space(3, budget, space="joint", overrides=COARSE, chip=chip, seed=seed)
    agrees(priced, random_losses(priced, seed), 5)


def test_a_budget_that_all_keep_leaves_every_plan() -> None:
    priced = priced_space(3, {"latency": "9x"}, space="joint", overrides=COARSE)
    found = Solver(priced, random_losses(priced, 1)).solve(priced.budget, 10**6)
    assert len(found.rows) == priced.space.size
    assert found.proved


def test_a_limit_given_twice_is_one_limit() -> None:
    priced = priced_space(4, {"edap": "0.8x"}, space="joint", overrides=COARSE, seed=1)
    solver = Solver(priced, random_losses(priced, 6))
    twice = Budget(limits=priced.budget.limits * 2)
    one, two = (solver.solve(budget, 5) for budget in (priced.budget, twice))
    assert one.rows.tolist() == two.rows.tolist()


def test_no_plan_that_differs_in_one_encoder_is_better() -> None:
    priced = priced_space(12, {"latency": "0.7x"}, space="joint", seed=5)
    losses = random_losses(priced, 5)
    found = Solver(priced, losses).solve(priced.budget, 8)
    assert (np.diff(found.losses) >= 0).all()
    assert (found.gaps >= 0).all()
    best = found.rows[0]
    changed = [
        np.where(np.arange(12) == encoder, number, best)
        for encoder, of in enumerate(priced.space.choices)
        for number in range(len(of))
    ]
    near = np.array(changed)[priced.space.holds(changed)]
    near = near[priced.fits(priced.price(near))]
    assert len(near) > 12
    assert (losses.predict(near) >= found.losses[0] - 1e-12).all()


def test_beginnings_of_every_set_of_consumers_go_on() -> None:
    rng = np.random.default_rng(0)
    least, sets = rng.random(400), np.repeat(np.arange(8), 50)
    least += sets  # the later sets have by far the higher bounds
    chosen = _going_on(least, sets, 40)
    assert chosen.sum() == 40
    assert chosen[np.argsort(least)[:20]].all()  # half of them by their bounds alone
    assert set(sets[chosen]) == set(range(8))
    for one in range(8):  # of each the best
        of = np.flatnonzero(sets == one)
        assert least[of[chosen[of]]].max() <= least[of[~chosen[of]]].min()
