"""Several plans trained together: which a step trains, what they share, what is stored."""

from __future__ import annotations

from copy import deepcopy

import finetune_cases as cases
import torch
from torch import nn

from trex.models.registry import LoadedModel
from trex.runtime.dynamic import variant_of
from trex.training.finetune.parameters import new_parameters, parameter_groups, thaw
from trex.training.finetune.paths import Paths
from trex.training.finetune.task import members_of, observed_encoders

PLANS = ("3<-2 4<-2", "3<-2", "11=class", "")


def paths(loaded: LoadedModel, between: int = 1) -> Paths:
    base = deepcopy(loaded.model)
    members = [variant_of(base, plan) for plan in PLANS]
    return Paths(members, between=between, seed=0)


def test_a_step_trains_the_ends_and_some_between(loaded: LoadedModel) -> None:
    one, none = paths(loaded), paths(loaded, between=0)
    drawn = [one.drawn(step) for step in range(40)]
    assert drawn == [one.drawn(step) for step in range(40)]
    assert {tuple(of) for of in drawn} == {(0, 1, 3), (0, 2, 3)}
    assert none.drawn(7) == [0, 3]
    assert paths(loaded, between=9).drawn(7) == [0, 1, 2, 3]


def test_what_is_shared_is_there_once(loaded: LoadedModel) -> None:
    model = paths(loaded)
    assert members_of(model) == list(model.members)
    own = [id(parameter) for parameter in model.parameters()]
    assert len(own) == len(set(own))
    # the base's, and three projections' weight and bias
    assert len(own) == len(list(loaded.model.parameters())) + 6
    state = model.state_dict()
    assert len(state) == len({value.data_ptr() for value in state.values()})
    kept = {name: value.clone() for name, value in state.items()}
    with torch.no_grad():
        for value in state.values():
            value.zero_()
    model.load_state_dict(kept)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in kept.items())


def test_every_parameter_is_in_one_group_and_learns_as_it_would_alone(loaded: LoadedModel) -> None:
    model = paths(loaded)
    recipe = cases.recipe(optimizer={"lr": 1e-3, "lr_new": 3e-3, "layer_decay": 0.8})
    groups = parameter_groups(model, loaded.adapter, recipe)
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    assert len(scale) == sum(len(group["params"]) for group in groups)
    assert set(scale) == {id(parameter) for parameter in model.parameters()}
    alone = model.members[0]
    for group in parameter_groups(alone, loaded.adapter, recipe):
        for parameter in group["params"]:
            assert scale[id(parameter)] == group["lr_scale"]
    # projections of three consumers of two plans: weight and bias
    assert len(new_parameters(model)) == 6
    thaw(model, "new")
    assert sum(parameter.requires_grad for parameter in model.parameters()) == 6


def test_the_teacher_is_asked_for_what_any_plan_names(loaded: LoadedModel) -> None:
    recipe = cases.recipe(losses={"kl": 1.0, "encoders": 1.0})
    assert observed_encoders(paths(loaded), recipe) == {3, 4, 11}
    assert observed_encoders(paths(loaded), cases.recipe()) == frozenset()


def test_logits_stand_side_by_side(loaded: LoadedModel) -> None:
    model: nn.Module = paths(loaded).eval()
    pixels = torch.randn(2, 3, 24, 24)
    with torch.no_grad():
        assert torch.equal(model(pixels)[3], loaded.model(pixels))
        assert model(pixels).shape[:2] == (4, 2)
