"""Variants that run through the adapter's steps: the originals they come from, and by hand."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from tiny_models import KINDS, PLACED_KINDS, TEXT_KINDS, VIT_KINDS, Kind, logits_of
from torch import nn

from trex.compare import tokens
from trex.compare.planned import TomeMerging
from trex.compare.stepped import PrunedTokens, SkippedAttention, fuse_inattentive
from trex.compare.variants import has_class_token
from trex.models.registry import adapter_of, architecture_of
from trex.reuse import apply_plan

#: with a class token that the head reads, and one such token
TOKEN_KINDS = {
    name: kind for name, kind in {**VIT_KINDS, "gated mlp": PLACED_KINDS["gated mlp"]}.items()
    if name in ("vit", "no qkv bias", "layer scale", "clip, pre-norm", "qk norm", "output norm",
                "gated mlp", "lvvit")
}  # fmt: skip

RUN_KINDS = {**TOKEN_KINDS, **TEXT_KINDS}


def unchanged(model: nn.Module) -> list[nn.Module]:
    adapter = adapter_of(model)
    return [
        SkippedAttention(model, adapter, ()),
        PrunedTokens(model, adapter, (1, 3), 1.0),
    ]


@pytest.mark.parametrize("kind", RUN_KINDS.values(), ids=RUN_KINDS)
def test_changing_nothing_is_the_original(kind: Kind) -> None:
    model, images = kind.build(), kind.images()
    with torch.no_grad():
        original = model(images)
        original = original[0] if isinstance(original, tuple) else original
        for variant in unchanged(model):
            torch.testing.assert_close(variant(images), original, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_one_class_token_is_told_from_others(kind: Kind) -> None:
    assert has_class_token(kind.build()) is (kind in RUN_KINDS.values() or kind.name in (
        "test_vit", "vit_tiny_r_s16_p8_224",
    ))  # fmt: skip


@pytest.mark.parametrize("kind", TEXT_KINDS.values(), ids=TEXT_KINDS)
def test_padding_is_pruned_first_and_counts_for_nothing(kind: Kind) -> None:
    """Of 9 tokens the first text has 4 of padding: 4 kept of 8, then 2 of 5, lose words last."""
    model, texts = kind.build(), kind.images()
    adapter = adapter_of(model)
    found = logits_of(PrunedTokens(model, adapter, (1,), 0.5), texts)
    assert found.isfinite().all()
    # the words of the first text are kept, and only padding is fused: nothing
    torch.testing.assert_close(found[0], logits_of(model, texts)[0], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found[1], logits_of(model, texts)[1], atol=1e-3)


def seen(model: nn.Module, variant: nn.Module, images: torch.Tensor) -> list[tuple[int, int]]:
    """Tokens in every encoder's attention and MLP, as they ran."""
    counts: dict[str, list[int]] = {"qkv": [], "fc1": []}
    hooks = []
    for block in model.blocks:  # type: ignore[union-attr]
        for name, layer in (("qkv", block.attn.qkv), ("fc1", block.mlp.fc1)):

            def note(_: Any, inputs: tuple[torch.Tensor, ...], __: Any, name: str = name) -> None:
                counts[name].append(inputs[0].shape[1])

            hooks.append(layer.register_forward_hook(note))
    with torch.no_grad():
        variant(images)
    for hook in hooks:
        hook.remove()
    return list(zip(counts["qkv"], counts["fc1"], strict=True))


def test_what_runs_is_what_is_priced() -> None:
    kind = Kind(name="vit_tiny_patch16_224", kwargs={"img_size": 96}, side=96)
    model, images = kind.build(), kind.images()
    adapter = adapter_of(model)
    ran = seen(model, PrunedTokens(model, adapter, tokens.stages(6), 0.6), images)
    assert ran == tokens.evit_counts(6, 37, 0.6)
    merged = apply_plan(deepcopy(model), TomeMerging().plan(architecture_of(model, "tiny"), 4))
    counted = TomeMerging().work(architecture_of(model, "tiny"), 4).tokens
    assert seen(merged, merged, images) == list(counted)


def test_skipping_an_encoders_attention_is_silencing_its_projection() -> None:
    kind = VIT_KINDS["vit"]
    model, images = kind.build(), kind.images()
    skipped = SkippedAttention(model, adapter_of(model), (2,))
    with torch.no_grad():
        found = skipped(images)
        nn.init.zeros_(model.blocks[2].attn.proj.weight)  # type: ignore[index]
        nn.init.zeros_(model.blocks[2].attn.proj.bias)  # type: ignore[index]
        torch.testing.assert_close(found, model(images))


def test_the_rest_is_fused_by_its_attention() -> None:
    stream = torch.tensor([[[0.0], [1.0], [2.0], [3.0], [4.0]]])
    attention = torch.tensor([[0.1, 0.4, 0.3, 0.2]])
    fused = fuse_inattentive(stream, attention, 2)
    assert fused.flatten().tolist() == pytest.approx([0.0, 2.0, 3.0, (0.1 * 1 + 0.2 * 4) / 0.3])
