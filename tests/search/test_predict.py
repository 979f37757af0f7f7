"""Predicted losses: what is measured for them, and what they say of other plans."""

from __future__ import annotations

import itertools
import json
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from priced_spaces import priced_space, random_losses

from trex.plan import Layout, Merge, Plan, Rows
from trex.search.predict import (
    REACH,
    Losses,
    build,
    correlations,
    measured_pairs,
    probes,
    reference_form,
    triple_probes,
)
from trex.search.space import SearchSpace

FORM = ("output", "linear")
NEAREST = SearchSpace(
    name="nearest",
    layout=Layout(stages=(0,) * 9, tokens=5),
    forms=(FORM,),
    may_reuse=(False, True, True, False, True, True, True, True, True),
    max_run=9,
    max_reuse=9,
)
ANY = replace(
    NEAREST,
    name="any",
    source="any",
    mixed=True,
    forms=(("output", "none"), FORM, ("map", "linear")),
)
JOINT = SearchSpace(
    name="joint",
    layout=Layout(stages=(0,) * 6, tokens=41, protected=1, class_tokens=1, class_rows=1),
    forms=(FORM, ("map", "mixed"), ("map", "average")),
    may_reuse=(False, *(True,) * 5),
    max_run=6,
    max_reuse=6,
    mixed=True,
    pairs=((2, 4, 6, 8, 10),) * 6,
    least_tokens=9,
    shares=((0.5, 0.25),) * 6,
    groups=True,
    class_rows=True,
)
SPACES = pytest.mark.parametrize("space", [NEAREST, ANY, JOINT], ids=lambda space: space.name)


def measured(space: SearchSpace, seed: int = 0) -> dict[str, float]:
    """A made-up loss for every probe; more of anything loses more, pairs more than their parts."""
    rng = np.random.default_rng(seed)

    def loss(plan: Plan) -> float:
        pairs = sum(merge.pairs for merge in plan.merges)
        shared = sum(space.layout.tokens / rows.rows for rows in plan.rows if rows.rows != "class")
        return float(rng.uniform(0.9, 1.0) * plan.n_reuse**3 + 0.01 * pairs**2 + 0.1 * shared)

    return {plan.key: loss(plan) for plan in probes(space)}


def row(space: SearchSpace, plan: str | Plan) -> np.ndarray:
    parsed = Plan.parse(plan) if isinstance(plan, str) else plan
    return space.row(parsed)[None]


def predicted(losses: Losses, *plans: str) -> list[float]:
    return [float(losses.predict(row(losses.space, plan))[0]) for plan in plans]


# ---- probes


def test_probes_are_singles_near_pairs_and_near_triples() -> None:
    found = {plan.consumers for plan in probes(NEAREST)}
    free = (1, 2, 4, 5, 6, 7, 8)
    sets = [of for size in (1, 2, 3) for of in itertools.combinations(free, size)]
    assert found == {of for of in sets if of[-1] - of[0] <= REACH}
    assert {(1,), (2, 6), (4, 6, 8), (4, 5, 6)} < found
    assert found.isdisjoint({(2, 7), (1, 4, 6), (4, 5, 6, 7)})
    assert len(probes(NEAREST)) == len(found)
    assert all(plan == Plan.nearest(plan.consumers) for plan in probes(NEAREST))


def test_other_forms_and_sources_are_probed_alone() -> None:
    more = {plan.key: plan for plan in probes(ANY)}.keys() - {plan.key for plan in probes(NEAREST)}
    others = [plan for plan in probes(ANY) if plan.key in more]
    assert {plan.n_reuse for plan in others} == {1}
    assert len(others) == len(more) == 2 * 7 + sum(i - 1 for i in (2, 4, 5, 6, 7, 8))


def test_merges_and_shared_rows_are_probed_alone_in_a_few_sizes() -> None:
    found = probes(JOINT)
    merging = [plan for plan in found if plan.merges]
    sharing = [plan for plan in found if plan.rows and not plan.reuses]
    assert measured_pairs(JOINT) == (2, 5, 10, 20)
    # in the last encoder only class rows are left
    assert set(merging) == {
        Plan(merges=(Merge(e, pairs),)) for e in range(5) for pairs in (2, 5, 10, 20)
    }
    assert set(sharing) == {Plan(rows=(Rows(e, rows),)) for e in range(5) for rows in (21, 11)}
    pairs = {plan.consumers for plan in found if plan.n_reuse > 1}
    assert pairs == {of for of in itertools.combinations(range(1, 6), 2) if of[1] - of[0] <= 2}
    texts = set(map(str, found))
    assert {"2:map/average 2=class", "5<-4", "4<-3:map/mixed 4=class"} < texts
    assert not any("5<-4:map" in text for text in texts)
    assert len(set(found)) == len(found)


