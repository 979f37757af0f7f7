"""What large models take: pricing, one fit and a quick search, with time and peak memory.

    python benchmarks/size.py price fit [search] [--models vit_large_patch16_224]
                              [--images 64] [--scratch DIR]

Weights and images are random: sizes do not depend on them, and nothing here tells of accuracy.
Every job runs in a process of its own; the memory is the most that it had at once (`ru_maxrss`),
files that the system keeps in memory while there is room included.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from trex.fit.calibration import Calibration, FitSettings
from trex.fit.fitter import PlanFitter
from trex.hardware import load_chip, price, workload
from trex.models.registry import adapter_of, architecture, create
from trex.plan import Plan
from trex.store.run import Run

MODELS: Final = ("deit_base_patch16_384", "vit_large_patch16_224")
CHIP: Final = "trex_fefet_32nm"
#: consumers, merges and shared rows: every path of a fit
PLAN: Final = "5<-4 7<-6 3~40 9=64 11=@9"
BATCH: Final = 8


def price_model(name: str, images: int, scratch: Path) -> str:
    """Both accountings, the original and a plan."""
    model, chip = architecture(name), load_chip(CHIP)
    plans = (workload(model), workload(model, Plan.parse(PLAN)))
    original, planned = (price(of, chip, "full") for of in plans)
    return f"latency {planned.latency_s / original.latency_s:.3f}x of {original.latency_s:.3g} s"


def fit_plan(name: str, images: int, scratch: Path) -> str:
    """One plan, fitted on three quarters of random images and measured on the others."""
    model = create(name).eval()
    generator = torch.Generator().manual_seed(0)
    size = (BATCH, 3, *model.patch_embed.img_size)
    drawn = (torch.randn(size, generator=generator) for _ in range(images // BATCH))
    fitted = max(1, 3 * images // BATCH // 4)
    with closing(
        Calibration(
            model,
            adapter_of(model),
            (next(drawn) for _ in range(fitted)),
            drawn,
            settings=FitSettings(batch_size=BATCH),
            scratch=scratch,
        )
    ) as calibration:
        (found,) = PlanFitter(calibration).fit([Plan.parse(PLAN)])
    solved = sum(value.numel() for value in found.state.values())
    return f"{calibration.n_images} images, {solved:,} numbers solved for"


def search_model(name: str, images: int, scratch: Path) -> str:
    """`trex search --quick` of a few plans, from the command's beginning to its end."""
    from trex.cli import main

    model = create(name)
    save_file(model.state_dict(), scratch / "weights.safetensors")
    rng = np.random.default_rng(0)
    (scratch / "images").mkdir()
    for number in range(images):
        pixels = rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(scratch / "images" / f"{number}.png")
    run = scratch / "run"
    code = main([
        "search", "--model", name, "--weights", str(scratch / "weights.safetensors"),
        "--hw", CHIP, "--accounting", "full", "--max-latency", "0.8x", "--quick",
        "--evaluations", "3", "--batch-size", str(BATCH), "--calib", str(scratch / "images"),
        "--out", str(run),
    ])  # fmt: skip
    assert code == 0
    told = Run(run).summary()
    assert told is not None
    return f"{told.candidates.evaluated} plans"


JOBS: Final[dict[str, Callable[[str, int, Path], str]]] = {
    "price": price_model,
    "fit": fit_plan,
    "search": search_model,
}


def main() -> None:
    """Do the jobs, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("jobs", nargs="+", choices=tuple(JOBS))
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--scratch", type=Path, help="for activations; else a temporary folder")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
            print(JOBS[args.jobs[0]](args.models[0], args.images, Path(folder)))
        return
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}")
    print(f"{'model':<26}{'job':<8}{'s':>8}{'peak MB':>9}  what")
    for name in args.models:
        for job in args.jobs:
            command = [sys.executable, __file__, job, "--inside", "--models", name]
            command += ["--images", str(args.images)]
            command += ["--scratch", str(args.scratch)] if args.scratch else []
            started = time.perf_counter()
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            assert process.stdout is not None
            told = process.stdout.read().strip().splitlines()
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                raise SystemExit(f"{name}, {job}: failed")
            seconds, peak = time.perf_counter() - started, used.ru_maxrss / 1e3
            print(f"{name:<26}{job:<8}{seconds:>8.1f}{peak:>9.0f}  {told[-1]}")


if __name__ == "__main__":
    main()
