"""What others report: accuracies of other backbones and of methods after training, token counts.

Accuracies are ImageNet-1k top-1 in percent on the whole validation set, as printed by their
source; none is measured here, and they never stand in a column of measured ones.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Backbone(NamedTuple):
    """A model in timm with the accuracy its source prints for it."""

    model: str
    top1: float
    source: str


class TrainedMethod(NamedTuple):
    """What a method reached after training, at a setting of its own, on a model."""

    #: timm name, to its first dot
    model: str
    method: str
    setting: float
    top1: float
    source: str


_DEIT: Final = "timm's results for the DeiT weights (arXiv 2012.12877)"
_SHVIT: Final = "SHViT (arXiv 2401.16456)"

BACKBONES: Final = (
    Backbone("deit_tiny_patch16_224", 72.2, _DEIT),
    Backbone("deit_small_patch16_224", 79.9, _DEIT),
    Backbone("deit_base_patch16_224", 82.0, _DEIT),
    Backbone("shvit_s1", 72.8, _SHVIT),
    Backbone("shvit_s2", 75.2, _SHVIT),
    Backbone("shvit_s3", 77.4, _SHVIT),
    Backbone("shvit_s4", 79.4, _SHVIT),
    Backbone("efficientvit_m5", 77.1, "EfficientViT-MSRA (arXiv 2305.07027)"),
    Backbone("efficientvit_b1", 79.4, "EfficientViT-MIT (arXiv 2205.14756)"),
    Backbone("fastvit_t8", 76.2, "FastViT (arXiv 2303.14189), distilled"),
)

_EVIT: Final = "EViT (arXiv 2202.07800)"
_TREX: Final = "TReX (arXiv 2408.12742)"

#: The original of the TReX paper's Table V; no other model is compared with it.
_LVVIT_S: Final = Backbone("lvvit_s", 83.3, f"{_TREX}, Table V, no noise")

TRAINED: Final = (
    TrainedMethod("deit_small_patch16_224", "evit", 0.9, 79.8, _EVIT),
    TrainedMethod("deit_small_patch16_224", "evit", 0.8, 79.8, _EVIT),
    TrainedMethod("deit_small_patch16_224", "evit", 0.7, 79.5, _EVIT),
    TrainedMethod("deit_small_patch16_224", "evit", 0.6, 78.9, _EVIT),
    TrainedMethod("deit_small_patch16_224", "evit", 0.5, 78.5, _EVIT),
    TrainedMethod("deit_small_patch16_224", "dynamicvit", 0.7, 79.3, "DynamicViT (2106.02034)"),
    TrainedMethod("deit_small_patch16_224", "tome", 13, 79.4, "ToMe (arXiv 2210.09461)"),
    TrainedMethod("deit_small_patch16_224", "weight_sharing", 2, 78.3, f"MiniViT, by {_TREX}"),
    TrainedMethod("deit_small_patch16_224", "weight_sharing", 3, 60.0, f"MiniViT, by {_TREX}"),
    TrainedMethod("deit_small_patch16_224", "trex_block", 3, 79.3, f"{_TREX}, D-9, no noise"),
    TrainedMethod("deit_small_patch16_224", "trex_block", 5, 78.4, f"{_TREX}, D-7, no noise"),
    TrainedMethod("deit_small_patch16_224", "trex_block", 7, 77.7, f"{_TREX}, D-6, no noise"),
    TrainedMethod("lvvit_s", "trex_block", 4, 82.9, f"{_TREX}, L-12, no noise"),
    TrainedMethod("lvvit_s", "trex_block", 6, 82.6, f"{_TREX}, L-10, no noise"),
    TrainedMethod("lvvit_s", "trex_block", 7, 81.7, f"{_TREX}, L-9, no noise"),
    TrainedMethod("lvvit_s", "trex_block", 9, 80.0, f"{_TREX}, L-8, no noise"),
)

#: DiffRate (arXiv 2305.17997): model, billions of multiply-accumulates, tokens behind each encoder
#: of 197 that enter the first
_DIFFRATE: Final[dict[str, dict[float, tuple[int, ...]]]] = {
    "deit_tiny_patch16_224": {
        0.8: (197, 196, 190, 172, 154, 125, 107, 96, 84, 78, 70, 3),
        0.6: (197, 187, 167, 139, 114, 90, 76, 66, 57, 45, 37, 3),
    },
    "deit_small_patch16_224": {2.9: (197, 194, 176, 156, 141, 133, 121, 107, 88, 64, 56, 3)},
}
DIFFRATE_TOKENS: Final = 197


def base_name(model: str) -> str:
    """A timm name without prefix and tag: `timm/deit_tiny_patch16_224.fb_in1k`."""
    return model.removeprefix("timm/").partition(".")[0]


def published_of(model: str) -> Backbone | None:
    """The accuracy printed for a model's own weights."""
    known = (*BACKBONES, _LVVIT_S)
    return next((b for b in known if b.model == base_name(model)), None)


def trained_of(model: str) -> tuple[TrainedMethod, ...]:
    """What methods reached on a model after training."""
    return tuple(point for point in TRAINED if point.model == base_name(model))


def diffrate_counts(model: str) -> dict[float, tuple[int, ...]]:
    """The token counts DiffRate found for a model, by billions of multiply-accumulates."""
    return _DIFFRATE.get(base_name(model), {})