def test_triples_are_probed_where_plans_need_them() -> None:
    assert triple_probes(NEAREST) == []  # all of them are probes
    more = {plan.consumers for plan in triple_probes(JOINT)}
    sets = [of for size in (2, 3) for of in itertools.combinations(range(1, 6), size)]
    near = {of for of in sets if of[-1] - of[0] <= REACH}
    assert more == near - {plan.consumers for plan in probes(JOINT)}
    assert {(1, 4), (1, 2, 3), (3, 4, 5)} < more
    losses = build(JOINT, measured(JOINT))
    crowded = row(JOINT, "1<-0 3<-2 4<-2 5=class")
    texts = ("", "2<-1 4<-3 1~4", "2~6 1=21")
    few = np.concatenate([row(JOINT, f"{text} 5=class") for text in texts])
    assert not losses.triples_measured
    assert not losses.crowded(few)
    assert losses.crowded(np.concatenate([few, crowded]))
    known = {plan.key: 9.0 ** len(plan.reuses) for plan in triple_probes(JOINT)}
    whole = losses.with_triples(known)
    assert whole.triples_measured
    assert not whole.crowded(few)
    for plan in triple_probes(JOINT):
        (found,) = whole.predict(row(JOINT, JOINT.with_class_rows(plan)))
        assert found == pytest.approx(known[plan.key])
    assert (whole.predict(few) == losses.predict(few)).all()


@SPACES
def test_probes_are_plans_that_the_model_can_run(space: SearchSpace) -> None:
    for plan in probes(space):
        plan.validate(space.layout)
        assert plan.n_reuse <= space.max_reuse
    assert all(plan.n_reuse <= 1 for plan in probes(replace(space, max_reuse=1)))
    assert not any(plan.reuses for plan in probes(replace(space, max_reuse=0)))
    apart = {plan.consumers for plan in probes(replace(space, max_run=1))}
    assert {(1, 2), (4, 5)}.isdisjoint(apart)
    assert (2, 4) in apart


@pytest.mark.parametrize("tokens", [3, 4, 6, 9, 18, 33])
def test_probes_of_few_tokens(tokens: int) -> None:
    layout = Layout(stages=(0,) * 3, tokens=tokens, protected=1, class_tokens=1)
    space = replace(
        JOINT, layout=layout, may_reuse=(False, True, True), least_tokens=2,
        pairs=((1,),) * 3, shares=((0.9, 0.5, 0.1),) * 3,
    )  # fmt: skip
    for plan in probes(space):
        plan.validate(layout)
    losses = build(space, measured(space))
    assert np.isfinite(losses.predict(space.draw(np.random.default_rng(0), 50))).all()


def test_pairs_are_of_the_first_form_that_is_fitted() -> None:
    assert reference_form(ANY) == FORM
    assert reference_form(JOINT) == FORM
    maps = replace(JOINT, forms=(("map", "average"), ("map", "mixed")))
    assert reference_form(maps) == ("map", "mixed")
    for plan in probes(maps):
        if plan.n_reuse > 1:
            assert {reuse.form for reuse in plan.reuses} == {("map", "mixed")}
            assert {of.encoder for of in plan.rows} == set(plan.consumers)


# ---- predictions


@SPACES
def test_what_was_measured_is_predicted_exactly(space: SearchSpace) -> None:
    losses = measured(space)
    found = build(space, losses)
    for plan in probes(space):
        whole = plan
        if space.dead_rows and plan.rows_of(space.num_encoders - 1) is None:
            whole = replace(plan, rows=(*plan.rows, Rows(space.num_encoders - 1)))
        if any(merge.pairs not in space.pairs[merge.encoder] for merge in plan.merges):
            continue  # measured to know those between
        loss = float(found.predict(row(space, whole))[0])
        if plan.n_reuse < 3:
            assert loss == pytest.approx(losses[plan.key]), str(plan)
        else:  # three may lose more than their pairs say, not less
            assert loss >= losses[plan.key] - 1e-9
    nothing = space.begin().rows
    assert found.predict(nothing) == [0.0]


def test_losses_of_nothing_in_common_add() -> None:
    losses = {plan.key: float(plan.n_reuse**2) for plan in probes(NEAREST)}
    found = replace(build(NEAREST, losses), correlation=(0.0, 0.0, 0.0))
    # 1 and 8 are out of each other's reach: what they do together is not known
    assert predicted(found, "1<-0 8<-7")[0] == pytest.approx(1 + 1)
    roots = replace(found, correlation=(1.0, 1.0, 1.0))
    assert predicted(roots, "1<-0 8<-7")[0] == pytest.approx((1 + 1) ** 2)
    half = replace(found, correlation=(0.5, 0.5, 0.5))
    assert predicted(half, "1<-0 8<-7")[0] == pytest.approx((2 + 4) / 2)


