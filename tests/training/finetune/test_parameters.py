"""Groups cover every parameter once; new ones learn faster, norms and biases do not decay."""

import finetune_cases as cases
import pytest
import torch

from trex.models.registry import LoadedModel
from trex.training.finetune.parameters import (
    make_optimizer,
    make_scheduler,
    new_parameters,
    parameter_groups,
    thaw,
)
from trex.training.finetune.recipe import RecipeError

OPTIMIZER = {"lr": 1e-4, "lr_new": 3e-4, "weight_decay": 0.05}


def test_what_is_new(loaded: LoadedModel) -> None:
    linear = new_parameters(cases.variant_of(loaded, "3<-2"))
    assert linear == {"blocks.3.attn.proj.weight", "blocks.3.attn.proj.bias"}
    block = new_parameters(cases.variant_of(loaded, "3<-2", "block"))
    assert block - linear == {
        f"blocks.3.attn.transform.{name}"
        for name in ("norm.weight", "norm.bias", "linear.weight", "linear.bias")
    }
    assert new_parameters(loaded.model) == set()


def test_every_parameter_is_in_one_group(loaded: LoadedModel) -> None:
    model = cases.variant_of(loaded)
    names = {id(p): name for name, p in model.named_parameters()}
    groups = parameter_groups(model, loaded.adapter, cases.recipe(optimizer=OPTIMIZER))
    assert sorted(names[id(p)] for g in groups for p in g["params"]) == sorted(names.values())
    for group in groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            decays = parameter.ndim > 1 and name not in ("pos_embed", "cls_token")
            assert group["weight_decay"] == (0.05 if decays else 0.0)
            assert group["lr_scale"] == pytest.approx(
                3.0 if name in new_parameters(model) else 1.0
            )


def test_rates_fall_from_the_head_to_the_stem(loaded: LoadedModel) -> None:
    model = cases.variant_of(loaded)
    names = {id(p): name for name, p in model.named_parameters()}
    recipe = cases.recipe(optimizer={**OPTIMIZER, "layer_decay": 0.5})
    scale = {
        names[id(p)]: group["lr_scale"]
        for group in parameter_groups(model, loaded.adapter, recipe)
        for p in group["params"]
    }
    assert scale["head.weight"] == scale["norm.weight"] == 1.0
    assert scale["blocks.11.mlp.fc1.weight"] == 0.5
    assert scale["blocks.0.mlp.fc1.weight"] == 0.5**12
    assert scale["patch_embed.proj.weight"] == scale["cls_token"] == 0.5**13


def test_the_schedule_warms_up_and_falls(loaded: LoadedModel) -> None:
    model = cases.variant_of(loaded)
    recipe = cases.recipe(
        optimizer=OPTIMIZER, epochs=4, schedule={"warmup_epochs": 1, "final_share": 0.1}
    )
    optimizer = make_optimizer(model, loaded.adapter, recipe)
    scheduler = make_scheduler(optimizer, recipe, 10)
    rates = []
    for step in range(40):
        scheduler.step_update(step)
        by_scale = {group["lr_scale"]: group["lr"] for group in optimizer.param_groups}
        assert by_scale[max(by_scale)] == pytest.approx(3 * by_scale[1.0])
        rates.append(by_scale[1.0])
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert max(rates) <= 1e-4
    assert rates[10] == pytest.approx(1e-4, rel=0.2)
    assert rates[-1] == pytest.approx(1e-5, rel=0.1)


def test_thawing(loaded: LoadedModel) -> None:
    model = cases.variant_of(loaded)

    def learning() -> set[str]:
        return {name for name, p in model.named_parameters() if p.requires_grad}

    thaw(model, "new")
    assert learning() == new_parameters(model)
    thaw(model, "consumers")
    assert {name.split(".")[1] for name in learning()} == {"3", "4", "7"}
    thaw(model, "all")
    assert learning() == {name for name, _ in model.named_parameters()}
    with pytest.raises(RecipeError, match="the model has no 'new' parameters"):
        thaw(loaded.model, "new")


@pytest.mark.parametrize("name", ["sgd", "lamb", "adamw"])
def test_optimisers_of_timm(loaded: LoadedModel, name: str) -> None:
    model = cases.variant_of(loaded)
    recipe = cases.recipe(optimizer={**OPTIMIZER, "name": name})
    assert isinstance(make_optimizer(model, loaded.adapter, recipe), torch.optim.Optimizer)


def test_an_optimiser_timm_does_not_have(loaded: LoadedModel) -> None:
    with pytest.raises(RecipeError, match="timm cannot make 'adamx'"):
        make_optimizer(
            cases.variant_of(loaded),
            loaded.adapter,
            cases.recipe(optimizer={**OPTIMIZER, "name": "adamx"}),
        )
