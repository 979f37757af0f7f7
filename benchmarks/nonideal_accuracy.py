"""How well the fast non-ideal mode stands for the exact one, on real weights and images.

    python benchmarks/nonideal_accuracy.py layers --hw CHIP --out DIR DATA
    python benchmarks/nonideal_accuracy.py top1 --hw CHIP --out DIR --modes exact fast DATA

where DATA is `--weights FILE --calib IMAGES --data IMAGES --class-map FILE`. `layers` gives every
layer the same ideal inputs in both modes and compares the power of what comes out against the
ideal output. `top1` runs whole models and compares answers image by image. Both keep what they
measured under --out, batch by batch, and go on from there; --minutes stops them in time.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import json
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trex.hardware import load_chip
from trex.models.registry import load
from trex.noise import (
    ENCODINGS,
    MODES,
    NoiseSettings,
    make_non_ideal,
    non_ideal_layers,
    remove_non_ideal,
    set_noise,
)
from trex.noise.linear import NonIdealLinear
from trex.training.data import ImageSet, batches, open_dataset
from trex.training.measure import RANGE_IMAGES
from trex.training.transforms import DataConfig, eval_transform

BATCH = 8
LIMIT = 0.10


def main() -> None:
    """Measure what is not there yet, then print the table of what is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=("layers", "top1"))
    parser.add_argument("--hw", required=True, metavar="CHIP")
    parser.add_argument("--model", default="deit_tiny_patch16_224")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--calib", required=True, metavar="IMAGES", help="set the ranges")
    parser.add_argument("--data", required=True, metavar="IMAGES", help="to measure on")
    parser.add_argument("--class-map", type=Path)
    parser.add_argument("--images", type=int, help="of them; else all (layers: 16)")
    parser.add_argument("--modes", nargs="+", default=MODES, choices=MODES)
    parser.add_argument("--draws", type=int, default=1, help="chip instances")
    parser.add_argument("--encoding", choices=ENCODINGS, help="else the chip's own")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder = args.out / args.hw / (args.encoding or "usual")
    folder.mkdir(parents=True, exist_ok=True)
    loaded = load(args.model, weights=args.weights)
    config = DataConfig.of_model(loaded.model)
    images = open_dataset(args.data, transform=eval_transform(config), class_map=args.class_map)
    images = shuffled(images, args.images or (16 if args.what == "layers" else len(images)))
    ranges = open_dataset(args.calib, transform=eval_transform(config), labels=False)
    shown = ranges.subset(min(RANGE_IMAGES, len(ranges)), 0)
    prepared = [batch.images for batch in batches(shown, 50)]
    deadline = time.monotonic() + 60 * args.minutes

    def on_chip() -> nn.Module:
        settings = NoiseSettings(encoding=args.encoding)
        return make_non_ideal(loaded.model, load_chip(args.hw), prepared, settings=settings)

    with torch.no_grad():
        if args.what == "layers":
            measure_layers(on_chip(), images, args.draws, folder, deadline)
            print_layers(args.hw, folder)
        else:
            measure_answers(loaded.model, on_chip, images, args, folder, deadline)
            print_answers(args.hw, images, folder)


def shuffled(images: ImageSet, n: int) -> ImageSet:
    """The first `n` in a random order that is always the same, so that any start is a sample."""
    order = np.random.default_rng(0).permutation(len(images))[:n]
    labels = None if images.labels is None else tuple(images.labels[i] for i in order)
    return replace(images, positions=tuple(images.positions[i] for i in order), labels=labels)


def of_batches(images: ImageSet, folder: Path, name: str, deadline: float) -> Iterator[Any]:
    """Batches whose file is not there yet, with the file's path."""
    for number, batch in enumerate(batches(images, BATCH)):
        path = folder / f"{name}-{number:04}.npz"
        if path.exists():
            continue
        if time.monotonic() > deadline:
            print(f"stopped in time before {path.name}", file=sys.stderr)
            return
        yield number, batch, path


def save(path: Path, **arrays: np.ndarray) -> None:
    """All of it or nothing."""
    part = path.with_suffix(".part.npz")
    np.savez(part, **arrays)
    part.replace(path)


