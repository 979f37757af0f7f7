"""Spaces: their files and flags, and that the automaton is what they say."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from priced_spaces import FORMS, drawn_spaces
from scipy.stats import chi2

from trex.architecture import Architecture, vit_encoder
from trex.errors import PlanError, SpaceError
from trex.plan import EncoderPlan, Layout, Merge, Plan, Reuse, Rows
from trex.search.space import SearchSpace, shipped_spaces

#: what a shipped space's file says, coarser, so that small models have few plans
COARSE = {"merging.step": 0.25, "merging.most": 0.5, "rows.shares": [0.5]}


def model(num_encoders: int = 6, tokens: int = 5, class_tokens: int = 0) -> Architecture:
    return Architecture(
        model="tiny",
        body=tuple(
            vit_encoder(i, tokens=tokens, dim=8, heads=2, mlp_hidden=16)
            for i in range(num_encoders)
        ),
        layout=Layout(
            stages=(0,) * num_encoders,
            tokens=tokens,
            protected=class_tokens,
            class_tokens=class_tokens,
            class_rows=class_tokens,
        ),
    )


def space(tmp_path: Path, text: str = "", num_encoders: int = 6) -> SearchSpace:
    path = tmp_path / "mine.yaml"
    path.write_text("description: a test\n" + text)
    return SearchSpace.load(path, model(num_encoders))


def plans(found: SearchSpace) -> list[Plan]:
    return [found.plan(row) for row in found.all_rows()]


@pytest.mark.parametrize("num_encoders", [1, 2, 5, 9, 12])
def test_the_default_space_is_every_nearest_producer_plan(num_encoders: int) -> None:
    of = model(num_encoders)
    found = SearchSpace.load("default", of)
    assert found.size == len(found.all_rows()) == 2 ** (num_encoders - 1)
    of_all = plans(found)
    assert len(set(of_all)) == found.size
    assert of_all[0] == Plan()
    for plan in of_all:
        plan.validate(of.layout)
        assert plan == Plan.nearest(plan.consumers)


@pytest.mark.parametrize("most", [1, 2, 3])
def test_the_longest_run(tmp_path: Path, most: int) -> None:
    found = space(tmp_path, f"max_run: {most}\n")
    everything = space(tmp_path)
    expected = {
        plan
        for plan in plans(everything)
        if all(
            not set(range(start, start + most + 1)) <= set(plan.consumers) for start in range(1, 6)
        )
    }
    assert set(plans(found)) == expected
    # without two in a row: the Fibonacci numbers
    assert len(expected) == {1: 13, 2: 24, 3: 29}[most]


@pytest.mark.parametrize(("most", "count"), [(0, 1), (1, 6), (2, 16), (5, 32), (99, 32)])
def test_the_most_consumers(tmp_path: Path, most: int, count: int) -> None:
    found = space(tmp_path, f"max_reuse: {most}\n")
    assert found.size == count
    assert max(plan.n_reuse for plan in plans(found)) == min(most, 5)


def test_chosen_consumers(tmp_path: Path) -> None:
    found = space(tmp_path, "consumers: [5, 2]\n")
    assert {str(plan) for plan in plans(found)} == {"", "2<-1", "5<-4", "2<-1 5<-4"}


def test_forms_are_every_tensor_with_every_transform(tmp_path: Path) -> None:
    found = space(tmp_path, "tensors: [output, map]\ntransforms: [none, linear]\n")
    assert found.forms == (
        ("output", "none"), ("output", "linear"), ("map", "none"), ("map", "linear"),
    )  # fmt: skip
    assert found.size == 1 + 4 * 31  # the plan without reuse is the same in every form


def test_reuse_does_not_cross_stages() -> None:
    encoders = tuple(vit_encoder(i, tokens=5, dim=8, heads=2, mlp_hidden=16) for i in range(4))
    staged = tuple(replace(e, stage=e.index // 2) for e in encoders)
    found = SearchSpace.load("default", Architecture(model="staged", body=staged))
    assert found.may_reuse == (False, True, False, True)
    assert {str(plan) for plan in plans(found)} == {"", "1<-0", "3<-2", "1<-0 3<-2"}


def test_a_named_consumer_must_be_able_to_reuse(tmp_path: Path) -> None:
    encoders = tuple(vit_encoder(i, tokens=5, dim=8, heads=2, mlp_hidden=16) for i in range(4))
    staged = tuple(replace(e, stage=e.index // 2) for e in encoders)
    (tmp_path / "mine.yaml").write_text("description: a test\nconsumers: [1, 2]\n")
    with pytest.raises(SpaceError, match="names encoder 2, the first of its stage") as caught:
        SearchSpace.load(tmp_path / "mine.yaml", Architecture(model="staged", body=staged))
    assert caught.value.hint == "name some of 1, 3"


def test_sources_stay_in_their_stage() -> None:
    encoders = tuple(vit_encoder(i, tokens=5, dim=8, heads=2, mlp_hidden=16) for i in range(5))
    staged = tuple(replace(e, stage=int(e.index >= 2)) for e in encoders)
    found = SearchSpace.load("any", Architecture(model="staged", body=staged))
    sources = [{choice.source for choice in of if choice.form} for of in found.choices]
    assert sources == [set(), {0}, set(), {2}, {2, 3}]


def test_flags_replace_a_files_fields() -> None:
    given = {"source": "any", "max_reuse": 3, "consumers": [1, 4], "mixed": True}
    found = SearchSpace.load("default", model(), given)
    assert (found.source, found.max_reuse, found.mixed) == ("any", 3, True)
    assert found.may_reuse == (False, True, False, False, True, False)
    assert found.forms == SearchSpace.load("default", model()).forms
    assert found.name == "default"


def test_maps_that_cannot_be_mixed_are_in_no_space() -> None:
    given = {"tensors": ["output", "map"], "transforms": ["linear", "mixed"]}
    forms = SearchSpace.load("default", model(), given).forms
    assert forms == (("output", "linear"), ("map", "linear"), ("map", "mixed"))
    found = model()
    grids = replace(found, layout=replace(found.layout, no_map_rows="they are of no places"))
    with pytest.raises(SpaceError, match="names mixed, but tiny cannot mix maps: they are of no"):
        SearchSpace.load("default", grids, given)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"max_run": 0}, "max_run: 0 is not allowed"),
        ({"tensors": ["output", "output"]}, "tensors: names something twice"),
        ({"consumers": [7]}, "consumers: names encoder 7, but tiny has 6 encoders"),
        ({"consumers": [1], "max_reuse": 0}, "max_reuse: is 0, but consumers are named"),
    ],
)
def test_bad_flags_are_refused_without_a_line(overrides, message: str) -> None:
    with pytest.raises(SpaceError) as caught:
        SearchSpace.load("default", model(), overrides)
    assert caught.value.message.startswith("default.yaml with the given flags: " + message)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "line", "message", "hint"),
    [
        ("max_runs: 2\n", 2, "max_runs: is not a known field", "did you mean 'max_run'"),
        ("tensor: [map]\n", 2, "tensor: is not a known field", "did you mean 'tensors'"),
        ("max_run: '2'\n", 2, "max_run: '2' is text, not a number", ""),
        ("max_reuse: 1e5\n", 2, "max_reuse: '1e5' is text, not a number", ""),
        ("max_run: 0\n", 2, "max_run: 0 is not allowed", ""),
        ("max_reuse: -1\n", 2, "max_reuse: -1 is not allowed", ""),
        ("max_run: 2.5\n", 2, "max_run: 2.5 is", ""),
        ("tensors: [maps]\n", 2, "tensors.0: 'maps' is not allowed", ""),
        ("transforms:\n- linear\n- cubic\n", 4, "transforms.1: 'cubic' is not allowed", ""),
        ("tensors: [map, map]\n", 2, "tensors: names something twice", "once"),
        ("source: all\n", 2, "source: 'all' is not allowed", ""),
        ("mixed: 1\n", 2, "mixed: ", ""),
        ("consumers: []\n", 2, "consumers", ""),
        ("consumers: [1]\nmax_reuse: 0\n", 3, "max_reuse: is 0, but consumers are", "at least 1"),
        ("max_run: 3\nconsumers: [0, 1]\n", 3, "consumers: names encoder 0", "begin with 1"),
        ("consumers: [1, 6]\n", 2, "names encoder 6, but tiny has 6 encoders", "0 to 5"),
        ("consumers: [-1]\n", 2, "consumers.0: -1 is not allowed", ""),
        ("consumers: 3\n", 2, "consumers", ""),
        ("max_run: 1\nmax_run: 2\n", 3, "is given twice", "keep one"),
        ("max_run: [\n", 3, "", "syntax"),
    ],
)
def test_bad_files_are_refused_with_their_line(
    tmp_path: Path, text: str, line: int, message: str, hint: str
) -> None:
    with pytest.raises(SpaceError) as caught:
        space(tmp_path, text)
    assert caught.value.message.startswith(f"{tmp_path / 'mine.yaml'}:{line}: ")
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.hint


def test_a_space_needs_a_description(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("max_run: 2\n")
    with pytest.raises(SpaceError, match="description: is missing"):
        SearchSpace.load(tmp_path / "mine.yaml", model())


def test_missing_spaces_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="no such file"):
        SearchSpace.load(tmp_path / "none.yaml", model())
    with pytest.raises(SpaceError, match="neither shipped nor a file") as caught:
        SearchSpace.load("defualt", model())
    assert "'default'" in caught.value.hint


def test_a_model_without_encoders_has_no_space() -> None:
    with pytest.raises(SpaceError, match="resnet has no encoders"):
        SearchSpace.load("default", Architecture(model="resnet", body=()))


def test_a_space_too_large_to_enumerate_is_refused() -> None:
    found = SearchSpace.load("default", model(24))
    with pytest.raises(SpaceError, match="8,388,608 plans") as caught:
        found.all_rows()
    assert "allow less" in caught.value.hint


@pytest.mark.parametrize("name", shipped_spaces())
def test_shipped_spaces_load(name: str) -> None:
    assert SearchSpace.load(name, model(12)).size > 1


def test_where_plans_are_given_nothing_is_chosen() -> None:
    plans = [Plan.parse("3<-2:map/linear 1~2"), Plan.parse("2<-1 3<-0:map"), Plan.parse("5~1")]
    found = SearchSpace.without_choice(plans, model())
    assert found.size == 1
    assert found.forms == (("map", "linear"), ("output", "linear"))
    assert [len(of) for of in found.choices] == [1] * 6
    assert SearchSpace.without_choice(plans[2:], model()).forms == ()


# ---- the joint space


def joint(num_encoders: int = 3, class_tokens: int = 1, **more: Any) -> SearchSpace:
    of = model(num_encoders, 8 + class_tokens, class_tokens)
    given = {**COARSE, **more.pop("overrides", {})}
    return SearchSpace.load("joint", of, given, **more)


def test_the_joint_space_of_a_model_with_class_tokens() -> None:
    found = joint()
    assert found.forms == (("output", "linear"), ("map", "mixed"), ("map", "average"))
    assert found.pairs == ((2, 4),) * 3
    assert found.least_tokens == 1 + 2
    assert found.shares == ((0.5,),) * 3
    assert found.dead_rows
    assert found.left_out == ()
    texts = set(map(str, plans(found)))
    assert {"2=class", "1<-0 0~2 2=class", "1<-0:map/mixed 1=class 2=class", "0=5 1=@0 2=class",
            "1:map/average 0~4 1=class 2=class", "2<-1 1~2 2=class"} <= texts  # fmt: skip
    # what says nothing of the last encoder, or reuses a map there, is no plan of the space
    assert all(text.endswith("2=class") and "2<-1:map" not in text for text in texts)


def test_the_joint_space_leaves_out_what_a_model_cannot() -> None:
    of = model(3, 9)
    cannot = replace(of.layout, no_merging="the rows stand in a grid", no_map_rows="no places")
    found = SearchSpace.load("joint", replace(of, layout=cannot), COARSE)
    assert found.forms == (("output", "linear"),)
    assert not found.merges
    assert found.shares_rows
    assert not found.dead_rows
    assert len(found.left_out) == 2
    assert any("cannot merge tokens: the rows stand in a grid" in what for what in found.left_out)
    with pytest.raises(SpaceError, match="merging: tiny cannot merge tokens: the rows stand"):
        SearchSpace.load(
            "joint",
            replace(of, layout=cannot),
            {"where_possible": False, "map_transforms": ["linear"]},
        )


def test_axes_alone() -> None:
    merging, rows, kept = joint(only="merging"), joint(only="rows"), joint(keep_tokens=True)
    for plan in plans(merging):
        assert not plan.reuses
        assert [str(of) for of in plan.rows] == ["2=class"]
    # encoders 0 and 1 merge 0, 2 or 4 pairs; no more than half, and three tokens are left
    assert {tuple(plan.at(e).pairs for e in range(2)) for plan in plans(merging)} == {
        (0, 0), (0, 2), (0, 4), (2, 0), (2, 2), (4, 0), (4, 2),
    }  # fmt: skip
    assert {str(plan) for plan in plans(rows)} == {
        "2=class", "0=5 2=class", "1=5 2=class", "0=5 1=5 2=class", "0=5 1=@0 2=class",
    }  # fmt: skip
    assert all(not plan.merges for plan in plans(kept))
    assert any(plan.reuses and len(plan.rows) > 1 for plan in plans(kept))
    with pytest.raises(SpaceError, match="merging: is not in the space"):
        SearchSpace.load("default", model(), only="merging")


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("merging: {steps: 0.1}\n", 2, "merging.steps: is not a known field"),
        ("merging: {step: 0}\n", 2, "merging.step: 0 is not allowed"),
        ("merging:\n  most: 1.5\n", 3, "merging.most: 1.5 is not allowed"),
        ("rows: {shares: []}\n", 2, "rows.shares"),
        ("rows:\n  encoders: [6]\n", 2, "names encoder 6, but tiny has 6 encoders"),
        ("transforms: [mixed]\n", 2, "names mixed, which is of maps"),
    ],
)
def test_bad_parts_are_refused_with_their_line(
    tmp_path: Path, text: str, line: int, message: str
) -> None:
    with pytest.raises(SpaceError) as caught:
        space(tmp_path, text)
    assert caught.value.message.startswith(f"{tmp_path / 'mine.yaml'}:{line}: ")
    assert message in caught.value.message
    assert caught.value.hint


# ---- the automaton, against a list of what the words say


def worded(space: SearchSpace, encoder: int) -> list[EncoderPlan]:
    """Everything that could be written of one encoder, legal or not."""
    layout, forms = space.layout, (*FORMS, ("output", "block"))
    reuses: list[Reuse | None] = [None]
    for tensor, transform in forms:
        sources = [encoder] if transform == "average" else [*range(encoder)]
        reuses += [Reuse(encoder, source, tensor, transform) for source in sources]
    rows = [
        EncoderPlan(None),
        EncoderPlan(None, class_rows=True),
        *(EncoderPlan(None, shared=number) for number in range(1, layout.tokens)),
        *(EncoderPlan(None, groups_of=other) for other in range(encoder)),
    ]
    return [
        of._replace(reuse=reuse, pairs=pairs)
        for reuse, pairs, of in itertools.product(reuses, range(4), rows)
    ]


def by_definition(space: SearchSpace) -> set[str]:
    """Every plan that can be written and keeps what the space says, by recursion."""
    found: set[str] = set()

    def go_on(before: list[EncoderPlan], left: int) -> None:
        encoder = len(before)
        if encoder == space.num_encoders:
            plan = written(before)
            plan.validate(space.layout)
            found.add(str(plan))
            return
        for here in worded(space, encoder):
            if allowed(space, before, here, left):
                go_on([*before, here], left - here.pairs)

    go_on([], space.layout.tokens)
    return found


def written(encoders: list[EncoderPlan]) -> Plan:
    return Plan(
        tuple(of.reuse for of in encoders if of.reuse),
        tuple(Merge(e, of.pairs) for e, of in enumerate(encoders) if of.pairs),
        tuple(_rows(encoders)),
    )


def _rows(encoders: list[EncoderPlan]) -> Iterator[Rows]:
    for e, of in enumerate(encoders):
        if of.class_rows:
            yield Rows(e)
        elif of.groups_of is not None:
            yield Rows(e, 0, of.groups_of)
        elif of.shared:
            yield Rows(e, of.shared)


def allowed(space: SearchSpace, before: list[EncoderPlan], here: EncoderPlan, left: int) -> bool:
    """Whether a plan may go on so, with the tokens that are left."""
    layout, encoder = space.layout, len(before)
    stages, last = layout.stages, encoder == space.num_encoders - 1
    dead = last and space.class_rows and layout.class_rows > 0
    inside = [e for e in range(encoder) if stages[e] == stages[encoder]]
    if here.pairs:
        named = bool(space.pairs) and here.pairs in space.pairs[encoder]
        enough = left - here.pairs >= space.least_tokens
        if dead or not named or not enough or here.pairs > (left - layout.protected) // 2:
            return False
    if here.reuse is None:
        if here.class_rows != dead:
            return False
        return not (here.shared or here.groups_of is not None) or (
            not dead and shares(space, before, here, left)
        )
    form, average = here.reuse.form, here.reuse.is_average
    if here.shared or here.groups_of is not None or not space.may_reuse[encoder]:
        return False
    own_class = space.class_rows and form[1] in ("mixed", "average") and layout.class_tokens > 0
    if here.class_rows != (dead or own_class) or (dead and form[0] == "map"):
        return False
    producers = [e for e in inside if before[e].reuse is None]
    legal_sources = producers[-1:] if space.source == "nearest" else producers
    if not average and here.reuse.source not in legal_sources:
        return False
    consumers = [of.reuse.form for of in before if of.reuse]
    run = [*itertools.takewhile(lambda of: of.reuse, reversed(before))]
    return (
        form in space.forms
        and len(run) < space.max_run
        and len(consumers) < space.max_reuse
        and (space.mixed or not consumers or consumers[0] == form)
    )


def shares(space: SearchSpace, before: list[EncoderPlan], here: EncoderPlan, left: int) -> bool:
    """Whether an encoder's tokens may share rows so."""
    layout, encoder = space.layout, len(before)
    if not space.shares or not space.shares[encoder]:
        return False
    free = left - layout.protected
    if here.groups_of is None:
        sizes = {layout.protected + max(round(share * free), 1) for share in space.shares[encoder]}
        return here.shared in sizes and here.shared < left
    stages, match = layout.stages, here.groups_of
    after = before[match + 1 :]
    return (
        space.groups
        and stages[match] == stages[encoder]
        and before[match].shared > 0
        and not any(of.pairs for of in before[match:])
        and not any(of.shared for of in after)
    )


