"""Model objects: which names they have, which are understood, and that they stay as they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from objects import Louder, MyViT, own_model, timm_model
from small_runs import CLASSES, MODEL, SIDE
from torch import nn

from trex.api.models import ModelOptions, load_model
from trex.errors import ModelError
from trex.models.registry import adapter_of, create
from trex.models.weights import weights_hash
from trex.store.run import ORIGINAL


def loaded(model: nn.Module) -> Any:
    return load_model(model, ModelOptions())


def test_what_timm_made_has_its_name() -> None:
    model = timm_model()
    before = weights_hash(model)
    found = loaded(model)
    assert (found.name, found.weights_source) == (MODEL, ORIGINAL)
    assert found.arguments == {"num_classes": len(CLASSES), "img_size": SIDE}
    assert found.weights_sha256 == before == weights_hash(model)
    assert found.model is not model
    assert found.own_base() is None
    built = create(found.name, **found.arguments)
    built.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        assert torch.equal(built(images), model(images))


def test_another_computation_has_not_timms_name() -> None:
    """As many weights of the same shapes, and another number of heads."""
    model: Any = timm_model()
    for block in model.blocks:
        block.attn.num_heads //= 2
        block.attn.head_dim *= 2
        block.attn.scale = block.attn.head_dim**-0.5
    assert loaded(model).name == "object:VisionTransformer"


def test_a_subclass_is_an_object() -> None:
    model = own_model()
    found = loaded(model)
    assert (found.name, found.arguments) == ("object:MyViT", {})
    assert isinstance(found.own_base(), MyViT)
    with pytest.raises(ModelError, match="MyViT is a model of your own") as raised:
        create(found.name)
    assert "trex.load(FOLDER, model)" in raised.value.hint


def test_a_subclass_that_computes_otherwise_is_refused() -> None:
    with pytest.raises(ModelError, match="is a Louder, a family in which"):
        loaded(own_model(Louder))


def test_hooks_that_change_answers_are_refused() -> None:
    model: Any = timm_model()
    model.register_forward_hook(lambda module, inputs, output: 3 * output)
    with pytest.raises(ModelError, match=f"{MODEL} computes otherwise"):
        loaded(model)


def test_wrappers_precisions_and_modes_are_taken_off() -> None:
    model = timm_model()
    plain = loaded(model)
    assert loaded(nn.DataParallel(model)).weights_sha256 == plain.weights_sha256
    half = timm_model().half().train()
    found = loaded(half)
    assert not found.model.training
    assert {of.dtype for of in found.model.parameters()} == {torch.float32}
    assert half.training
    assert {of.dtype for of in half.parameters()} == {torch.float16}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Linear(3, 3), "is a Linear, a family"),
        (lambda: 7, "a int is no model"),
        (lambda: create(MODEL, device="meta"), "cannot be copied"),
    ],
)
def test_what_is_no_model_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        loaded(make())


def test_weights_that_are_not_finite_are_refused() -> None:
    model: Any = timm_model()
    with torch.no_grad():
        model.head.weight[0, 0] = torch.nan
    with pytest.raises(ModelError, match=r"head.weight of the .* not a finite number"):
        loaded(model)


@pytest.mark.parametrize("name", ["weights", "num_classes", "img_size", "tokens"])
def test_what_an_object_says_itself_is_refused(name: str) -> None:
    options = ModelOptions(**{name: "file" if name == "weights" else 4})
    with pytest.raises(ModelError, match=f"{name} is given beside a model object"):
        load_model(timm_model(), options)


def test_subclasses_share_their_bases_adapter() -> None:
    assert type(adapter_of(own_model())) is type(adapter_of(timm_model()))
