"""Small variants to export, one of every kind that a file has to hold."""

from __future__ import annotations

from typing import Any

import torch
from tiny_models import KINDS, randomised
from torch import Tensor

from trex.exporters.variant import Variant
from trex.models.registry import create
from trex.models.weights import weights_hash
from trex.reuse import apply_plan
from trex.training.transforms import DataConfig

NAME, ARGUMENTS = "test_vit", {"num_classes": 5, "img_size": 32}
#: outputs and maps reused, tokens merged, the last encoder's class row alone
JOINT = "2<-1:output/block 3<-0:map/linear 4~1 5=class"
#: shared rows, mixed and average maps, class rows of their own
ROWS = "3<-2:map/mixed 4:map/average 0=3 1=@0 3=class 5=class"


def variant(plan: str = JOINT, *, fitted: bool = True, **more: Any) -> Variant:
    """Of `test_vit`; `fitted`: its weights are not those `apply_plan` makes of the original."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = randomised(create(NAME, **ARGUMENTS))
        base = weights_hash(model)
        apply_plan(model, plan)
        model = randomised(model) if fitted else model
    return Variant(
        name=NAME,
        arguments=ARGUMENTS,
        model=model,
        data_config=DataConfig.of_model(model, mean=(0.1, 0.2, 0.3)),
        base_weights_sha256=base,
        **more,
    )


def variant_of_kind(kind: str, plan: str) -> Variant:
    """Of a kind of model out of `tiny_models`, which no name alone builds."""
    of = KINDS[kind]
    model = of.build()
    base = weights_hash(model)
    apply_plan(model, plan)
    side = of.side
    config = DataConfig(
        input_size=(3, side, side),
        mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic", crop_pct=0.9,
        crop_mode="center",
    )  # fmt: skip
    return Variant(
        name=of.name, arguments={}, model=model, data_config=config, base_weights_sha256=base
    )


def images(count: int = 4) -> Tensor:
    """Noise of `test_vit`'s size."""
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))
