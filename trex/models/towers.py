"""Vision encoders of `transformers`: ViT, DINOv2, CLIP's and SigLIP's towers, on timm's blocks.

A tower is made of a model's own modules: its embeddings, its linear layers and norms, its head.
Only the blocks' frame is TReX's, so that timm's adapter runs it. `transformers` is not imported
here: its classes are known by name, whoever made the model has it.

Shape legend: B images, N tokens, D width.
"""

from __future__ import annotations

from typing import Any, Final, cast

import torch
from timm.data import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_INCEPTION_MEAN,
    IMAGENET_INCEPTION_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
)
from timm.layers import DropPath
from timm.models.vision_transformer import LayerScale
from torch import Tensor, nn

from trex.errors import ModelError
from trex.models.adapter import image_channels, stages_of
from trex.models.attention import attention_output
from trex.models.vit import VitAdapter
from trex.plan import Layout

#: a class of transformers -> where in it the encoder is, whether it classifies
_KNOWN: Final[dict[str, tuple[str, bool]]] = {
    "ViTModel": ("", False),
    "ViTForImageClassification": ("vit", True),
    "Dinov2Model": ("", False),
    "Dinov2ForImageClassification": ("dinov2", True),
    "CLIPVisionModel": ("", False),
    "CLIPVisionModelWithProjection": ("vision_model", False),
    "SiglipVisionModel": ("", False),
}
_HALF: Final = (IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD)
#: by the beginning of the class's name: how the published checkpoints want their images
_COLOURS: Final = {
    "ViT": _HALF,
    "Dinov2": (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
    "CLIP": (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD),
    "Siglip": _HALF,
}


class TowerAttention(nn.Module):
    """An attention's own projections under timm's names."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.num_heads: int = _first_of(attention, "num_heads", "num_attention_heads")
        self.head_dim: int = attention.head_dim
        self.scale: float = _first_of(attention, "scale", "scaling")
        self.q_proj, self.k_proj, self.v_proj = (
            attention.q_proj, attention.k_proj, attention.v_proj,
        )  # fmt: skip
        self.attn_drop = nn.Dropout(_first_of(attention, "dropout", "attention_dropout"))
        self.proj = _first_of(attention, "out_proj", "o_proj")
        self.proj_drop = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        return cast(Tensor, self.proj(attention_output(self, x, frozenset())[0]))


class TowerMlp(nn.Module):
    """An MLP's own layers under timm's names."""

    def __init__(self, mlp: Any) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = mlp.fc1, mlp.activation_fn, mlp.fc2

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        return cast(Tensor, self.fc2(self.act(self.fc1(x))))


class TowerBlock(nn.Module):
    """A pre-norm layer's own parts under timm's names."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.norm1 = _first_of(layer, "norm1", "layer_norm1", "layernorm_before")
        self.attn = TowerAttention(_first_of(layer, "attention", "self_attn"))
        self.ls1 = _scale(getattr(layer, "layer_scale1", None))
        self.drop_path1 = _dropping(layer)
        self.norm2 = _first_of(layer, "norm2", "layer_norm2", "layernorm_after")
        self.mlp = TowerMlp(layer.mlp)
        self.ls2 = _scale(getattr(layer, "layer_scale2", None))
        self.drop_path2 = _dropping(layer)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x))))
        return x + cast(Tensor, self.drop_path2(self.ls2(self.mlp(self.norm2(x)))))