def measure_layers(
    model: nn.Module, images: ImageSet, draws: int, folder: Path, deadline: float
) -> None:
    """Squared error of every layer's output on ideal inputs, for each image, mode and draw."""
    layers = non_ideal_layers(model)
    power: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def hook(layer: nn.Module, operands: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if isinstance(layer, NonIdealLinear):
                ideal = F.linear(operands[0], layer.weight, layer.bias)
            else:
                ideal = operands[0] @ operands[1]
            power[name] = (output - ideal).double().square().flatten(1).mean(1)
            return ideal  # the next layer's inputs stay ideal

        return hook

    for name, layer in layers.items():
        layer.register_forward_hook(watch(name))
    for draw in range(draws):
        for mode in MODES:
            name = f"layers-{mode}-{draw}"
            for number, batch, path in of_batches(images, folder, name, deadline):
                reseed(model, mode, draw, number)
                model(batch.images)
                save(path, **{name: value.numpy() for name, value in power.items()})


def reseed(model: nn.Module, mode: Any, draw: int, number: int) -> None:
    """Noise that depends on draw and batch alone, so that runs can go on where they stopped."""
    set_noise(model, seed=draw, mode=mode)
    next(iter(non_ideal_layers(model).values())).instance.noise.reseed(draw, number)


def print_layers(chip: str, folder: Path) -> None:
    """The ratio of powers of every kind of layer, and the layers beyond the limit."""
    heads = {mode: layer_powers(folder, mode) for mode in MODES}
    powers = {mode: {**with_heads_together(heads[mode]), **heads[mode]} for mode in MODES}
    draws, images = next(iter(powers["exact"].values())).shape
    ratios, errors = {}, {}
    for name in powers["exact"]:
        exact, fast = (powers[mode][name].mean(0) for mode in ("exact", "fast"))
        ratios[name] = fast.mean() / exact.mean()
        # leave one image out: images differ most, and both modes see the same
        left = (fast.sum() - fast) / (exact.sum() - exact)
        errors[name] = np.sqrt((len(left) - 1) * left.var())
    kinds: dict[str, list[str]] = {}
    for name in ratios:
        kinds.setdefault(kind_of(name), []).append(name)
    print(f"{chip}: power of outputs' errors on ideal inputs, fast / exact; ", end="")
    print(f"{images} images, {draws} draws")
    print(f"{'layers':<11} {'n':>3} {'mean':>7} {'least':>7} {'most':>7} {'standard error':>15}")
    for kind, names in kinds.items():
        of = np.array([ratios[name] for name in names])
        error = max(errors[name] for name in names)
        row = f"{of.mean():7.3f} {of.min():7.3f} {of.max():7.3f} {error:>13.3f}"
        print(f"{kind:<11} {len(of):>3} {row}")
    beyond = [name for name in ratios if abs(ratios[name] - 1) > LIMIT]
    print(f"{len(beyond)} of {len(ratios)} layers differ by more than {LIMIT:.0%}")
    for name in beyond:
        print(f"  {name}: {ratios[name]:.3f} +- {errors[name]:.3f}")


def layer_powers(folder: Path, mode: str) -> dict[str, np.ndarray]:
    """By layer, (draws, images)."""
    draws: dict[str, list[Path]] = {}
    for path in sorted(folder.glob(f"layers-{mode}-*.npz")):
        draws.setdefault(path.stem.split("-")[2], []).append(path)
    parts = [[dict(np.load(path)) for path in paths] for paths in draws.values()]
    return {
        name: np.stack([np.concatenate([part[name] for part in draw]) for draw in parts])
        for name in parts[0][0]
    }


def with_heads_together(powers: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Layers as a model has them: an attention's heads are one."""
    sums: dict[str, np.ndarray] = {}
    for name, power in powers.items():
        whole = re.sub(r"\.\d+$", "", name)
        sums[whole] = sums.get(whole, 0.0) + power
    return sums


def kind_of(name: str) -> str:
    """`blocks.3.attn.products.qk` is a `qk`, and with `.1` behind it one head's."""
    parts = name.split(".")
    return f"{parts[-2]}, a head" if parts[-1].isdigit() else parts[-1]


def measure_answers(
    plain: nn.Module, on_chip: Any, images: ImageSet, args: Any, folder: Path, deadline: float
) -> None:
    """Logits of the plain model and of every draw in every mode."""
    for _, batch, path in of_batches(images, folder, "plain-0", float("inf")):
        save(path, logits=plain(batch.images).numpy(), labels=batch.labels.numpy())
    model = on_chip()
    for draw in range(args.draws):
        for mode in args.modes:
            for number, batch, path in of_batches(images, folder, f"{mode}-{draw}", deadline):
                reseed(model, mode, draw, number)
                save(path, logits=model(batch.images).numpy(), labels=batch.labels.numpy())
    remove_non_ideal(model)


def print_answers(chip: str, images: ImageSet, folder: Path) -> None:
    """Accuracy of every mode, and of both on the images that both have."""
    found: dict[str, dict[str, Tensor]] = {}
    labels = torch.empty(0)
    for path in sorted(folder.glob("*-*.npz")):
        mode, draw, number = path.stem.split("-")[-3:]
        if "layers" in path.stem:
            continue
        data = np.load(path)
        found.setdefault(f"{mode}-{draw}", {})[number] = torch.from_numpy(data["logits"])
        if mode == "plain":
            labels = torch.cat([labels, torch.from_numpy(data["labels"])])
    common = set.intersection(*({*parts} for parts in found.values()))
    numbers = sorted(common)
    kept = torch.cat([labels[int(n) * BATCH : (int(n) + 1) * BATCH] for n in numbers]).long()
    logits = {name: torch.cat([parts[n] for n in numbers]) for name, parts in found.items()}
    plain = logits.pop("plain-0")
    result: dict[str, Any] = {"chip": chip, "n": len(kept), "data": images.origin}
    result["plain_top1"] = (plain.argmax(1) == kept).double().mean().item()
    right: dict[str, Tensor] = {}
    for mode in MODES:
        draws = [of for name, of in logits.items() if name.startswith(mode)]
        if not draws:
            continue
        right[mode] = torch.stack([(of.argmax(1) == kept).double() for of in draws])
        agree = torch.stack([(of.argmax(1) == plain.argmax(1)).double() for of in draws])
        log_p, log_q = plain.log_softmax(1), torch.stack(draws).log_softmax(2)
        kl = (log_p.exp() * (log_p - log_q)).sum(2)
        power = (torch.stack(draws) - plain).square().mean((0, 2))
        result[mode] = {
            "draws": len(draws),
            "top1": right[mode].mean(1).tolist(),
            "mean_top1": right[mode].mean().item(),
            "agreement_with_plain": agree.mean().item(),
            "mean_kl": kl.mean().item(),
            "logits_error_power": power.mean().item(),
        }
    if len(right) == len(MODES):
        of = right["exact"].mean(0) - right["fast"].mean(0)
        error = of.std().item() / len(of) ** 0.5
        result["exact_minus_fast"] = {"top1": of.mean().item(), "standard_error": error}
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
