"""Variants that run through the adapter's steps: the originals they come from, and by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import VIT_KINDS, Kind
from torch import nn

from trex.compare import tokens
from trex.compare.merging import merge_pairs
from trex.compare.stepped import MergedTokens, PrunedTokens, SkippedAttention, fuse_inattentive
from trex.compare.variants import has_class_token
from trex.models.registry import adapter_of

#: with a class token that the head reads, and one such token
TOKEN_KINDS = {
    name: kind for name, kind in VIT_KINDS.items()
    if name in ("vit", "no qkv bias", "layer scale", "clip, pre-norm", "qk norm", "output norm",
                "lvvit")
}  # fmt: skip


def unchanged(model: nn.Module) -> list[nn.Module]:
    adapter = adapter_of(model)
    return [
        SkippedAttention(model, adapter, ()),
        PrunedTokens(model, adapter, (1, 3), 1.0),
        MergedTokens(model, adapter, 0),
    ]


@pytest.mark.parametrize("kind", TOKEN_KINDS.values(), ids=TOKEN_KINDS)
def test_changing_nothing_is_the_original(kind: Kind) -> None:
    model, images = kind.build(), kind.images()
    with torch.no_grad():
        original = model(images)
        original = original[0] if isinstance(original, tuple) else original
        for variant in unchanged(model):
            torch.testing.assert_close(variant(images), original, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", VIT_KINDS.values(), ids=VIT_KINDS)
def test_one_class_token_is_told_from_others(kind: Kind) -> None:
    assert has_class_token(kind.build()) is (kind in TOKEN_KINDS.values() or kind.name in (
        "test_vit", "vit_tiny_r_s16_p8_224",
    ))  # fmt: skip


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
    # ToMe's keys are computed a second time
    attention = counts["qkv"][:: len(counts["qkv"]) // len(counts["fc1"])]
    return list(zip(attention, counts["fc1"], strict=True))


def test_what_runs_is_what_is_priced() -> None:
    kind = Kind(name="vit_tiny_patch16_224", kwargs={"img_size": 96}, side=96)
    model, images = kind.build(), kind.images()
    adapter = adapter_of(model)
    ran = seen(model, PrunedTokens(model, adapter, tokens.stages(6), 0.6), images)
    assert ran == tokens.evit_counts(6, 37, 0.6)
    assert seen(model, MergedTokens(model, adapter, 4), images) == tokens.tome_counts(6, 37, 4)


def test_skipping_an_encoders_attention_is_silencing_its_projection() -> None:
    kind = VIT_KINDS["vit"]
    model, images = kind.build(), kind.images()
    skipped = SkippedAttention(model, adapter_of(model), (2,))
    with torch.no_grad():
        found = skipped(images)
        nn.init.zeros_(model.blocks[2].attn.proj.weight)  # type: ignore[index]
        nn.init.zeros_(model.blocks[2].attn.proj.bias)  # type: ignore[index]
        torch.testing.assert_close(found, model(images))


def test_the_likest_pair_is_merged() -> None:
    # tokens 0, 2, 4 against 1, 3; the class token 0 is like 1 but protected, 4 is like 3
    metric = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [0.0, 1.0]]])
    stream = torch.tensor([[[0.0], [1.0], [2.0], [3.0], [9.0]]])
    sizes = torch.tensor([[1.0, 1.0, 1.0, 1.0, 2.0]])
    merged, left = merge_pairs(stream, sizes, metric, 1)
    # left of the first set: 0 and 2; the second: 1, and 3 with 4
    assert merged.flatten().tolist() == [0.0, 2.0, 1.0, 7.0]
    assert left.tolist() == [[1.0, 1.0, 1.0, 3.0]]


@pytest.mark.parametrize("r", [1, 3, 100])
def test_merging_keeps_the_class_token_and_the_weighted_sum(r: int) -> None:
    generator = torch.Generator().manual_seed(0)
    stream = torch.randn(3, 17, 5, generator=generator)
    sizes = torch.randint(1, 4, (3, 17), generator=generator).float()
    metric = torch.randn(3, 17, 4, generator=generator)
    merged, left = merge_pairs(stream, sizes, metric, r)
    assert merged.shape[1] == left.shape[1] == 17 - min(r, 8)
    torch.testing.assert_close(merged[:, 0], stream[:, 0])
    torch.testing.assert_close(left.sum(1), sizes.sum(1))
    torch.testing.assert_close(
        (merged * left[..., None]).sum(1), (stream * sizes[..., None]).sum(1)
    )


def test_equal_tokens_can_be_merged_without_a_trace() -> None:
    """Proportional attention: two tokens merged weigh as much as both did."""
    kind = VIT_KINDS["vit"]
    model = kind.build()
    model.pos_embed.data[:, 1:] = model.pos_embed.data[:, 1:2]  # type: ignore[index]
    images = torch.full((1, 3, 32, 32), 0.3)
    with torch.no_grad():
        merged = MergedTokens(model, adapter_of(model), 1)(images)
        torch.testing.assert_close(merged, model(images), rtol=1e-4, atol=1e-4)


def test_the_rest_is_fused_by_its_attention() -> None:
    stream = torch.tensor([[[0.0], [1.0], [2.0], [3.0], [4.0]]])
    attention = torch.tensor([[0.1, 0.4, 0.3, 0.2]])
    fused = fuse_inattentive(stream, attention, 2)
    assert fused.flatten().tolist() == pytest.approx([0.0, 2.0, 3.0, (0.1 * 1 + 0.2 * 4) / 0.3])
