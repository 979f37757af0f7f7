"""Vision encoders of transformers: towers answer as they do, and run plans."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import randomised
from torch import Tensor, nn

import trex
from trex.errors import ModelError
from trex.models.registry import adapter_of, architecture_of
from trex.models.towers import VisionTower, known
from trex.plan import Plan
from trex.reuse import apply_plan, remove_plan
from trex.reuse.route import Route, run_model

transformers = pytest.importorskip("transformers", reason="the extra `text` is missing")

_SHAPE: dict[str, Any] = {
    "hidden_size": 48, "num_hidden_layers": 6, "num_attention_heads": 3, "image_size": 32,
    "patch_size": 8, "intermediate_size": 96,
}  # fmt: skip
CLASSES = {
    "ViTModel": "ViTConfig",
    "ViTForImageClassification": "ViTConfig",
    "Dinov2Model": "Dinov2Config",
    "Dinov2ForImageClassification": "Dinov2Config",
    "CLIPVisionModel": "CLIPVisionConfig",
    "CLIPVisionModelWithProjection": "CLIPVisionConfig",
    "SiglipVisionModel": "SiglipVisionConfig",
}


def made(name: str, **more: Any) -> nn.Module:
    shape = {**_SHAPE, **more}
    if "Classification" in name:
        shape["num_labels"] = 5
    if name.startswith("Dinov2"):
        shape["mlp_ratio"] = 2
        del shape["intermediate_size"]
    config = getattr(transformers, CLASSES[name])(**shape)
    torch.manual_seed(0)
    return randomised(getattr(transformers, name)(config))


def images(number: int = 2) -> Tensor:
    return torch.randn(number, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def answer(model: nn.Module, pixels: Tensor) -> Tensor:
    """What transformers puts out for images."""
    outputs: Any = model(pixels)
    for name in ("logits", "image_embeds", "pooler_output"):
        if getattr(outputs, name, None) is not None:
            return getattr(outputs, name)
    raise AssertionError("no answer")


@pytest.mark.parametrize("name", CLASSES)
@torch.no_grad()
def test_a_tower_answers_as_its_model(name: str) -> None:
    model = made(name)
    tower = known(model)
    assert type(tower) is VisionTower
    expected = answer(model, images())
    torch.testing.assert_close(tower(images()), expected, rtol=1e-4, atol=1e-5)
    adapter = adapter_of(tower)
    layout = adapter.layout(tower)
    _, found = run_model(tower, adapter, Route.of(Plan(), layout), images())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (tower.num_classes > 0) == ("Classification" in name)
    apply_plan(tower, "2<-1:map 4<-1 0~1")
    assert not torch.allclose(tower(images()), expected, rtol=0, atol=1e-6)
    if layout.class_rows:
        dead = apply_plan(remove_plan(tower), "5=class")
        torch.testing.assert_close(dead(images()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CLASSES)
def test_towers_are_priced(name: str) -> None:
    tower = known(made(name))
    found = architecture_of(tower, name)
    tokens = found.layout.tokens
    assert tokens == 16 + (not name.startswith("Siglip"))
    encoder = tokens * 4 * 48**2 + 2 * tokens**2 * 48 + 2 * tokens * 48 * 96
    assert [sum(op.macs for op in e.operations) for e in found.encoders] == [encoder] * 6


def test_a_gated_mlp_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="Dinov2Model has a part"):
        known(made("Dinov2Model", use_swiglu_ffn=True))


def test_other_models_stay_what_they_are() -> None:
    model = nn.Linear(2, 2)
    assert known(model) is model


@pytest.mark.parametrize("name", ["ViTForImageClassification", "CLIPVisionModelWithProjection"])
def test_a_search_of_a_model_of_transformers(name: str) -> None:
    model = made(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    result = trex.search(
        model, (images(24), torch.arange(24) % 4), "trex_fefet_32nm", budget="0.8x",
        space="default", evaluations=2, refine_rounds=0,
    )  # fmt: skip
    assert result.plan.n_reuse > 0
    assert result.run.manifest().settings.model == f"object:{name}"
    with torch.no_grad():
        expected = result.model(images())
        again = trex.load(result.path / "best", model)
        torch.testing.assert_close(again(images()), expected)
    for key, value in made(name).state_dict().items():
        assert torch.equal(value, before[key])
