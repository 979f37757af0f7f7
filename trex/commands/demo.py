"""`trex demo`: the whole job, offline, on small real data."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

# As in trex.models.digits, which imports timm.
DIGITS_MODEL = "vit_digits_patch4_24"
BUDGET = "0.63x"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/demo"),
        metavar="DIR",
        help="folder for images, weights and results (runs/demo)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the training (0)")


def run(args: argparse.Namespace) -> int:
    """Train a small vision transformer, then do with it what a user does with a pretrained one."""
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
    found = args.out / f"search_seed{args.seed}"
    bundle = args.out / f"bundle_seed{args.seed}"
    print(
        f"\nThe chip should answer in {BUDGET} of the time. Where is attention reused, where do\n"
        "tokens merge or share rows, and what is best left alone?"
    )
    _command(
        "search", "--model", DIGITS_MODEL, "--weights", str(weights), "--hw", "trex_fefet_32nm",
        "--accounting", "full", "--max-latency", BUDGET, "--calib", str(images / "calib"),
        "--eval", str(images / "test"),
        "--evaluations", "12", "--final-views", "0", "--seed", str(args.seed), "--out", str(found),
    )  # fmt: skip
    if (bundle / "config.json").exists():
        print(f"\n{bundle} is there from an earlier demo")
    else:
        print("\nThe best plan as a folder that runs anywhere TReX is installed:")
        _command("export", str(found), "--out", str(bundle))
    print("\nWhat it costs on the chip, stage by stage (the original at the bottom):")
    _command(
        "cost", "--model", DIGITS_MODEL, "--hw", "trex_fefet_32nm", "--accounting", "full",
        "--plan", _plan(bundle),
    )  # fmt: skip
    return 0


def _command(*words: str) -> None:
    """Show a command as a user would type it, and run it."""
    from trex.cli import build_parser

    print("\n$ trex " + " ".join(f'"{w}"' if " " in w else w for w in words) + "\n", flush=True)
    args = build_parser(words[0]).parse_args(words)
    args.run(args)


def _plan(bundle: Path) -> str:
    from trex.exporters.bundle import load_config

    return str(load_config(bundle)["plan"])


def _write_images(folder: Path) -> None:
    from trex.demo.digits import SPLITS, write_digits

    write_digits(folder)
    parts = ", ".join(f"{count} for {name}" for name, count in SPLITS.items())
    print(f"images    {sum(SPLITS.values())} handwritten digits in {folder}: {parts}")


def _train(images: Path, weights: Path, seed: int) -> None:
    """Train the model, unless an earlier run of the demo did."""
    from safetensors.torch import save

    from trex.demo.digits import train_digits_model
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
