"""`trex demo`: the whole job, offline, on small real data."""

from __future__ import annotations

import argparse
import time
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/demo"),
        metavar="DIR",
        help="where images, weights and results go (runs/demo)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the training (0)")


def run(args: argparse.Namespace) -> int:
    """Train a small vision transformer on handwritten digits and measure it."""
    import torch

    # Threads wait for each other at every small operation: on a busy machine, two took 70 times
    # as long as one.
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    images = args.out / "digits"
    _write_images(images)
    weights = args.out / f"vit_digits_seed{args.seed}.safetensors"
    _train(images, weights, args.seed)
    _print_baseline(images, weights)
    return 0


def _write_images(folder: Path) -> None:
    from trex.demo.digits import SPLITS, write_digits

    write_digits(folder)
    parts = ", ".join(f"{count} for {name}" for name, count in SPLITS.items())
    print(f"images    {sum(SPLITS.values())} handwritten digits in {folder}: {parts}")


def _train(images: Path, weights: Path, seed: int) -> None:
    """Train the model, unless an earlier run of the demo did."""
    from safetensors.torch import save

    from trex.demo.digits import train_digits_model
    from trex.demo.model import DIGITS_MODEL
    from trex.files import write_atomic

    if weights.is_file():
        print(f"model     {DIGITS_MODEL} in {weights}, trained earlier")
        return
    print("model     training a vision transformer of 12 encoders, half a minute ...", flush=True)
    start = time.perf_counter()
    model = train_digits_model(images, seed)
    write_atomic(weights, save(model.state_dict()))
    print(f"          {DIGITS_MODEL} in {weights}, {time.perf_counter() - start:.0f} s")


def _print_baseline(images: Path, weights: Path) -> None:
    from trex.demo.model import DIGITS_MODEL
    from trex.models import registry
    from trex.training.data import batches, open_dataset
    from trex.training.evaluate import accuracy, predict
    from trex.training.transforms import DataConfig, eval_transform

    model = registry.load(DIGITS_MODEL, weights=weights).model
    transform = eval_transform(DataConfig.of_model(model))
    test = open_dataset(str(images / "test"), transform=transform)
    answers = predict(model, batches(test, batch_size=100))
    measured = accuracy(answers.logits, answers.labels)
    print(f"original  {measured.top1:.1%} of {measured.n} test digits right")
