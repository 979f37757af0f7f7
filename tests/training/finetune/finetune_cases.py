"""What the tests of fine-tuning share: a tiny model, a few images, a quick recipe."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from trex.models.digits import DIGITS_MODEL, IMAGE_SIZE
from trex.models.registry import LoadedModel, adapter_of, create
from trex.models.weights import weights_hash
from trex.plan import Plan
from trex.reuse import apply_reuse
from trex.store.record import Estimate
from trex.store.schemas import Stage
from trex.stored import plan_fields
from trex.training.data import ImageSet, open_dataset
from trex.training.finetune import Job, Recipe
from trex.training.transforms import DataConfig, eval_transform

PLAN = "3<-2 4<-2 7<-6"


def write_images(folder: Path, per_class: int = 4) -> Path:
    """Ten class folders of small pictures, every one another."""
    random = np.random.default_rng(0)
    for number in range(10):
        (folder / str(number)).mkdir(parents=True)
        for image in range(per_class):
            pixels = random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
            picture = Image.fromarray(pixels).resize((IMAGE_SIZE, IMAGE_SIZE))
            picture.save(folder / str(number) / f"{image}.png")
    return folder


def original(seed: int = 0) -> LoadedModel:
    """Random weights, larger than fresh ones, so that its answers differ between images."""
    torch.manual_seed(seed)
    model = create(DIGITS_MODEL)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0 if parameter.ndim > 1 else 1.0)
    return LoadedModel(
        name=DIGITS_MODEL,
        arguments={"num_classes": None, "img_size": None},
        model=model,
        adapter=adapter_of(model),
        weights_source="random",
        weights_sha256=weights_hash(model),
        report=None,
    )


def variant_of(loaded: LoadedModel, plan: str = PLAN, transform: str = "linear") -> nn.Module:
    return apply_reuse(deepcopy(loaded.model), plan, transform)


def open_images(folder: Path, loaded: LoadedModel, **options: Any) -> ImageSet:
    config = DataConfig.of_model(loaded.model)
    return open_dataset(str(folder), transform=eval_transform(config), **options)


def recipe(**changes: Any) -> Recipe:
    """Two epochs of five steps of eight images, unless changed."""
    fields: dict[str, Any] = {
        "description": "for tests",
        "epochs": 2,
        "batch_size": 8,
        "optimizer": {"lr": 1e-3, "lr_new": 3e-3},
        "losses": {"kl": 1.0},
        **changes,
    }
    return Recipe.model_validate_json(json.dumps(fields))


def candidate(plan: str) -> Stage:
    """What a search tells of a plan, made up but for the plan."""
    price = Estimate(
        chip="chip", accounting="paper", latency_s=1.0, energy_j=1.0, area_m2=1.0,
        edap_mj_ms_mm2=1.0,
    )  # fmt: skip
    return Stage(stage="fitted", **plan_fields(Plan.parse(plan)), estimate=price)


def job(out: Path, images: ImageSet, loaded: LoadedModel, **changes: Any) -> Job:
    fields: dict[str, Any] = {
        "original": loaded,
        "data_config": DataConfig.of_model(loaded.model),
        "fitted": variant_of(loaded),
        "candidate": candidate(PLAN),
        "images": images,
        "extra": None,
        "evaluation": None,
        "recipe": recipe(),
        "chip": None,
        "seed": 0,
        "workers": 0,
        "fitted_on": "other images",
        "out": out,
        "origin": "a test",
    }
    return Job(**{**fields, **changes})
