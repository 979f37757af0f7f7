from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from trex.architecture import Architecture, vit_encoder
from trex.errors import SpaceError
from trex.plan import Layout, Plan
from trex.search.space import SearchSpace, shipped_spaces


def model(num_encoders: int = 6) -> Architecture:
    return Architecture(
        model="tiny",
        body=tuple(
            vit_encoder(i, tokens=5, dim=8, heads=2, mlp_hidden=16) for i in range(num_encoders)
        ),
        layout=Layout(stages=(0,) * num_encoders, tokens=5),
    )


def space(tmp_path: Path, text: str = "", num_encoders: int = 6) -> SearchSpace:
    path = tmp_path / "mine.yaml"
    path.write_text("description: a test\n" + text)
    return SearchSpace.load(path, model(num_encoders))


def plans(found: SearchSpace) -> list[Plan]:
    return [Plan.nearest(np.flatnonzero(mask).tolist()) for mask in found.masks()]


@pytest.mark.parametrize("num_encoders", [1, 2, 5, 9, 12])
def test_the_default_space_is_every_nearest_producer_plan(num_encoders: int) -> None:
    of = model(num_encoders)
    found = SearchSpace.load("default", of)
    assert found.size == len(found.masks()) == 2 ** (num_encoders - 1)
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
    sources = [{choice.source for choice in of if choice} for of in found.choices().of]
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
        ("tensors: []\n", 2, "tensors", ""),
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
        found.masks()
    assert "fewer consumers" in caught.value.hint


@pytest.mark.parametrize("name", shipped_spaces())
def test_shipped_spaces_load(name: str) -> None:
    assert SearchSpace.load(name, model(12)).size > 1


def test_where_plans_are_given_nothing_is_chosen() -> None:
    plans = [Plan.parse("3<-2:map/linear 1~2"), Plan.parse("2<-1 3<-0:map"), Plan.parse("5~1")]
    found = SearchSpace.without_choice(plans, model())
    assert found.size == 1
    assert found.forms == (("map", "linear"), ("output", "linear"))
    assert found.choices().of == ((None,),) * 6
    assert SearchSpace.without_choice(plans[2:], model()).forms == ()
