"""The solver against looking at every plan."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from priced_spaces import priced_space, random_losses

from trex.errors import InfeasibleError
from trex.search.budget import Budget
from trex.search.feasible import PricedSpace
from trex.search.predict import Losses
from trex.search.solve import Solver

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
    for seed in range(2):
        priced = priced_space(encoders, budget, seed=seed + 1, **kind)
        losses = random_losses(priced, seed)
        rows, expected = best_of_all(priced, losses)
        if not len(rows):
            with pytest.raises(InfeasibleError):
                Solver(priced, losses).solve(priced.budget, 5)
            continue
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


def test_no_losses_are_needed_to_know_what_fits() -> None:
    priced = priced_space(5, {"edap": "0.9x"}, space="joint", overrides=COARSE)
    budget = Budget.parse({"edap": "0.9x"})
    row = Solver(priced, random_losses(priced, 0)).nearest(budget)
    assert priced.fits(priced.price(row[None]))[0]