def test_near_consumers_lose_what_their_pairs_lose_beyond_them() -> None:
    losses = {plan.key: float(plan.n_reuse**2) for plan in probes(NEAREST)}
    found = build(NEAREST, losses)
    far, near = predicted(found, "1<-0 8<-7", "4<-3 8<-7")
    # a pair was measured to lose 4
    assert near == pytest.approx(4)
    assert far < near
    # of 1, 4 and 8 two pairs are near, and their sums of roots are of all three
    shared = found.correlation[2]
    beyond = 4 - (1 - shared) * 2 - shared * 4
    expected = (1 - shared) * 3 + shared * 9 + 2 * beyond
    assert predicted(found, "1<-0 4<-3 8<-7")[0] == pytest.approx(expected)


def test_pairs_that_lose_less_than_their_parts_are_not_believed() -> None:
    losses = {plan.key: {1: 1.0, 2: 0.5, 3: 0.2}[plan.n_reuse] for plan in probes(NEAREST)}
    found = build(NEAREST, losses)
    assert not found.reuse_interacts
    assert predicted(found, "2<-1 4<-3")[0] == predicted(found, "1<-0 8<-7")[0]


def test_a_choice_loses_what_its_form_and_its_source_add() -> None:
    losses = measured(ANY)
    form, far, near = (Plan.parse(of).key for of in ("4<-3:map", "4<-1", "4<-3"))
    losses |= {form: 0.1, near: 0.4, far: 0.7}
    assert predicted(build(ANY, losses), "4<-1:map")[0] == pytest.approx(0.1 + 0.7 - 0.4)
    # a source that loses less takes away its share, never more than all
    losses[far] = 0.2
    assert predicted(build(ANY, losses), "4<-1:map")[0] == pytest.approx(0.1 * 0.2 / 0.4)


def test_nothing_loses_less_than_nothing() -> None:
    losses = {plan.key: -1e-9 for plan in probes(JOINT)}
    found = build(JOINT, losses)
    rows = JOINT.draw(np.random.default_rng(0), 50)
    assert (found.predict(rows) >= 0).all()


def test_weaker_forms_take_less_part_in_what_pairs_lose() -> None:
    losses = {plan.key: float(plan.n_reuse**2) for plan in probes(JOINT)}
    for encoder in range(1, 5):
        mixed = Plan.parse(f"{encoder}<-{encoder - 1}:map/mixed {encoder}=class")
        losses[mixed.key] = 0.01
    found = build(JOINT, losses)
    of_outputs, of_maps, alone = predicted(
        found, "2<-1 3<-1 5=class", "2<-1:map/mixed 3<-1:map/mixed 2=class 3=class 5=class",
        "2<-1:map/mixed 2=class 5=class",
    )  # fmt: skip
    assert of_outputs == pytest.approx(4)
    assert alone == pytest.approx(0.01)
    # a hundredth of the loss, and of what pairs lose beyond that
    assert of_maps == pytest.approx(0.04)


def test_merging_is_predicted_by_its_share_of_the_tokens() -> None:
    found = build(JOINT, measured(JOINT))
    first, later = predicted(found, "1~8 5=class", "0~10 1~6 5=class")
    before = predicted(found, "0~10 5=class")[0]
    # 6 of 30 tokens are 8 of 40
    assert later == pytest.approx(_joined(found, (before, first)))
    assert predicted(found, "0~4 5=class")[0] < predicted(found, "0~6 5=class")[0]


def test_sharing_is_predicted_by_its_share_of_the_rows() -> None:
    found = build(JOINT, measured(JOINT))
    half, quarter, merged = predicted(
        found, "1=21 5=class", "1=11 5=class", "0~10 1=16 5=class"
    )  # fmt: skip
    before = predicted(found, "0~10 5=class")[0]
    assert half < quarter
    # 15 of 30 rows are half of them
    assert merged == pytest.approx(_joined(found, (before,), (half,)))
    # taken groups are a share of the rows there are
    own, taken = predicted(found, "1=21 5=class", "1=21 3=@1 5=class")
    both = (own, predicted(found, "3=21 5=class")[0])
    assert taken == pytest.approx(_joined(found, (), both))


def _joined(losses: Losses, *kinds: tuple[float, ...]) -> float:
    """What own losses of merging, of shared rows and of consumers come to."""
    own = [np.array(of) for of in (*kinds, (), ())[:3]]
    sums = losses.linear(np.array([[of.sum()] for of in own]))
    return float(losses.together(sums, np.array([[np.sqrt(of).sum()] for of in own]))[0])


