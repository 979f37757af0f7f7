"""Small models of every supported kind, with weights whose every value matters."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from trex.models.bert import from_transformers, pack_inputs
from trex.models.registry import adapter_of

_VIT: dict[str, Any] = {
    "img_size": 32, "embed_dim": 48, "depth": 6, "num_heads": 3, "num_classes": 7,
}  # fmt: skip

#: models that were built in this process, which tests get copies of
_BUILT: dict[str, nn.Module] = {}


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of model: what timm is asked for, and what is special about its encoders."""

    name: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    side: int = 32
    qkv_bias: bool = True
    layer_scale: bool = False
    qk_norm: bool = False
    output_norm: bool = False
    #: whether tokens can merge, and whether the head reads class tokens only
    merges: bool = True
    reads_class: bool = True
    #: a plan of shared rows and mixed maps; none where maps cannot be mixed
    mixed: str = "2<-1:map/mixed 3:map/average 0~1 2=class 4=3"

    def build(self, seed: int = 0) -> nn.Module:
        """The model in evaluation mode, with random weights far from their usual start."""
        # a replaced kind is another one: it is known by what it says, not by its place in memory
        key = f"{self!r}, {seed}"
        if key not in _BUILT:
            _BUILT[key] = self._build(seed)
        return copy.deepcopy(_BUILT[key])

    def _build(self, seed: int) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = randomised(timm.create_model(self.name, **{**_VIT, **self.kwargs}))
            return settled(model, torch.randn(16, 3, self.side, self.side))

    def images(self, number: int = 2) -> Tensor:
        """Random images."""
        generator = torch.Generator().manual_seed(1)
        return torch.randn(number, 3, self.side, self.side, generator=generator)


