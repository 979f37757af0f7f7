"""The demo's vision transformer: DeiT's shape on a small scale.

Importing this module registers `vit_digits_patch4_24` with timm.
"""

from __future__ import annotations

from typing import Any, Final

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer

__all__ = ["DIGITS_MODEL", "IMAGE_SIZE", "vit_digits_patch4_24"]

DIGITS_MODEL: Final = "vit_digits_patch4_24"

#: Side of the model's images, in pixels.
IMAGE_SIZE: Final = 24

default_cfgs = generate_default_cfgs(
    {
        DIGITS_MODEL: {
            "num_classes": 10,
            "input_size": (3, IMAGE_SIZE, IMAGE_SIZE),
            "fixed_input_size": True,
            "crop_pct": 1.0,
            "interpolation": "bicubic",
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        }
    }
)


def vit_digits_patch4_24(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """12 encoders 48 wide with 3 heads, 36 patches and a class token; 10 classes."""
    shape = {
        "img_size": IMAGE_SIZE,
        "patch_size": 4,
        "embed_dim": 48,
        "depth": 12,
        "num_heads": 3,
        "mlp_ratio": 2.0,
        "num_classes": 10,
    }
    model: VisionTransformer = build_model_with_cfg(
        VisionTransformer, DIGITS_MODEL, pretrained, **{**shape, **kwargs}
    )
    return model


register_model(vit_digits_patch4_24)
