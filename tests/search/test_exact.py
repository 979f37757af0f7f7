"""The exact solver against looking at every plan."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from priced_spaces import priced_space, random_terms

from trex.errors import InfeasibleError
from trex.hardware import load_chip
from trex.search.exact import front, method_for, solve
from trex.search.exact_listing import Listing
from trex.search.feasible import PricedSpace
from trex.search.plans import all_rows, holds
from trex.search.space import SearchSpace
from trex.search.terms import LossTerms

FORMS = (("output", "linear"), ("map", "linear"), ("map", "linear_own"), ("output", "block"))
METHODS = ("enumeration", "consumer sets", "milp")
QUANTITIES = ("latency", "energy", "area", "edap", "params", "macs")


@st.composite
def spaces(draw, most: int = 6) -> SearchSpace:
    encoders = draw(st.integers(2, most))
    split = draw(st.integers(1, encoders))
    stages = tuple(int(i >= split) for i in range(encoders))
    may = draw(st.lists(st.integers(0, 4).map(bool), min_size=encoders, max_size=encoders))
    return SearchSpace(
        name="drawn",
        forms=FORMS[: draw(st.integers(1, 4))],
        may_reuse=tuple(may[i] and i > 0 and stages[i] == stages[i - 1] for i in range(encoders)),
        stages=stages,
        max_run=draw(st.integers(1, encoders)),
        max_reuse=draw(st.integers(0, encoders)),
        source=draw(st.sampled_from(["nearest", "any"])),
        mixed=draw(st.booleans()),
    )


budgets = st.dictionaries(
    st.sampled_from(QUANTITIES), st.floats(0.5, 1.1).map(lambda x: f"{x:.4f}x"), min_size=1
)


def by_hand(priced: PricedSpace, terms: LossTerms) -> np.ndarray:
    """The losses of all plans within the budget, least first."""
    rows = all_rows(priced.space)
    fits = priced.fits(priced.price(rows))
    return np.sort(terms.predict(rows[fits]))


def agrees(priced: PricedSpace, terms: LossTerms, count: int, method) -> None:
    expected = by_hand(priced, terms)
    if not len(expected):
        with pytest.raises(InfeasibleError):
            solve(priced, terms, count, method=method)
        return
    found = solve(priced, terms, count, method=method, most_work=10**12)
    assert found.method == method
    assert found.losses == pytest.approx(expected[:count], rel=1e-6, abs=1e-6)
    assert len(np.unique(found.rows, axis=0)) == len(found.rows)
    assert holds(priced.space, found.rows).all()
    assert terms.predict(found.rows) == pytest.approx(found.losses)
    assert priced.fits(found.costs).all()
    assert found.costs.latency_s == pytest.approx(priced.price(found.rows).latency_s)
    assert found.proved
    assert (found.bounds <= found.losses).all()


@pytest.mark.parametrize("method", METHODS)
@given(
    space=spaces(), budget=budgets, seed=st.integers(0, 10_000), count=st.integers(1, 30),
    full=st.booleans(), digits=st.sampled_from([None, 0, 1]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_the_best_plans_are_those_of_looking_at_all(
    method, space, budget, seed, count, full, digits
) -> None:
    priced = priced_space(
        space.num_encoders, budget, space=space, seed=seed,
        accounting="full" if full else "paper",
    )  # fmt: skip
    agrees(priced, random_terms(priced, seed, digits), count, method)


@given(
    source=st.sampled_from(["nearest", "any"]), forms=st.integers(1, 2), mixed=st.booleans(),
    budget=budgets, seed=st.integers(1, 10_000), count=st.integers(1, 6),
)  # fmt: skip
@settings(max_examples=12, deadline=None)
def test_methods_agree_without_being_given_more_work(
    source, forms, mixed, budget, seed, count
) -> None:
    space = SearchSpace(
        name="seven", forms=FORMS[:forms], may_reuse=(False, *[True] * 6), stages=(0,) * 7,
        max_run=6, max_reuse=6, source=source, mixed=mixed,
    )  # fmt: skip
    priced = priced_space(7, budget, space=space, seed=seed)
    terms = random_terms(priced, seed)
    expected = by_hand(priced, terms)[:count]
    for method in METHODS if len(expected) else ():
        found = solve(priced, terms, count, method=method)
        assert found.proved, method
        assert found.losses == pytest.approx(expected, rel=1e-6, abs=1e-6), method
        # a bound is of the plan that belongs in its place
        assert (found.bounds <= expected + 1e-6).all(), method


@pytest.mark.parametrize("schedule", ["parallel", "pipelined"])
@given(budget=budgets, seed=st.integers(1, 10_000))
@settings(max_examples=15, deadline=None)
def test_every_schedule_of_the_chip(schedule, budget, seed) -> None:
    chip = load_chip("trex_fefet_32nm", {"options.schedule": schedule})
    priced = priced_space(4, budget, chip=chip, seed=seed)
    agrees(priced, random_terms(priced, seed), 5, "consumer sets")


@pytest.mark.parametrize("method", METHODS)
def test_losses_all_alike(method) -> None:
    priced = priced_space(5, {"edap": "0.8x"})
    zero = random_terms(priced, 0)
    zero = LossTerms(**{name: 0 * getattr(zero, name) for name in zero.__slots__})
    agrees(priced, zero, 7, method)


@pytest.mark.parametrize("method", METHODS)
def test_only_the_original(method) -> None:
    only = SearchSpace(
        name="none", forms=FORMS, may_reuse=(False,) * 4, stages=(0,) * 4, max_run=4, max_reuse=4,
        source="any", mixed=True,
    )  # fmt: skip
    priced = priced_space(4, {"latency": "1x"}, space=only)
    found = solve(priced, random_terms(priced, 0), 9, method=method)
    assert found.rows.tolist() == [[0, 0, 0, 0]]
    assert found.losses == [0.0]


@pytest.mark.parametrize("method", METHODS)
def test_a_budget_that_all_keep(method) -> None:
    priced = priced_space(3, {"latency": "9x"})
    terms = random_terms(priced, 1)
    found = solve(priced, terms, 10**6, method=method, most_work=10**12)
    assert len(found.rows) == priced.space.size
    assert found.proved


@pytest.mark.parametrize("method", METHODS)
@given(space=spaces(), budget=budgets, seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_nothing_fits_names_the_nearest_plan(method, space, budget, seed) -> None:
    budget = {quantity: f"{float(limit[:-1]) / 10}x" for quantity, limit in budget.items()}
    priced = priced_space(space.num_encoders, budget, space=space, seed=seed)
    rows = all_rows(space)
    overrun = priced.budget.overrun(priced.price(rows), priced.baseline)
    if overrun.min() <= 1:
        return
    with pytest.raises(InfeasibleError) as caught:
        solve(priced, random_terms(priced, seed), method=method)
    assert caught.value.exit_code == 3
    least = rows[overrun <= overrun.min() * (1 + 1e-9)]
    nearest = [str(priced.choices.plan(row)) for row in least]
    assert any(f'the nearest is "{plan}":' in caught.value.message for plan in nearest)
    assert f"none of {space.size:,} plans fits" in caught.value.message


def test_a_proof_given_up_says_so() -> None:
    priced = priced_space(9, {"latency": "0.8x", "edap": "0.7x"}, seed=3)
    terms = random_terms(priced, 3)
    whole = solve(priced, terms, 200, method="consumer sets")
    assert whole.proved
    assert (whole.gaps == 0).all()
    part = solve(priced, terms, 200, method="consumer sets", most_work=0)
    assert not part.proved
    assert (part.gaps >= 0).all()
    assert (part.losses >= whole.losses - 1e-9).all()
    # what is said to be proved is: no plan is better than the bound
    assert (part.bounds <= whole.losses + 1e-9).all()


def test_a_programme_given_up_says_so_too() -> None:
    priced = priced_space(6, {"edap": "0.7x"}, seed=3)
    terms = random_terms(priced, 3)
    best = solve(priced, terms, 5)
    part = solve(priced, terms, 5, method="milp", most_work=1)
    assert not part.proved
    assert len(part.rows) == 5
    assert (part.losses >= best.losses - 1e-6).all()
    assert (part.bounds <= best.losses + 1e-6).all()


def test_the_method_suits_the_space() -> None:
    assert method_for(priced_space(5, {"latency": "1x"})) == "enumeration"
    assert method_for(priced_space(12, {"latency": "1x"})) == "consumer sets"
    assert method_for(priced_space(32, {"latency": "1x"})) == "milp"


def test_a_large_space_is_proved() -> None:
    priced = priced_space(12, {"latency": "0.7x", "params": "0.8x"})
    terms = random_terms(priced, 5)
    found = solve(priced, terms, 20)
    assert found.proved
    assert (np.diff(found.losses) >= 0).all()
    # no plan that differs from the best in one encoder is better
    best = found.rows[0]
    neighbours = np.repeat(best[None], 12 * priced.choices.width, axis=0)
    neighbours[np.arange(len(neighbours)), np.repeat(np.arange(12), priced.choices.width)] = (
        np.tile(np.arange(priced.choices.width), 12)
    )
    width = np.array([len(of) for of in priced.choices.of])
    neighbours = neighbours[(neighbours < width).all(axis=1)]
    neighbours = neighbours[holds(priced.space, neighbours)]
    neighbours = neighbours[priced.fits(priced.price(neighbours))]
    assert len(neighbours)
    assert (terms.predict(neighbours) >= found.losses[0] - 1e-12).all()


def test_equal_limits_are_one_limit() -> None:
    priced = priced_space(6, {"latency": "0.8x"})
    twice = replace(priced, budget=replace(priced.budget, limits=priced.budget.limits * 2))
    terms = random_terms(priced, 6)
    one = solve(priced, terms, 5, method="consumer sets")
    two = solve(twice, terms, 5, method="consumer sets")
    assert one.rows.tolist() == two.rows.tolist()


@pytest.mark.parametrize("method", METHODS[:2])
@given(
    space=spaces(5), budget=budgets, seed=st.integers(0, 10_000), points=st.integers(1, 8)
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_every_plan_of_a_front_is_the_best_at_its_price(
    method, space, budget, seed, points
) -> None:
    priced = priced_space(space.num_encoders, budget, space=space, seed=seed)
    terms = random_terms(priced, seed)
    rows = all_rows(space)
    costs = priced.price(rows)
    fits = priced.fits(costs)
    edap, losses = costs.edap_j_s_m2[fits], terms.predict(rows[fits])
    if not len(losses):
        with pytest.raises(InfeasibleError):
            front(priced, terms, points, method=method)
        return
    found = front(priced, terms, points, method=method)
    assert 1 <= len(found.rows) <= points
    assert found.proved
    assert priced.fits(found.costs).all()
    assert (np.diff(found.costs.edap_j_s_m2) > 0).all()
    assert (np.diff(found.losses) < 0).all()
    assert found.losses[-1] == pytest.approx(losses.min())
    for price, loss in zip(found.costs.edap_j_s_m2, found.losses, strict=True):
        assert loss == pytest.approx(losses[edap <= price * (1 + 1e-9)].min())


def test_a_front_of_many_points_reaches_from_the_cheapest_to_the_best() -> None:
    priced = priced_space(5, {"latency": "1x"})
    terms = random_terms(priced, 7)
    rows = all_rows(priced.space)
    found = front(priced, terms, 40)
    assert found.costs.edap_j_s_m2[0] == pytest.approx(priced.price(rows).edap_j_s_m2.min())
    assert found.losses[-1] == pytest.approx(terms.predict(rows).min())
    assert len(found.rows) > 4


def test_levels_and_best_plans_are_read_off_one_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    priced = priced_space(5, {"latency": "0.9x"})
    terms = random_terms(priced, 8)
    apart = solve(priced, terms, 6), front(priced, terms, 10)
    listed = []

    def all_rows_once(space: SearchSpace) -> np.ndarray:
        listed.append(space)
        return all_rows(space)

    monkeypatch.setattr("trex.search.exact_listing.all_rows", all_rows_once)
    listing = Listing.of(priced, terms)
    for one, other in zip(
        apart,
        (
            solve(priced, terms, 6, listing=listing),
            front(priced, terms, 10, listing=listing),
        ),
        strict=True,
    ):
        assert one.rows.tolist() == other.rows.tolist()
        assert one.bounds.tolist() == other.bounds.tolist()
    assert len(listed) == 1
    front(priced, terms, 10)
    assert len(listed) == 2
