"""How fast fine-tuning is, images a second. Prints a table; nothing is kept.

    python benchmarks/train_speed.py --data IMAGES [--model deit_tiny_patch16_224] [--workers 2]

(a) `trex finetune`'s loop beside a bare loop of timm's and torch's pieces: the same views, model,
loss and optimiser; (b) the same with the teacher's answers from a cache; (c) each in bf16, where
TReX does not fuse attention on a CPU and the bare loop does.
The ways take turns, round after round, so that whatever slows the machine down slows all; the
table holds medians. Views are decoded and augmented in every way, from --data or, without it,
from random pictures.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from trex.models.registry import adapter_of, create
from trex.reuse import apply_reuse
from trex.training.data import ImageSet, open_dataset
from trex.training.finetune.loop import Trainer
from trex.training.finetune.network import Observed
from trex.training.finetune.order import Order, load_steps
from trex.training.finetune.processes import Processes
from trex.training.finetune.recipe import Recipe
from trex.training.finetune.task import Task
from trex.training.finetune.teacher import CachedTeacher, LiveTeacher
from trex.training.finetune.views import ViewSource, augmentation
from trex.training.transforms import DataConfig, eval_transform

PLAN = "3<-2 5<-4 7<-6 9<-8 11<-10"


@dataclass(frozen=True)
class Setting:
    """What all ways have in common."""

    original: nn.Module
    variant: nn.Module
    source: ViewSource
    batch: int
    steps: int
    workers: int
    processes: Processes

    def recipe(self, precision: str, teacher: str) -> Recipe:
        """Distillation by the logits alone, with the rest at its defaults."""
        fields = {
            "description": "benchmark",
            "epochs": 1,
            "batch_size": self.batch,
            "micro_batch": self.batch,
            "precision": precision,
            "optimizer": {"lr": 3e-5, "lr_new": 9e-5},
            "losses": {"kl": 1.0},
            "teacher": {"mode": teacher, "views": 1},
        }
        return Recipe.model_validate_json(json.dumps(fields))

    @property
    def order(self) -> Order:
        """One epoch of the chosen images."""
        return Order(
            n_images=len(self.source.images), batch_size=self.batch, epochs=1, seed=0, views=1
        )


def trex_loop(setting: Setting, precision: str, teacher: str, cache: CachedTeacher) -> float:
    """Images a second of TReX's loop, its checkpoint at the end left out; and how it waited."""
    live = LiveTeacher(Observed(setting.original, adapter_of(setting.original)))
    with tempfile.TemporaryDirectory() as folder:
        task = Task(
            variant=deepcopy(setting.variant),
            adapter=adapter_of(setting.original),
            recipe=setting.recipe(precision, teacher),
            source=setting.source,
            order=setting.order,
            teacher=cache if teacher == "cached" else live,
            held_out=None,
            fitted_on_held_out=False,
            folder=Path(folder),
            processes=setting.processes,
            workers=setting.workers,
        )
        outcome = Trainer(task).run()
    WAITS.append(outcome.waited_s / outcome.seconds)
    return outcome.images / outcome.seconds


WAITS: list[float] = []


def bare_loop(setting: Setting, precision: str) -> float:
    """Images a second of the shortest loop that trains the same on the same views."""
    device = setting.processes.device
    model, original = deepcopy(setting.variant).to(device).train(), setting.original
    optimizer = timm.optim.create_optimizer_v2(model, "adamw", lr=3e-5, weight_decay=0.0)
    steps = load_steps(
        setting.source, setting.order, first=0, micro_batch=setting.batch,
        workers=setting.workers, processes=setting.processes,
    )  # fmt: skip
    start = time.perf_counter()
    for (views,) in steps:
        images = views.images.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            with torch.no_grad():
                taught = original(images)
            logits = model(images)
        log_q, log_p = logits.float().log_softmax(-1), taught.float().log_softmax(-1)
        F.kl_div(log_q, log_p, reduction="batchmean", log_target=True).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return setting.order.steps * setting.batch / (time.perf_counter() - start)


def pictures(folder: Path, count: int) -> Path:
    """Random pictures of ImageNet's usual size."""
    random = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg")
    return folder


def prepare(args: argparse.Namespace, folder: Path) -> Setting:
    """Models with random weights: speed does not depend on them."""
    device = torch.device(args.device)
    original = create(args.model).to(device)
    config = DataConfig.of_model(original)
    recipe_images = args.batch * args.steps
    root = args.data or str(pictures(folder, recipe_images))
    images: ImageSet = open_dataset(root, transform=eval_transform(config), labels=False)
    setting = Setting(
        original=original,
        variant=apply_reuse(deepcopy(original), PLAN),
        source=ViewSource(images=images.subset(recipe_images, 0), augment=None, seed=0),
        batch=args.batch,
        steps=args.steps,
        workers=args.workers,
        processes=Processes(rank=0, world=1, device=device),
    )
    augment = augmentation(config, setting.recipe("fp32", "live").augment)
    source = ViewSource(images=setting.source.images, augment=augment, seed=0)
    return Setting(**{**vars(setting), "source": source})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="images; else random pictures")
    parser.add_argument("--model", default="deit_tiny_patch16_224")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        setting = prepare(args, Path(name))
        cache = CachedTeacher(
            Path(name), {}, n_images=setting.order.n_images, views=1, with_tokens=False
        )
        observed = Observed(setting.original, adapter_of(setting.original)).eval()
        cache.fill(observed, setting.source, setting.processes.device, lambda images: None)
        cache.open()
        ways: dict[tuple[str, str], Callable[[], float]] = {}
        for precision in args.precision:
            ways["bare loop, live teacher", precision] = lambda p=precision: bare_loop(setting, p)
            for teacher in ("live", "cached"):
                ways[f"trex, {teacher} teacher", precision] = lambda p=precision, t=teacher: (
                    trex_loop(setting, p, t, cache)
                )
        speeds: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
        for number in range(args.rounds):
            order = list(ways) if number % 2 == 0 else list(reversed(ways))
            for way in order:
                speeds[way].append(ways[way]())
    print(
        f"{args.model}, {PLAN}: batches of {args.batch}, {args.steps} steps, "
        f"{args.rounds} rounds, {args.device}, {torch.get_num_threads()} thread(s), "
        f"{args.workers} workers; torch {torch.__version__}, timm {timm.__version__}, "
        f"{platform.machine()}"
    )
    print(f"{'':<28}{'precision':>10}{'images/s':>10}{'of bare':>9}{'of live':>9}")
    for (way, precision), values in speeds.items():
        bare = ratio(values, speeds["bare loop, live teacher", precision])
        live = ratio(values, speeds["trex, live teacher", precision])
        median = statistics.median(values)
        print(f"{way:<28}{precision:>10}{median:>10.2f}{bare:>9.2f}{live:>9.2f}")
    print(f"share of the time trex waited for images: {statistics.median(WAITS):.1%}")


def ratio(values: list[float], others: list[float]) -> float:
    """The median of the rounds' ratios: neighbours in time were slowed down alike."""
    return statistics.median(a / b for a, b in zip(values, others, strict=True))


if __name__ == "__main__":
    main()
