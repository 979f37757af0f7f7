"""LV-ViT T, S, M and L (Jiang et al., "All Tokens Matter", arXiv 2104.10858).

A vision transformer with a convolutional stem, residual branches divided by `skip_lam`, and a
second classifier on the patch tokens. Submodules are named as in the published checkpoints.
Importing this package registers `lvvit_t`, `lvvit_s`, `lvvit_m` and `lvvit_l` with timm.
"""

from __future__ import annotations

from typing import Any, Final

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from trex.errors import ModelError
from trex.models.lvvit.layers import ConvStem, LVBlock
from trex.models.lvvit.model import AUX_WEIGHT, LVViT, checkpoint_filter_fn
from trex.models.lvvit.tokens import TokenBox, TokenOutputs

__all__ = [
    "AUX_WEIGHT",
    "ConvStem",
    "LVBlock",
    "LVViT",
    "TokenBox",
    "TokenOutputs",
    "checkpoint_filter_fn",
    "lvvit_l",
    "lvvit_m",
    "lvvit_s",
    "lvvit_t",
]


def _create(variant: str, pretrained: bool, defaults: dict[str, Any], **kwargs: Any) -> LVViT:
    if kwargs.get("features_only"):
        raise ModelError(
            f"{variant} has no pyramid of feature maps", hint="leave features_only out"
        )
    model: LVViT = build_model_with_cfg(
        LVViT,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        **{**defaults, **kwargs},
    )
    return model


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "fixed_input_size": True,
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "patch_embed.conv1",
        "classifier": ("head", "aux_head"),
        "license": "apache-2.0",
        "paper_ids": "arXiv:2104.10858",
        **kwargs,
    }


_RELEASES: Final = "https://github.com/zihangJiang/TokenLabeling/releases/download"

default_cfgs = generate_default_cfgs(
    {
        "lvvit_t.in1k": _cfg(url=f"{_RELEASES}/v0.2.0/lvvit_t.pth"),
        "lvvit_s.in1k": _cfg(url=f"{_RELEASES}/1.0/lvvit_s-26M-224-83.3.pth.tar"),
        "lvvit_m.in1k": _cfg(url=f"{_RELEASES}/1.0/lvvit_m-56M-224-84.0.pth.tar", crop_pct=1.0),
        "lvvit_l.in1k": _cfg(
            url=f"{_RELEASES}/1.0/lvvit_l-150M-448-86.2.pth.tar",
            input_size=(3, 448, 448),
            crop_pct=1.0,
        ),
    }
)


def lvvit_t(pretrained: bool = False, **kwargs: Any) -> LVViT:
    """LV-ViT-T: 12 encoders 240 wide."""
    size = {"embed_dim": 240, "depth": 12, "num_heads": 4, "skip_lam": 1.0}
    return _create("lvvit_t", pretrained, size, **kwargs)


def lvvit_s(pretrained: bool = False, **kwargs: Any) -> LVViT:
    """LV-ViT-S: 16 encoders 384 wide."""
    size = {"embed_dim": 384, "depth": 16, "num_heads": 6, "skip_lam": 2.0}
    return _create("lvvit_s", pretrained, size, **kwargs)


def lvvit_m(pretrained: bool = False, **kwargs: Any) -> LVViT:
    """LV-ViT-M: 20 encoders 512 wide."""
    size = {"embed_dim": 512, "depth": 20, "num_heads": 8, "skip_lam": 2.0}
    return _create("lvvit_m", pretrained, size, **kwargs)


def lvvit_l(pretrained: bool = False, **kwargs: Any) -> LVViT:
    """LV-ViT-L: 24 encoders 768 wide, a stem of 128 filters, images of 448 pixels."""
    size = {"embed_dim": 768, "depth": 24, "num_heads": 12, "skip_lam": 3.0, "stem_width": 128}
    return _create("lvvit_l", pretrained, size, **kwargs)


for _entry in (lvvit_t, lvvit_s, lvvit_m, lvvit_l):
    register_model(_entry)
