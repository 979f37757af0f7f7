"""How much slower a model is on a non-ideal chip than plain, on one core. Prints a table.

    python benchmarks/nonideal_speed.py [--model deit_tiny_patch16_224] [--images 8] [--exact]

Weights and images are random: neither changes the work. Times are of this process's CPU, so that
a busy machine does not count; the two models run in turn, and the median of the ratios stands.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import copy
import platform
import statistics
import time

import torch
from torch import nn

from trex.hardware import load_chip
from trex.models.registry import create
from trex.noise import make_non_ideal, set_noise

CHIPS = ("trex_fefet_32nm", "trex_sram_32nm", "trex_hybrid_32nm")
REPEATS = 7


def cpu_s(model: nn.Module, images: torch.Tensor) -> float:
    """CPU seconds of one forward."""
    start = time.process_time()
    model(images)
    return time.process_time() - start


def compare(plain: nn.Module, other: nn.Module, images: torch.Tensor, repeats: int) -> list[float]:
    """Median seconds of both, and the median ratio of neighbouring runs."""
    pairs = [(cpu_s(plain, images), cpu_s(other, images)) for _ in range(repeats)]
    medians = [statistics.median(of) for of in zip(*pairs, strict=True)]
    return [*medians, statistics.median(b / a for a, b in pairs)]


@torch.no_grad()
def main() -> None:
    """Measure every shipped TReX chip."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="deit_tiny_patch16_224")
    parser.add_argument("--images", type=int, default=8, help="images in a forward")
    parser.add_argument("--exact", action="store_true", help="also bit by bit, once")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    plain = create(args.model)
    size = plain.patch_embed.img_size
    images = torch.randn(args.images, 3, *size)
    print(f"{args.model}, {args.images} images, one thread, torch {torch.__version__}, ", end="")
    print(f"{platform.processor() or platform.machine()}; CPU ms an image")
    print(f"{'chip':<20} {'mode':<6} {'plain':>8} {'on chip':>9} {'ratio':>7}")
    for name in CHIPS:
        model = make_non_ideal(copy.deepcopy(plain), load_chip(name), [images[:2]])
        cpu_s(model, images)
        for mode in ("fast", "exact") if args.exact else ("fast",):
            set_noise(model, mode=mode)
            batch = images if mode == "fast" else images[:1]
            seconds, slower, ratio = compare(plain, model, batch, REPEATS if mode == "fast" else 1)
            each = 1e3 / len(batch)
            print(f"{name:<20} {mode:<6} {seconds * each:8.1f} {slower * each:9.1f} {ratio:7.2f}")


if __name__ == "__main__":
    main()