class VisionTower(nn.Module):
    """A vision encoder of `transformers` whose forward is its images' features or logits.

    Attributes:
        made_from: the class's name.
        num_classes: of its head; 0 where it puts out features.
        tokens: that enter the first encoder.
        prefix: class tokens in front.
        reads_patches: why the head needs patches; empty where it does not.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.made_from = type(model).__name__
        where, classifies = _KNOWN[self.made_from]
        encoder = model.get_submodule(where)
        config = encoder.config
        self.num_classes: int = config.num_labels if classifies else 0
        self.embeddings = encoder.embeddings
        self.norm_pre = getattr(encoder, "pre_layrnorm", None) or nn.Identity()
        layers = (
            encoder.layers if hasattr(encoder, "layers")
            else _first_of(encoder.encoder, "layers", "layer")
        )  # fmt: skip
        self.blocks = nn.Sequential(*map(TowerBlock, layers))
        self.norm = _first_of(encoder, "layernorm", "post_layernorm")
        self.prefix = 0 if self.made_from.startswith("Siglip") else 1
        self.pooler = _pooler(encoder)
        self.projection = getattr(model, "visual_projection", None) or nn.Identity()
        self.classifier = model.classifier if classifies else nn.Identity()
        pools = self.made_from == "Dinov2ForImageClassification"
        self.reads_patches = (
            "the classifier reads the patches' mean too" if pools
            else "" if self.prefix else "the head pools the patches"
        )  # fmt: skip
        self.pools = pools
        rows, columns = _pair(config.image_size)
        height, width = _pair(config.patch_size)
        self.tokens = (rows // height) * (columns // width) + self.prefix
        mean, std = next(of for name, of in _COLOURS.items() if self.made_from.startswith(name))
        self.pretrained_cfg = {
            "input_size": (config.num_channels, rows, columns), "mean": mean, "std": std,
            "interpolation": "bicubic", "crop_pct": 1.0,
        }  # fmt: skip

    def stem(self, images: Tensor) -> Tensor:
        """From images to the stream that enters encoder 0."""
        return cast(Tensor, self.norm_pre(self.embeddings(images)))

    def head(self, stream: Tensor) -> Tensor:
        """From the last encoder's output to features or logits, (B, C)."""
        normed = self.norm(stream)
        if self.pools:
            normed = torch.cat((normed[:, 0], normed[:, 1:].mean(dim=1)), dim=1)
        elif self.pooler is not None:
            normed = self.pooler(normed)
        elif self.prefix:
            normed = normed[:, 0]
        return cast(Tensor, self.classifier(self.projection(normed)))

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to (B, classes or width)."""
        return self.head(self.blocks(self.stem(images)))


_BLOCK: Final[dict[str, tuple[type[nn.Module], ...]]] = {
    "norm1": (nn.LayerNorm,),
    "attn": (TowerAttention,),
    "ls1": (nn.Identity, LayerScale),
    "drop_path1": (nn.Identity, nn.Dropout, DropPath),
    "norm2": (nn.LayerNorm,),
    "mlp": (TowerMlp,),
    "ls2": (nn.Identity, LayerScale),
    "drop_path2": (nn.Identity, nn.Dropout, DropPath),
}
_ATTENTION: Final[dict[str, tuple[type[nn.Module], ...]]] = {
    "q_proj": (nn.Linear,),
    "k_proj": (nn.Linear,),
    "v_proj": (nn.Linear,),
    "attn_drop": (nn.Dropout,),
    "proj": (nn.Linear,),
    "proj_drop": (nn.Identity,),
}


class TowerAdapter(VitAdapter):
    """`VisionTower`: pre-norm blocks with three layers for queries, keys and values."""

    family = "transformers' ViT, DINOv2, CLIPVisionModel and SiglipVisionModel"
    _block_type = TowerBlock
    _block_children = _BLOCK
    _attention_children = _ATTENTION

    def owns(self, model: nn.Module) -> bool:
        """TReX's own class."""
        return type(model) is VisionTower

    def layout(self, model: nn.Module) -> Layout:
        """Class tokens never merge; which tokens the head reads is its class's say."""
        tower = cast(VisionTower, model)
        return Layout(
            stages=stages_of(model, self.containers(model)),
            tokens=tower.tokens,
            protected=tower.prefix,
            class_tokens=tower.prefix,
            class_rows=0 if tower.reads_patches else tower.prefix,
            no_class_rows=tower.reads_patches,
        )

    def class_tokens(self, model: nn.Module) -> int:
        """One; none of SigLIP's."""
        return cast(VisionTower, model).prefix

    def stem(self, model: nn.Module, images: Tensor) -> Tensor:
        """Patches, class token, positions."""
        return cast(VisionTower, model).stem(images)

    def head(self, model: nn.Module, stream: Tensor) -> Tensor:
        """Norm, pooling, projection or classifier."""
        return cast(VisionTower, model).head(stream)

    def _input_size(self, model: nn.Module) -> tuple[int, int, int]:
        tower = cast(VisionTower, model)
        _, height, width = tower.pretrained_cfg["input_size"]
        return (image_channels(tower.embeddings), height, width)


def known(model: nn.Module) -> nn.Module:
    """A model as adapters know it: a tower of a vision model of `transformers`, else itself.

    Raises:
        ModelError: it is a vision model of `transformers` with a part that is not understood.
    """
    kind = type(model)
    if not kind.__module__.startswith("transformers.models.") or kind.__name__ not in _KNOWN:
        return model
    try:
        tower = VisionTower(model)
        tower.train(model.training)
        return tower
    except AttributeError as error:
        raise ModelError(
            f"{kind.__name__} has a part that TReX does not understand: {error}",
            hint="plain MLPs are understood, gated ones not; is transformers 5 installed?",
        ) from error


def _first_of(part: Any, *names: str) -> Any:
    """A part's first attribute of these names."""
    for name in names:
        if hasattr(part, name):
            return getattr(part, name)
    raise AttributeError(f"{type(part).__name__} has no {' and no '.join(names)}")


def _dropping(layer: Any) -> nn.Module:
    """What a layer drops of a branch: whole branches (DINOv2), values (ViT), nothing (others)."""
    rate = float(getattr(getattr(layer, "drop_path", None), "drop_prob", 0.0))
    if rate:
        return cast(nn.Module, DropPath(rate))
    values = getattr(layer, "dropout", None)
    return nn.Dropout(values.p) if isinstance(values, nn.Dropout) else nn.Identity()


def _scale(scale: Any) -> nn.Module:
    if scale is None:
        return nn.Identity()
    made = LayerScale(scale.lambda1.numel())
    made.gamma = scale.lambda1
    return cast(nn.Module, made)


def _pooler(encoder: Any) -> nn.Module | None:
    """What pools behind the norm, if anything does."""
    found = getattr(encoder, "pooler", None) or getattr(encoder, "head", None)
    return cast("nn.Module | None", found)


def _pair(size: Any) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)
