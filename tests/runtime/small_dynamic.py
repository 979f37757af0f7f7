"""A small dynamic bundle: three plans of `test_vit`, with prices made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny_models import randomised
from torch import nn

from trex.models.registry import create
from trex.models.weights import weights_hash
from trex.reuse import apply_plan, consumers_of
from trex.runtime.bundle import Contents, save_dynamic
from trex.runtime.dynamic import Point
from trex.training.transforms import DataConfig

NAME, ARGUMENTS = "test_vit", {"num_classes": 5, "img_size": 32}
#: by name: a plan, and its latency as a share of the original's
PLANS = {
    "cheap": ("2<-1:output/block 3<-1:map/linear 4~1 5=class", 0.4),
    "middle": ("3<-2:map/mixed 4:map/average 0=3 1=@0 3=class 5=class", 0.6),
    "dear": ("4~1 5=class", 0.9),
}
BASELINE = {"latency_s": 8e-3, "energy_j": 4e-3, "area_m2": 1e-6}
ENCODERS = 6


def base() -> nn.Module:
    """The original."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return randomised(create(NAME, **ARGUMENTS))


def variant_with(plan: str) -> nn.Module:
    """A plan whose consumers were fitted, after a manner."""
    model = apply_plan(base(), plan)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for consumer in consumers_of(model).values():
            for tensor in (*consumer.projection.parameters(), *consumer.buffers()):
                tensor.add_(torch.rand_like(tensor) - 0.5, alpha=0.1)
    return model.eval()


def point(name: str) -> Point:
    """A plan with its prices: stem and head take a twentieth of it each."""
    plan, share = PLANS[name]
    parts = {}
    for field in ("latency_s", "energy_j"):
        whole = BASELINE[field] * share
        parts[field] = [whole / 20, *[0.9 * whole / ENCODERS] * ENCODERS, whole / 20]
    estimate: dict[str, Any] = {field: value * share for field, value in BASELINE.items()}
    measured = {"agreement": 0.5 + share / 2}
    return Point(name=name, plan=plan, estimate=estimate, parts=parts, measured=measured)


def variants() -> dict[str, nn.Module]:
    """Separate models, whose own weights are not those `apply_plan` makes of the base."""
    return {name: variant_with(plan) for name, (plan, _) in PLANS.items()}


def contents(of: dict[str, nn.Module] | None = None) -> Contents:
    """What a bundle of them is made of."""
    model = base()
    return Contents(
        name=NAME,
        arguments=ARGUMENTS,
        base=model,
        base_weights_sha256=weights_hash(model),
        data_config=DataConfig.of_model(model, mean=(0.1, 0.2, 0.3)),
        baseline=BASELINE,
        variants=[(point(name), model) for name, model in (of or variants()).items()],
    )


def write_bundle(folder: Path, **more: Any) -> Path:
    """A dynamic bundle."""
    save_dynamic(folder, contents(), **more)
    return folder


def images(count: int = 4, seed: int = 0) -> torch.Tensor:
    """Noise of `test_vit`'s size."""
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
