"""UniForm from training to a deployed variant, on a small real data set. Prints a table.

    python benchmarks/uniform_small.py --train cifar10_train.tar --test cifar10_test.tar --out DIR

Trains a UniForm, searches reuse plans of maps and outputs within its stages, fine-tunes the
winner, exports it as a reuse config and rebuilds it in a fresh process, whose logits must be the
same. Only training happens here, the rest is `trex search`, `finetune` and `export`. What lies in
the folder already is not done again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import functional as pictures
from tqdm import tqdm

import trex
from trex import cli
from trex.models.registry import create
from trex.training.data import ImageSet, batches, open_dataset
from trex.training.transforms import DataConfig, eval_transform

BATCH = 128
PEAK_LR = 2e-3
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.1
#: the part of a picture's side that a view is moved by at most
SHIFT = 1 / 8
#: images that a rebuilt variant is compared on, and how far logits may differ
COMPARED, TOLERANCE = 256, 1e-5
COSTS = ("latency_s", "energy_j", "area_m2", "edap_mj_ms_mm2")
#: builds the variant from its config alone and stores its logits
REBUILD = """
import sys, torch
from safetensors.torch import load_file, save_file
from trex.models.uniform import from_config
model = from_config(sys.argv[1])
with torch.no_grad():
    save_file({"logits": model(load_file(sys.argv[2])["images"])}, sys.argv[3])
"""


def main(arguments: list[str] | None = None) -> None:
    """Do everything and print the table."""
    args = parser().parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    flags, weights = model_flags(args), args.out / "weights.safetensors"
    if not weights.exists():
        train(args, weights)
    calib = args.out / "calib"
    if not calib.exists():
        write_calibration(args, calib)
    run, tuned, exported = (args.out / name for name in ("run", "tuned", "exported"))
    report = trex_command(
        "search", *flags, "--weights", str(weights), "--hw", args.hw, "--accounting", "full",
        "--space", args.space, "--max-latency", args.max_latency, "--calib", str(calib),
        "--eval", str(args.test), "--seed", str(args.seed), "--out", str(run),
        "--evaluations", str(args.evaluations),
    )  # fmt: skip
    if not exported.exists():
        trex_command("export", str(run), "--format", "uniform", "--out", str(exported))
    difference, compared = rebuild(args, run / "best", exported)
    tuning = trex_command(
        "finetune", str(run), "--data", str(calib), "--eval", str(args.test),
        "--recipe", args.recipe, "--seed", str(args.seed), "--out", str(tuned),
    )  # fmt: skip
    training = json.loads((args.out / "training.json").read_text())
    print("\n".join(table(args, training, report, tuning)))
    print(f"rebuilt in a fresh process: logits of {compared} images differ by {difference:.1e}")
    if difference > TOLERANCE:
        sys.exit(f"the rebuilt variant's logits differ by {difference:.1e}")


def table(
    args: argparse.Namespace,
    training: dict[str, Any],
    report: dict[str, Any],
    tuning: dict[str, Any],
) -> list[str]:
    """What was measured, a row for each model that runs."""
    best, baseline = report["best"], report["baseline"]
    found, tuned = best["evaluation"], tuning["records"][-1]["evaluation"]
    gains = [f"{best['estimate'][name] / baseline[name]:.3f}x" for name in COSTS]
    counts = report["candidates"]
    rows = [
        ("original", found["baseline_top1"], "", ["1x"] * len(COSTS)),
        ("fitted", found["top1"], interval(found), gains),
        ("fine-tuned", tuned["top1"], interval(tuned), gains),
    ]
    lines = [
        f"{'':<12}{'top-1 %':>8}  {'points, 95 % interval':<24}{'latency, energy, area, EDAP'}"
    ]
    lines += [f"{n:<12}{100 * t:>8.2f}  {p:<24}{'  '.join(c)}" for n, t, p, c in rows]
    return [
        f"{report['model']}, {args.img_size} pixels, {report['chip']}, "
        f"{report['accounting']} accounting, seed {args.seed}",
        f"plan {best['plan']} ({best['transform']}): {counts['feasible']} of {counts['space']} "
        f"plans within {report['budget']}, {counts['evaluated']} fitted",
        f"CPU seconds: {training['cpu_s']:.0f} training on {training['images']} images, "
        f"{report['cpu_s']:.0f} search, {tuning['cpu_s']:.0f} fine-tuning; the last two "
        f"with a measurement on {found['n']} images",
        *lines,
    ]


def interval(evaluation: dict[str, Any]) -> str:
    """Points won or lost against the original, with the interval."""
    low, high = evaluation["ci95"]
    return f"{100 * evaluation['difference']:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"


def parser() -> argparse.ArgumentParser:
    """The script's flags."""
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    flags.add_argument("--train", type=Path, required=True, help="labelled images")
    flags.add_argument("--test", type=Path, required=True, help="others, to measure on")
    flags.add_argument("--out", type=Path, required=True)
    flags.add_argument("--model", default="uniform_m")
    flags.add_argument("--img-size", type=int, default=80)
    flags.add_argument("--epochs", type=int, default=8)
    flags.add_argument("--mirror", action=argparse.BooleanOptionalAction, default=True)
    flags.add_argument("--calib-images", type=int, default=1000)
    flags.add_argument("--hw", default="trex_fefet_32nm")
    flags.add_argument("--space", default="default")
    flags.add_argument("--max-latency", default="0.9x")
    flags.add_argument("--evaluations", type=int, default=32)
    flags.add_argument("--recipe", default="few_steps")
    flags.add_argument("--seed", type=int, default=0)
    return flags


