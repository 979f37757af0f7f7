"""UniForm t, s, m and l (Yeom & Kim, arXiv 2412.02344), from the paper's definition.

A three-stage backbone whose encoders have one attention map each, shared by all their heads.
Submodules are named as in the public code's checkpoints, less `backbone.`. Importing this
package registers `uniform_t`, `uniform_s`, `uniform_m` and `uniform_l` with timm.
"""

from __future__ import annotations

from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from trex.models.uniform.attention import SharedMapAttention, WindowAttention
from trex.models.uniform.config import from_config
from trex.models.uniform.model import UniForm, UniFormBlock, UniFormStage, checkpoint_filter_fn

__all__ = [
    "SharedMapAttention",
    "UniForm",
    "UniFormBlock",
    "UniFormStage",
    "WindowAttention",
    "checkpoint_filter_fn",
    "from_config",
    "uniform_l",
    "uniform_m",
    "uniform_s",
    "uniform_t",
]


def _create(variant: str, pretrained: bool, defaults: dict[str, Any], **kwargs: Any) -> UniForm:
    model: UniForm = build_model_with_cfg(
        UniForm,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"flatten_sequential": True, "out_indices": (0, 1, 2)},
        **{**defaults, **kwargs},
    )
    return model


_CFG = {
    "num_classes": 1000,
    "input_size": (3, 224, 224),
    "fixed_input_size": True,
    # short side to 256 pixels, then the middle 224
    "crop_pct": 0.875,
    "interpolation": "bicubic",
    "mean": IMAGENET_DEFAULT_MEAN,
    "std": IMAGENET_DEFAULT_STD,
    "first_conv": "patch_embed.conv1.conv",
    "classifier": "head.linear",
    "paper_ids": "arXiv:2412.02344",
}

default_cfgs = generate_default_cfgs(
    {f"uniform_{size}.untrained": dict(_CFG) for size in ("t", "s", "m", "l")}
)


def uniform_t(pretrained: bool = False, **kwargs: Any) -> UniForm:
    """UniForm-t, the public code's m0."""
    size = {"embed_dim": (64, 128, 192), "depth": (1, 2, 2), "num_heads": (4, 4, 4)}
    return _create("uniform_t", pretrained, size, **kwargs)


def uniform_s(pretrained: bool = False, **kwargs: Any) -> UniForm:
    """UniForm-s, the public code's m1."""
    size = {"embed_dim": (128, 144, 192), "depth": (1, 2, 2), "num_heads": (4, 4, 4)}
    return _create("uniform_s", pretrained, size, **kwargs)


def uniform_m(pretrained: bool = False, **kwargs: Any) -> UniForm:
    """UniForm-m, the public code's m3."""
    size = {"embed_dim": (128, 240, 320), "depth": (1, 2, 3), "num_heads": (4, 3, 4)}
    return _create("uniform_m", pretrained, size, **kwargs)


def uniform_l(pretrained: bool = False, **kwargs: Any) -> UniForm:
    """UniForm-l, the public code's m5."""
    size = {"embed_dim": (192, 288, 384), "depth": (1, 2, 3), "num_heads": (3, 3, 4)}
    return _create("uniform_l", pretrained, size, **kwargs)


for _entry in (uniform_t, uniform_s, uniform_m, uniform_l):
    register_model(_entry)