@given(drawn_spaces())
@settings(max_examples=60, deadline=None)
def test_a_space_is_what_it_says(space: SearchSpace) -> None:
    rows = space.all_rows()
    assert not rows[0].any()
    found = [space.plan(row) for row in rows]
    assert set(map(str, found)) == by_definition(space)
    assert len(set(found)) == len(rows) == space.size
    for row, plan in zip(rows, found, strict=True):
        assert space.row(plan).tolist() == row.tolist()
    every = np.array(list(itertools.product(*(range(len(of)) for of in space.choices))))
    if len(every) < 30_000:
        kept = every[space.holds(every)]
        assert sorted(kept.tolist()) == sorted(rows.tolist())


@given(drawn_spaces(), st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_random_plans_are_of_the_space(space: SearchSpace, seed: int) -> None:
    rows = space.draw(np.random.default_rng(seed), 50)
    assert rows.shape == (50, space.num_encoders)
    assert space.holds(rows).all()
    again = space.draw(np.random.default_rng(seed), 50)
    assert again.tolist() == rows.tolist()


@pytest.mark.parametrize(
    "space",
    [
        SearchSpace.load("any", model(4), {"transforms": ["linear"], "max_run": 2}),
        SearchSpace.load("any", model(4), {"transforms": ["linear"], "mixed": False}),
        joint(),
        joint(overrides={"source": "any", "merging.encoders": [0]}),
    ],
    ids=["any", "unmixed", "joint", "joint of any source"],
)
def test_every_plan_is_as_likely_as_any_other(space: SearchSpace) -> None:
    each = 60
    rows = space.draw(np.random.default_rng(0), each * space.size)
    seen = Counter(map(bytes, rows))
    assert len(seen) == space.size
    squares = sum((count - each) ** 2 / each for count in seen.values())
    assert chi2.sf(squares, space.size - 1) > 1e-4


def test_large_spaces_are_counted_but_not_enumerated() -> None:
    space = SearchSpace.load("any", model(24), {"transforms": ["linear"]})
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
        space.all_rows()
    rows = space.draw(np.random.default_rng(0), 20)
    assert space.holds(rows).all()
    assert len(np.unique(rows, axis=0)) == 20


def test_what_is_not_in_the_space_has_no_row() -> None:
    found, paper = joint(), SearchSpace.load("default", model(3))
    for text, encoder in (
        ("2<-1:map/linear", 2), ("2<-0", 2), ("1~1", 1), ("2=class", 2), ("7<-1", 7),
    ):  # fmt: skip
        with pytest.raises(PlanError, match=f'"{text}" is not in the search space') as caught:
            paper.row(Plan.parse(text))
        assert f"what it does in encoder {encoder} is not" in caught.value.message
    for text, encoder in (("1<-0", 2), ("0~1 2=class", 0), ("0=4 2=class", 0)):
        with pytest.raises(PlanError, match=f"in encoder {encoder} is not"):
            found.row(Plan.parse(text))


def test_shares_that_leave_as_many_rows_are_one_choice() -> None:
    found = joint(overrides={"rows.shares": [0.5, 0.3, 0.25]}, only="rows")
    texts = [str(plan) for plan in plans(found)]
    assert len(set(texts)) == len(texts) == found.size
    # of eight patches 0.3 and 0.25 leave two
    assert {"0=5 2=class", "0=3 2=class"} < set(texts)


def test_settings_are_told_as_before_where_plans_only_reuse() -> None:
    told = SearchSpace.load("default", model()).settings()
    assert set(told) == {"name", "forms", "may_reuse", "stages", "max_run", "max_reuse",
                         "source", "mixed"}  # fmt: skip
    assert set(joint().settings()) > set(told)
    assert joint().settings() != joint(keep_tokens=True).settings()
