from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trex.errors import PlanError, SpaceError
from trex.search.plans import RandomPlans, all_rows, holds
from trex.search.space import SearchSpace

FORMS = (("output", "linear"), ("map", "none"), ("map", "linear_own"))


@st.composite
def spaces(draw) -> SearchSpace:
    encoders = draw(st.integers(1, 5))
    split = draw(st.integers(1, encoders))
    stages = tuple(int(i >= split) for i in range(encoders))
    may = draw(st.lists(st.booleans(), min_size=encoders, max_size=encoders))
    return SearchSpace(
        name="drawn",
        forms=FORMS[: draw(st.integers(1, 3))],
        may_reuse=tuple(may[i] and i > 0 and stages[i] == stages[i - 1] for i in range(encoders)),
        stages=stages,
        max_run=draw(st.integers(1, 5)),
        max_reuse=draw(st.integers(0, 5)),
        source=draw(st.sampled_from(["nearest", "any"])),
        mixed=draw(st.booleans()),
    )


def by_definition(space: SearchSpace) -> set[tuple[int, ...]]:
    """Every combination of choices that is a plan and keeps what the space says, one by one."""
    choices, found = space.choices(), set()
    for row in itertools.product(*(range(len(of)) for of in choices.of)):
        try:
            plan = choices.plan(row)
        except PlanError:
            continue
        consumers = set(plan.consumers)
        forms = {r.form for r in plan.reuses}
        runs = "".join("x" if i in consumers else " " for i in range(len(row))).split()
        nearest = {r.consumer: r.source for r in type(plan).nearest(consumers).reuses}
        if (
            len(consumers) <= space.max_reuse
            and all(len(run) <= space.max_run for run in runs)
            and all(space.may_reuse[i] for i in consumers)
            and all(space.stages[r.source] == space.stages[r.consumer] for r in plan.reuses)
            and (space.mixed or len(forms) <= 1)
            and (
                space.source == "any" or all(nearest[r.consumer] == r.source for r in plan.reuses)
            )
        ):
            found.add(row)
    return found


@given(spaces())
@settings(max_examples=40, deadline=None)
def test_a_space_is_what_it_says(space: SearchSpace) -> None:
    rows = all_rows(space)
    expected = by_definition(space)
    assert not rows[0].any()
    assert {tuple(row) for row in rows.tolist()} == expected
    assert len(rows) == len(expected) == space.size
    every = np.array(list(itertools.product(*(range(len(of)) for of in space.choices().of))))
    if len(every) < 30_000:
        assert {tuple(row) for row in every[holds(space, every)].tolist()} == expected


@given(spaces(), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_random_plans_are_of_the_space(space: SearchSpace, n_reuse: int) -> None:
    rng = np.random.default_rng(0)
    anything = RandomPlans(space)
    rows = np.array([anything.draw(rng) for _ in range(20)])
    assert holds(space, rows).all()
    if not ((all_rows(space) != 0).sum(axis=1) == n_reuse).any():
        with pytest.raises(SpaceError, match=f"no plan of {n_reuse} consumers"):
            RandomPlans(space, n_reuse)
        return
    exactly = RandomPlans(space, n_reuse)
    rows = np.array([exactly.draw(rng) for _ in range(20)])
    assert holds(space, rows).all()
    assert ((rows != 0).sum(axis=1) == n_reuse).all()


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("n_reuse", [None, 2])
def test_every_plan_is_as_likely_as_any_other(mixed: bool, n_reuse: int | None) -> None:
    space = SearchSpace(
        name="small", forms=FORMS[:2], may_reuse=(False, True, True, True), stages=(0,) * 4,
        max_run=2, max_reuse=3, source="any", mixed=mixed,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    random = RandomPlans(space, n_reuse)
    rows = all_rows(space)
    plans = len(rows) if n_reuse is None else ((rows != 0).sum(axis=1) == n_reuse).sum()
    draws = 100 * plans
    seen = Counter(tuple(random.draw(rng)) for _ in range(draws))
    assert len(seen) == plans
    # chi-squared of a uniform draw: plans - 1 on average, with a spread of sqrt(2 (plans - 1))
    squares = sum((count - 100) ** 2 / 100 for count in seen.values())
    assert squares < plans + 5 * np.sqrt(2 * plans)


def test_large_spaces_are_counted_but_not_enumerated() -> None:
    space = SearchSpace(
        name="large", forms=FORMS[:2], may_reuse=(False, *(True,) * 23), stages=(0,) * 24,
        max_run=24, max_reuse=24, source="any", mixed=True,
    )  # fmt: skip
    # one more encoder after p producers: another producer, or a consumer of 2p choices
    ways = {1: 1}
    for _ in range(23):
        after: Counter[int] = Counter()
        for producers, plans in ways.items():
            after[producers + 1] += plans
            after[producers] += 2 * producers * plans
        ways = after
    assert space.size == sum(ways.values()) > 10**18
    with pytest.raises(SpaceError, match=r"holds \d[\d,]+ plans"):
        all_rows(space)
    assert holds(space, RandomPlans(space).draw(np.random.default_rng(0))[None]).all()
