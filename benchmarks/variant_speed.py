"""How much of the speed-up that a plan's operations predict a CPU delivers. Prints a table.

    python benchmarks/variant_speed.py [--images 1 8] [--rounds 15] [--model NAME --plan PLAN]

timm's own model and the variant run in turns in one process, one thread, float32. Predicted is the
ratio of all multiply-accumulates, stem and head included. Weights and images are random: neither
changes the work.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import copy

import torch
from paired import compare, machine

from trex.hardware import workload
from trex.models.registry import architecture_of, create
from trex.plan import Plan
from trex.reuse import apply_plan
from trex.training.transforms import DataConfig

_UNIFORM = " ".join(f"{i}~{{0}}" for i in range(12))
#: merging and class rows; the paper's models with as many consumers as some of its variants have
CASES = {
    "deit_tiny_patch16_224": (
        "3~40 6~40 9~40 11=class",
        "3~56 7~56 11=class",
        _UNIFORM.format(11),
        _UNIFORM.format(16),
        "11=class",
        "1<-0 4<-3 5<-3 8<-7 11<-10",
        "1<-0 4<-3 5<-3 8<-7 11<-10 2~40 6~40 11=class",
    ),
    "deit_small_patch16_224": ("1<-0 3<-2 5<-4 7<-6 9<-8",),
    "lvvit_s": ("1<-0 3<-2 5<-4 7<-6 9<-8 11<-10",),
}


@torch.no_grad()
def main() -> None:
    """Measure every plan."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--images", type=int, nargs="+", default=[1, 8], help="in a forward")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--model", default=None, metavar="NAME", help="else those of the docs")
    parser.add_argument("--plan", action="append", metavar="PLAN", help="else those of the docs")
    args = parser.parse_args()
    if args.plan and not args.model:
        parser.error("--plan needs --model")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{machine()}; CPU ms an image, median of {args.rounds} ratios")
    print(f"{'images':>6} {'original':>9} {'variant':>8} {'predicted':>10} {'measured':>9} "
          f"{'quartiles':>13} {'reached':>8}  model, plan")  # fmt: skip
    for name in [args.model] if args.model else CASES:
        for plan in args.plan or CASES[name]:
            measure(name, Plan.parse(plan), args.images, args.rounds)


def measure(name: str, plan: Plan, images: list[int], rounds: int) -> None:
    """Print a plan's rows."""
    original = create(name)
    found = architecture_of(original, name)
    variant = apply_plan(copy.deepcopy(original), plan)
    predicted = found.macs / workload(found, plan).macs
    for count in images:
        pixels = torch.randn(count, *DataConfig.of_model(original).input_size)
        # seconds of the original by the variant's: how many times faster it is
        run = compare(variant, original, pixels, rounds)
        each = 1e3 / count
        print(
            f"{count:>6} {run.second_s * each:9.1f} {run.first_s * each:8.1f} {predicted:9.3f}x "
            f"{run.ratio:8.3f}x {run.low:.3f}-{run.high:.3f} {100 * run.ratio / predicted:7.0f}%  "
            f"{name}, {plan}",
            flush=True,
        )


if __name__ == "__main__":
    main()
