"""Models that a user has, and images for them."""

from __future__ import annotations

from typing import Any

import torch
from small_runs import CLASSES, MODEL, SIDE
from timm.models.vision_transformer import VisionTransformer
from tiny_models import randomised
from torch import Tensor, nn

from trex.models.registry import create


class MyViT(VisionTransformer):
    """A subclass that adds to its base, and computes what it does."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.notes = "mine"

    def describe(self) -> str:
        """What nobody else has."""
        return self.notes


class Louder(VisionTransformer):
    """A subclass that computes otherwise."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """Twice the logits."""
        return 2 * super().forward(x)


SHAPE: dict[str, Any] = {
    "img_size": SIDE, "patch_size": 8, "embed_dim": 48, "depth": 6, "num_heads": 3,
    "num_classes": len(CLASSES),
}  # fmt: skip


def own_model(kind: type[VisionTransformer] = MyViT) -> nn.Module:
    """A model that no name builds."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return randomised(kind(**SHAPE))


def timm_model() -> nn.Module:
    """One that timm's name builds."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return randomised(create(MODEL, num_classes=len(CLASSES), img_size=SIDE))


def images(number: int = 24, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images of noise and labels, as a model takes them."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(number, 3, SIDE, SIDE, generator=generator)
    return pixels, torch.arange(number) % len(CLASSES)


#: a search of few plans
FEW: dict[str, Any] = {"budget": "0.8x", "space": "default", "evaluations": 3, "refine_rounds": 0}
