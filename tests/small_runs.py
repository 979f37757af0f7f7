"""A small model, synthetic images and the command lines that search or fit on them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_models import randomised

from trex.cli import main
from trex.models.registry import create
from trex.store.record import Later, Record
from trex.store.run import Run

MODEL = "test_vit"
CLASSES = ("ant", "bee", "cat", "dog")
SIDE = 32


@dataclass(frozen=True)
class Inputs:
    """What a user has: weights, calibration images, labelled images."""

    weights: Path
    calib: Path
    labelled: Path

    def model_flags(self) -> list[str]:
        """Which model."""
        size = ["--num-classes", str(len(CLASSES)), "--img-size", str(SIDE)]
        return ["--model", MODEL, "--weights", str(self.weights), *size]

    def search(self, out: Path, *more: str) -> list[str]:
        """A search under a latency of 0.8 of the original's, of few plans."""
        return [
            "search", *self.model_flags(), "--hw", "trex_fefet_32nm", "--max-latency", "0.8x",
            "--space", "default",
            "--calib", str(self.calib), "--out", str(out), "--evaluations", "5",
            "--final-views", "1", *more,
        ]  # fmt: skip

    def fit(self, out: Path, *plans: str, more: tuple[str, ...] = ()) -> list[str]:
        """A fit of plans."""
        given = [flag for plan in plans for flag in ("--plan", plan)]
        return [
            "fit", *self.model_flags(), *given, "--calib", str(self.calib), "--out", str(out),
            "--final-views", "1", *more,
        ]  # fmt: skip


def interrupted_search(flags: list[str], recorded: int, patch: pytest.MonkeyPatch) -> int:
    """A search that is interrupted as it is about to add a record to so many; its exit code."""
    append = Run.append

    def interrupted(run: Run, record: Record | Later) -> None:
        if len(run.records()) == recorded:
            raise KeyboardInterrupt
        append(run, record)

    with patch.context() as patched:
        patched.setattr(Run, "append", interrupted)
        return main(flags)


def write_images(folder: Path, each: int = 4, seed: int = 0) -> Path:
    """`each` images of noise in a folder for every class."""
    rng = np.random.default_rng(seed)
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for number in range(each):
            pixels = rng.integers(0, 256, (40, 44, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def write_inputs(folder: Path) -> Inputs:
    """Weights and images."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = randomised(create(MODEL, num_classes=len(CLASSES), img_size=SIDE))
    save_file(model.state_dict(), folder / "weights.safetensors")
    return Inputs(
        weights=folder / "weights.safetensors",
        calib=write_images(folder / "calib"),
        labelled=write_images(folder / "labelled", each=3, seed=1),
    )


def results(run: Run) -> dict[str, dict[str, Any]]:
    """Every record by its key, but for the time it took."""
    return {record["key"]: _timeless(record) for record in plain_records(run)}


def plain_records(run: Run) -> list[dict[str, Any]]:
    """Records as plain values, what later rungs measured under their names."""
    return [
        {**record.as_json(), **{rung: of.as_json() for rung, of in record.later.items()}}
        for record in run.records()
    ]


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _timeless(of) for name, of in value.items() if name != "seconds"}
    return [_timeless(of) for of in value] if isinstance(value, list | tuple) else value