def train(args: argparse.Namespace, weights: Path) -> None:
    """Train from random weights: mirrored and moved pictures, AdamW, one cycle."""
    torch.manual_seed(args.seed)
    images_BCHW, labels = read_pictures(args.train)
    model = create(args.model, num_classes=int(labels.max()) + 1, img_size=args.img_size)
    config = DataConfig.of_model(model)
    model.train().to(memory_format=torch.channels_last)  # twice as fast
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.ndim > 1]},
            {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=PEAK_LR,
        weight_decay=WEIGHT_DECAY,
    )
    order = [torch.randperm(len(labels)).split(BATCH) for _ in range(args.epochs)]
    steps = [chosen for epoch in order for chosen in epoch if len(chosen) > 1]
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_LR, total_steps=len(steps), pct_start=0.2
    )
    start, cpu_start = time.perf_counter(), time.process_time()
    for chosen in tqdm(steps, desc="training", unit="step", disable=None):
        logits = model(views(images_BCHW[chosen], config, args.mirror))
        loss = F.cross_entropy(logits, labels[chosen], label_smoothing=LABEL_SMOOTHING)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    seconds = {"wall_s": time.perf_counter() - start, "cpu_s": time.process_time() - cpu_start}
    (args.out / "training.json").write_text(json.dumps({"images": len(labels), **seconds}))
    unfinished = weights.with_suffix(".tmp")
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, unfinished)
    unfinished.rename(weights)


def read_pictures(source: Path) -> tuple[Tensor, Tensor]:
    """All pictures (B, C, H, W) of one size, bytes, with their labels (B,)."""
    images = open_dataset(str(source), transform=pictures.pil_to_tensor)
    read = list(batches(images, batch_size=BATCH))
    return torch.cat([b.images for b in read]), torch.cat([b.labels for b in read])


def views(images_BCHW: Tensor, config: DataConfig, mirror: bool) -> Tensor:
    """Moved (and mirrored) at random, then resized and cut as the model's preprocessing does."""
    height, width = images_BCHW.shape[-2:]
    most = int(SHIFT * height)
    x = images_BCHW / 255.0
    if mirror:
        x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(-1), x)
    x = F.pad(x, (most,) * 4)
    moved = torch.randint(2 * most + 1, (len(x), 2)).tolist()
    x = torch.stack(
        [image[:, y : y + height, x : x + width] for image, (y, x) in zip(x, moved, strict=True)]
    )
    side = config.input_size[1]
    x = F.interpolate(x, size=int(side / config.crop_pct), mode="bicubic", antialias=True)
    x = pictures.normalize(pictures.center_crop(x, [side, side]), config.mean, config.std)
    return x.contiguous(memory_format=torch.channels_last)


def write_calibration(args: argparse.Namespace, folder: Path) -> None:
    """Some of the training pictures as files, in a folder for every class."""
    images = open_dataset(str(args.train), transform=pictures.pil_to_tensor)
    unfinished = folder.with_suffix(".tmp")
    for number, picture in named_pictures(images.subset(args.calib_images, args.seed)):
        path = unfinished / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    unfinished.rename(folder)


def named_pictures(images: ImageSet) -> list[tuple[str, Any]]:
    """Every picture with its class folder and number."""
    return [
        (f"{Path(images.name(i)).parent.name}/{i:05}", images.picture(i))
        for i in range(len(images))
    ]


def model_flags(args: argparse.Namespace) -> list[str]:
    """The trained model's, for TReX's commands."""
    classes = len({label for label in read_labels(args.test)})
    size = ["--num-classes", str(classes), "--img-size", str(args.img_size)]
    return ["--model", args.model, *size]


def read_labels(source: Path) -> tuple[int, ...]:
    """The labels of a data set."""
    return open_dataset(str(source), transform=pictures.pil_to_tensor).labels or ()


def trex_command(*arguments: str) -> dict[str, Any]:
    """What a command printed with `--json`, and its CPU seconds; progress goes to stderr."""
    printed, start = io.StringIO(), time.process_time()
    with contextlib.redirect_stdout(printed):
        code = cli.main([*arguments, "--json"])
    if code:
        sys.exit(code)
    report: dict[str, Any] = json.loads(printed.getvalue())
    return {**report, "cpu_s": time.process_time() - start}


def rebuild(args: argparse.Namespace, bundle: Path, exported: Path) -> tuple[float, int]:
    """How far logits of the found variant and of the rebuilt one differ, on how many images."""
    variant = trex.load(bundle)
    config = DataConfig.of_model(variant)
    images = open_dataset(str(args.test), transform=eval_transform(config))
    some = images.subset(min(COMPARED, len(images)), args.seed)
    (batch,) = batches(some, batch_size=len(some))
    inputs, outputs = (args.out / f"{name}.safetensors" for name in ("images", "logits"))
    save_file({"images": batch.images}, inputs)
    script = [sys.executable, "-c", REBUILD, str(exported), str(inputs), str(outputs)]
    subprocess.run(script, check=True)
    with torch.no_grad():
        expected = variant(batch.images)
    return float((load_file(outputs)["logits"] - expected).abs().max()), len(expected)


if __name__ == "__main__":
    main()
