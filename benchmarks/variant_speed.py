"""How much of the speed-up that a plan's operations predict a CPU delivers. Prints a table.

    python benchmarks/variant_speed.py [--images 1 8] [--rounds 15] [--tensor output map]

The original and the variant run in turns in one process. Predicted is the ratio of all
multiply-accumulates, stem and head included. Weights and images are random: neither changes the
work.
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
from trex.plan import REUSED_TENSORS, ReusePlan
from trex.reuse import apply_reuse
from trex.training.transforms import DataConfig

#: the paper's models, with as many consumers as some of its variants have
CASES = {
    "deit_small_patch16_224": (1, 3, 5, 7, 9),
    "lvvit_s": (1, 3, 5, 7, 9, 11),
}


@torch.no_grad()
def main() -> None:
    """Measure both models."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--images", type=int, nargs="+", default=[1, 8], help="in a forward")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tensor", nargs="+", choices=REUSED_TENSORS, default=["output"])
    parser.add_argument("--models", nargs="+", choices=CASES, default=list(CASES), metavar="NAME")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{machine()}; CPU ms an image, median of {args.rounds} ratios")
    print(f"{'':24}{'tensor':<8}{'images':>6} {'original':>9} {'variant':>8} {'predicted':>10} "
          f"{'measured':>9} {'quartiles':>13} {'reached':>8}")  # fmt: skip
    for name in args.models:
        consumers, original = CASES[name], create(name)
        found = architecture_of(original, name)
        size = DataConfig.of_model(original).input_size
        for tensor in args.tensor:
            plan = ReusePlan.nearest(consumers, tensor)
            variant = apply_reuse(copy.deepcopy(original), plan, "linear")
            predicted = found.macs / workload(found, plan, "linear").macs
            for count in args.images:
                images = torch.randn(count, *size)
                # seconds of the original by the variant's: how many times faster it is
                run = compare(variant, original, images, args.rounds)
                each = 1e3 / count
                print(
                    f"{name:<24}{tensor:<8}{count:>6} {run.second_s * each:9.1f} "
                    f"{run.first_s * each:8.1f} {predicted:9.3f}x {run.ratio:8.3f}x "
                    f"{run.low:.3f}-{run.high:.3f} {100 * run.ratio / predicted:7.0f}%",
                    flush=True,
                )


if __name__ == "__main__":
    main()