VIT_KINDS = {
    "vit": Kind(name="vit_tiny_patch16_224"),
    "no qkv bias": Kind(
        name="vit_tiny_patch16_224", kwargs={"qkv_bias": False}, qkv_bias=False
    ),
    "distilled": Kind(
        name="deit_tiny_distilled_patch16_224",
        mixed="2<-1:map/mixed 3:map/average 0~1 2=class 4=4",
    ),
    "layer scale": Kind(name="deit3_small_patch16_224", layer_scale=True),
    "registers, averaged": Kind(
        name="vit_base_patch16_reg4_gap_256", reads_class=False,
        mixed="2<-1:map/mixed 3:map/average 0~1 4=6",
    ),
    "clip, pre-norm": Kind(name="vit_base_patch16_clip_224"),
    "qk norm": Kind(name="vit_tiny_patch16_224", kwargs={"qk_norm": True}, qk_norm=True),
    "output norm": Kind(
        name="vit_tiny_patch16_224",
        kwargs={"scale_attn_norm": True, "scale_mlp_norm": True},
        output_norm=True,
    ),
    "attention pool": Kind(
        name="test_vit3", layer_scale=True, reads_class=False,
        mixed="2<-1:map/mixed 3:map/average 0~1 4=3",
    ),
    "any image size": Kind(name="test_vit"),
    "behind a convolutional network": Kind(
        name="vit_tiny_r_s16_p8_224", kwargs={"img_size": 64}, side=64
    ),
    "lvvit": Kind(
        name="lvvit_t", kwargs={"img_size": 64, "stem_width": 64, "skip_lam": 2.0},
        side=64, qkv_bias=False, reads_class=False,
    ),
}  # fmt: skip
_AVERAGED: dict[str, Any] = {
    "reads_class": False, "mixed": "2<-1:map/mixed 3:map/average 0~1 4=6",
}  # fmt: skip
_CLASSED: dict[str, Any] = {
    "mixed": "2<-1:map/mixed 3:map/average 0~1 2=class 4=6",
}  # fmt: skip
#: other MLPs and norms; blocks that are told where their tokens are
PLACED_KINDS = {
    "gated mlp": Kind(
        name="vit_giant_patch14_dinov2", kwargs={"img_size": 56}, side=56, **_CLASSED
    ),
    "rms norm": Kind(
        name="aimv2_large_patch14_224", kwargs={"img_size": 56}, side=56, **_AVERAGED
    ),
    "eva02": Kind(
        name="eva02_tiny_patch14_224", kwargs={"img_size": 56}, side=56, **_AVERAGED
    ),
    "rotary by head": Kind(
        name="vit_small_patch16_rope_mixed_224", kwargs={"img_size": 64}, side=64, **_CLASSED
    ),
    "rotary, grouped keys": Kind(
        name="vit_small_patch16_rope_224",
        kwargs={"img_size": 64, "qkv_fused": False, "num_kv_heads": 1, "qk_norm": True},
        side=64, **_CLASSED,
    ),
    "beit": Kind(name="beit_base_patch16_224", kwargs={"img_size": 64}, side=64, **_AVERAGED),
    "beit, shared bias": Kind(
        name="beit_base_patch16_224",
        kwargs={
            "img_size": 64, "global_pool": "token", "use_rel_pos_bias": False,
            "use_shared_rel_pos_bias": True,
        },
        side=64, **_CLASSED,
    ),
    "relative positions": Kind(
        name="vit_relpos_base_patch16_cls_224",
        # by a table: an MLP's dropout draws anew in a checkpointed backward pass
        kwargs={"img_size": 64, "global_pool": "token", "rel_pos_type": "bias"},
        side=64, **_CLASSED,
    ),
    "qwen3": Kind(
        name="qwen3_vit_88m", kwargs={"img_size": 64, "pos_embed_grid_size": 4}, side=64,
        **_AVERAGED,
    ),
}  # fmt: skip
#: convolutional encoders in stages, the first of which holds encoders 0 to 5
STAGED_KINDS = {
    "uniform": Kind(
        name="uniform_t",
        kwargs={
            "img_size": 96, "embed_dim": (16, 24, 32), "depth": (6, 1, 2),
            "num_heads": (4, 3, 2),
        },
        side=96, merges=False, reads_class=False, mixed="",
    ),
    "shvit": Kind(
        name="shvit_s1",
        kwargs={
            "img_size": None, "num_heads": None, "embed_dim": (16, 24, 32, 40),
            "partial_dim": (4, 6, 8, 10), "qk_dim": (4,) * 4, "depth": (1, 6, 2, 1),
            "types": ("i", "s", "s", "i"),
        },
        side=96, merges=False, reads_class=False, mixed="",
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TextKind(Kind):
    """A text classifier of `transformers`; one of its texts is shorter than the others."""

    mixed: str = ""

    def _build(self, seed: int) -> nn.Module:
        transformers = pytest.importorskip("transformers", reason="the extra `text` is missing")
        config = transformers.AutoConfig.for_model(self.name, **_TEXT, **self.kwargs)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = transformers.AutoModelForSequenceClassification.from_config(config)
            model = randomised(from_transformers(network, tokens=9))
        # so that `silence` can make encoder 4 pass on what encoder 3 puts out
        norm = blocks_of(model)[3].get_submodule("layer.output.LayerNorm")
        nn.init.ones_(norm.weight)
        nn.init.zeros_(norm.bias)
        return model

    def images(self, number: int = 2) -> Tensor:
        """Random texts; half of the first one is padding."""
        generator = torch.Generator().manual_seed(1)
        ids = torch.randint(5, 40, (number, 9), generator=generator)
        mask = torch.ones_like(ids)
        mask[0, 5:] = 0
        return pack_inputs(ids, mask)


_TEXT: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 48, "num_hidden_layers": 6, "num_attention_heads": 3,
    "intermediate_size": 96, "max_position_embeddings": 16, "num_labels": 7,
    "layer_norm_eps": 1e-15,
    # dropout draws anew in a checkpointed backward pass, and tests compare training passes
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
TEXT_KINDS = {
    "bert": TextKind(name="bert"),
    "roberta": TextKind(name="roberta"),
    "electra": TextKind(name="electra", kwargs={"embedding_size": 32}),
}
KINDS = {**VIT_KINDS, **PLACED_KINDS, **STAGED_KINDS, **TEXT_KINDS}


def randomised(model: nn.Module) -> nn.Module:
    """Every floating-point value moved away from zeros and ones, in place."""
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.add_(torch.rand_like(value) - 0.3, alpha=0.2)
    return model.eval()


def settled(model: nn.Module, images: Tensor) -> nn.Module:
    """Batch normalisations with the statistics of some images, so that no stream explodes."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if norms:
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 1.0
        with torch.no_grad():
            model.train()(images)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    return model.eval()


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """All encoders of an original in order."""
    adapter = adapter_of(model)
    return [
        block
        for name in adapter.containers(model)
        for block in cast(nn.Sequential, model.get_submodule(name))
    ]


def equal_places(model: nn.Module, images: Tensor, distinct: int) -> tuple[Tensor, ...]:
    """Places of six patches of which so many differ, equal ones side by side.

    Skips the test where the blocks' own tables are of another number of tokens.
    """
    adapter = adapter_of(model)
    places = adapter.places(model, images)
    if adapter.place_argument.startswith("shared") or not (places or not adapter.place_argument):
        pytest.skip("bias tables are of all tokens, which tests/models/test_places.py merges")
    each = 6 // distinct
    return tuple(of[..., :distinct, :].repeat_interleave(each, dim=-2) for of in places)


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """The model's logits, without gradients."""
    with torch.no_grad():
        return cast(Tensor, model(images))


def products_of(model: nn.Module, images: Tensor) -> int:
    """Multiply-accumulates of one forward; plain attention, which every version counts."""
    with (
        torch.no_grad(),
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        model(images)
    return int(counter.get_total_flops() // 2)


def total(outputs: Any) -> Tensor:
    """One number that every output of a model has a part in."""
    if isinstance(outputs, Tensor):
        weights = torch.linspace(0.5, 1.5, outputs.numel(), dtype=outputs.dtype)
        return (outputs.flatten() * weights).sum()
    if isinstance(outputs, Sequence):
        return cast(Tensor, sum(total(part) for part in outputs if not isinstance(part, int)))
    return torch.zeros(())


def silence(block: Any) -> None:
    """Make an encoder pass its input on unchanged; its attention can still be reused."""
    with torch.no_grad():
        if hasattr(block, "layer"):
            for part in (block.layer.attention.output, block.layer.output):
                for value in part.dense.parameters():
                    value.zero_()
                nn.init.ones_(part.LayerNorm.weight)
                nn.init.zeros_(part.LayerNorm.bias)
            return
        if not hasattr(block, "attn"):
            for branch in (part for part in block.children() if hasattr(part, "m")):
                _silence_branch(branch)
            return
        for layer in (block.attn.proj, block.mlp.fc2):
            layer.weight.zero_()
            if layer.bias is not None:
                layer.bias.zero_()


_OF_SCORES = (
    "norm1", "q_norm", "k_norm", "q_bias", "q_proj", "k_proj", "rel_pos",
    "relative_position_bias_table",
)  # fmt: skip
_OF_VALUES = ("norm", "v_proj", "v_bias")


def copy_attention(source: Any, target: Any, *, values: bool) -> None:
    """Give an encoder another one's first norm, queries and keys, and values where asked.

    A convolutional encoder's steps before its attention are silenced.
    """
    with torch.no_grad():
        if hasattr(target, "layer"):
            for name in ("query", "key", "value")[: 3 if values else 2]:
                part = f"layer.attention.self.{name}"
                target.get_submodule(part).load_state_dict(source.get_submodule(part).state_dict())
            return
        if not hasattr(target, "attn"):
            _copy_staged_attention(source, target, values=values)
            return
        for name, value in source.state_dict().items():
            part = name.removeprefix("attn.").split(".")[0]
            if part in _OF_SCORES or (part in _OF_VALUES and values):
                target.state_dict()[name].copy_(value)
            elif part == "qkv":
                rows = len(value) if values else len(value) * 2 // 3
                target.state_dict()[name][:rows].copy_(value[:rows])


def _silence_branch(branch: nn.Module) -> None:
    """The last normalisation of a residual branch makes nothing of everything."""
    last = [m for m in branch.modules() if isinstance(m, nn.BatchNorm2d)][-1]
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)


def _copy_staged_attention(source: Any, target: Any, *, values: bool) -> None:
    for name, branch in target.named_children():
        if name == "mixer":
            break
        _silence_branch(branch)
    own = target.mixer.state_dict()
    for name, value in source.mixer.state_dict().items():
        if ".proj." in name or (".mix." in name and not values):
            continue
        rows: Any = ...
        if ".qkv." in name and value.ndim and not values:
            rows = slice(2 * source.mixer.m.qk_dim)
        own[name][rows] = value[rows]