def test_more_never_loses_less() -> None:
    losses = {plan.key: 1.0 for plan in probes(JOINT)}
    for plan in probes(JOINT):
        if plan.merges:  # noise: more pairs seem to lose less
            losses[plan.key] = 1.0 / plan.merges[0].pairs
    found = build(JOINT, losses)
    of_pairs = predicted(found, *(f"2~{pairs} 5=class" for pairs in (2, 4, 6, 8, 10)))
    assert of_pairs == sorted(of_pairs)
    assert of_pairs[0] > 0
    of_rows = predicted(found, "2=21 5=class", "2=11 5=class")
    assert of_rows == sorted(of_rows)


def test_correlations_are_those_of_the_probes_errors() -> None:
    losses = dict.fromkeys((plan.key for plan in probes(JOINT)), 4.0)
    alike = {plan.key: [2.0, 0.0] for plan in probes(JOINT)}
    assert correlations(JOINT, losses, alike) == pytest.approx((1.0, 1.0, 1.0))
    apart = {
        plan.key: [2.0 * (plan.first_changed == e) for e in range(6)] for plan in probes(JOINT)
    }
    assert correlations(JOINT, losses, apart) == pytest.approx((0.0, 0.0, 0.0))
    half = {plan.key: [*(2**0.5 * np.array([1.0])), *(2**0.5 * np.eye(6)[plan.first_changed])]
            for plan in probes(JOINT)}  # fmt: skip
    assert correlations(JOINT, losses, half) == pytest.approx((0.5, 0.5, 0.5))
    found = build(JOINT, losses, (0.5, 0.25, 0.0))
    assert found.correlation == (0.5, 0.25, 0.0)


@pytest.mark.parametrize("only", ["merging", "rows"])
def test_an_axis_alone_needs_no_probes_of_another(only: Any) -> None:
    overrides = {"merging.step": 0.25, "rows.shares": [0.5]}
    space = priced_space(4, {"latency": "1x"}, space="joint", overrides=overrides, only=only).space
    for plan in probes(space):
        assert not plan.reuses
        assert bool(plan.merges) == (only == "merging")
    losses = build(space, measured(space))
    rows = space.all_rows()
    assert (losses.predict(rows[1:]) > 0).all()


def test_of_kinds_that_are_not_in_the_space_nothing_is_said() -> None:
    losses = dict.fromkeys((plan.key for plan in probes(NEAREST)), 4.0)
    alike = {plan.key: [2.0, 0.0] for plan in probes(NEAREST)}
    merging, rows, reuse = correlations(NEAREST, losses, alike)
    assert reuse == pytest.approx(1.0)
    # nothing merges or shares rows, so what is taken for these makes no difference
    found, other = (
        build(NEAREST, losses, of) for of in ((merging, rows, reuse), (0.0, 0.9, reuse))
    )
    plans = NEAREST.draw(np.random.default_rng(0), 20)
    assert (found.predict(plans) == other.predict(plans)).all()


@pytest.mark.parametrize("name", ["default", "any", "joint"])
def test_plans_are_predicted_one_by_one(name: str) -> None:
    priced = priced_space(5, {"latency": "1x"}, space=name)
    losses = random_losses(priced, 3)
    rows = priced.space.draw(np.random.default_rng(0), 40)
    found = losses.predict(rows)
    assert found == pytest.approx([float(losses.predict(of[None])[0]) for of in rows])
    assert (found >= 0).all()


@pytest.mark.parametrize("name", ["default", "any"])
def test_less_reuse_never_loses_more(name: str) -> None:
    priced = priced_space(6, {"latency": "1x"}, space=name)
    losses = random_losses(priced, 4)
    rows = priced.space.draw(np.random.default_rng(0), 200)
    for encoder in range(1, 6):
        less = rows.copy()
        less[:, encoder] = 0
        assert priced.space.holds(less).all()
        assert (losses.predict(less) <= losses.predict(rows) + 1e-12).all()


@SPACES
def test_they_survive_json_to_the_last_bit(space: SearchSpace) -> None:
    losses = build(space, measured(space))
    again = Losses.from_json(json.loads(json.dumps(losses.as_json())), space)
    for field in fields(Losses):
        one, other = getattr(losses, field.name), getattr(again, field.name)
        if isinstance(one, np.ndarray):
            assert one.shape == other.shape
            assert (one == other).all()
        else:
            assert one == other
    rows = space.draw(np.random.default_rng(0), 30)
    assert (losses.predict(rows) == again.predict(rows)).all()


def test_unknown_probes_are_an_error() -> None:
    losses: dict[str, Any] = measured(NEAREST)
    losses.pop(Plan.parse("4<-3").key)
    with pytest.raises(KeyError):
        build(NEAREST, losses)
