"""What TReX adds to a forward in which nothing is reused. Prints a table.

    python benchmarks/adapter_overhead.py [--images 2] [--rounds 40] [--models NAME ...]

For a model of every family, against timm's own forward, in turns in one process: the model with
the empty plan, and the adapter's steps with which reusing models run their producers, here for
every encoder. Weights and images are random: neither changes the work.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import copy
from functools import partial

import torch
from paired import compare, machine
from torch import Tensor, nn

from trex.models.adapter import Adapter
from trex.models.registry import adapter_of, create
from trex.reuse import apply_reuse
from trex.training.transforms import DataConfig

MODELS = (
    "deit_tiny_patch16_224",
    "deit_small_distilled_patch16_224",
    "deit3_small_patch16_224",
    "vit_small_patch16_384",
    "lvvit_t",
    "lvvit_s",
    "uniform_t",
    "uniform_l",
    "shvit_s1",
    "shvit_s4",
)


def in_steps(adapter: Adapter, model: nn.Module, images: Tensor) -> Tensor:
    """Logits by the adapter's steps, every encoder a producer that hands its output on."""
    offers = frozenset({"output"})
    blocks = [block for name in adapter.containers(model) for block in model.get_submodule(name)]
    stream = adapter.stem(model, images)
    for index, block in enumerate(blocks):
        stream = adapter.before(block, stream)
        output, _ = adapter.attend(block, stream, offers)
        stream = adapter.after(block, adapter.join(block, stream, adapter.branch(block, output)))
        stream = adapter.between(model, index, stream)
    return adapter.head(model, stream)


@torch.no_grad()
def main() -> None:
    """Measure every model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--images", type=int, default=2, help="images in a forward")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="NAME")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{machine()}; {args.images} images, CPU ms a forward, median of {args.rounds} ratios")
    print(
        f"{'':33}{'original':>9} {'empty plan':>11} {'quartiles':>13} "
        f"{'steps':>7} {'quartiles':>13}"
    )
    for name in args.models:
        original = create(name)
        variant = apply_reuse(copy.deepcopy(original), "")
        images = torch.randn(args.images, *DataConfig.of_model(original).input_size)
        cells = []
        for other in (variant, partial(in_steps, adapter_of(original), original)):
            found = compare(original, other, images, args.rounds)
            cells.append(f"{found.ratio:.3f} {found.low:7.3f}-{found.high:.3f}")
        print(f"{name:<33}{1e3 * found.first_s:9.1f} {cells[0]:>25} {cells[1]:>21}", flush=True)


if __name__ == "__main__":
    main()
