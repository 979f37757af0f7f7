"""How long the solver takes to find the best plans, and how much of it is proved.

    python benchmarks/solver_speed.py [--encoders 12 16 24] [--spaces joint any] [--count 32]

Encoders have DeiT-Tiny's shape. Predicted losses are random but like measured ones: a consumer's
own loss grows with the distance of its source, merges and shared rows lose more the more they
leave out, near consumers lose more than their parts. Seconds are processor time on one thread,
everything included. `open` is how far below the best plan's loss another plan may still lie, as a
share of it, and in brackets how many of the plans are proved to belong in their place.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from trex.architecture import Architecture, vit_encoder
from trex.hardware import load_chip
from trex.models.registry import create
from trex.plan import Layout
from trex.reuse.sizes import ParameterTable, parameter_table
from trex.search.budget import Budget
from trex.search.feasible import PricedSpace
from trex.search.predict import Losses, measured_pairs
from trex.search.solve import Solver
from trex.search.space import SearchSpace

BUDGETS = (
    {"latency": "0.63x"},
    {"edap": "0.5x"},
    {"energy": "0.85x", "area": "0.9x", "params": "0.92x"},
)
#: own losses of forms, against those of the attention output through a linear transform
TENSORS = {"output": 1.0, "map": 0.55}
TRANSFORMS = {
    "none": 3.0, "linear": 1.0, "block": 1.1, "linear_own": 0.9, "mixed": 0.5, "average": 1.0,
}  # fmt: skip


def main() -> None:
    """Solve and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoders", type=int, nargs="+", default=[12, 16, 24])
    parser.add_argument("--spaces", nargs="+", default=["joint", "any"])
    parser.add_argument("--count", type=int, default=32, help="best plans wanted")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print(
        f"{'space':<8} {'encoders':>8} {'plans':>8}  {'budget':<45} {'seconds':>8} "
        f"{'best':>9} {'open':>7}  proved"
    )
    for name, encoders in itertools.product(args.spaces, args.encoders):
        for budget in BUDGETS:
            priced = priced_space(name, encoders, budget)
            losses = random_losses(priced.space, args.seed)
            start = time.process_time()
            found = Solver(priced, losses).solve(priced.budget, args.count)
            seconds = time.process_time() - start
            left = found.gaps[0] / found.losses[0]
            kept = int((found.gaps <= 1e-6 * found.losses).sum())
            print(
                f"{name:<8} {encoders:>8} {float(priced.space.size):>8.1e}  "
                f"{priced.budget!s:<45} {seconds:>8.1f} {found.losses[0]:>9.4f} "
                f"{left:>7.1%}  {kept} of {len(found.rows)}",
                flush=True,
            )
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"memory: {most / 2**20:.2f} GiB at most, the program and its libraries included")


def priced_space(name: str, encoders: int, budget: dict[str, str]) -> PricedSpace:
    """A shipped space for DeiT-Tiny of so many encoders, on a shipped chip."""
    model = Architecture(
        model=f"deit_tiny of {encoders} encoders",
        body=tuple(
            vit_encoder(i, tokens=197, dim=192, heads=3, mlp_hidden=768) for i in range(encoders)
        ),
        layout=Layout(
            stages=(0,) * encoders, tokens=197, protected=1, class_tokens=1, class_rows=1
        ),
    )
    space = SearchSpace.load(name, model)
    counted = parameter_table(create("deit_tiny_patch16_224", device="meta"), space.forms)
    assert counted.own_class is not None
    parameters = ParameterTable(
        fixed=counted.fixed,
        by_form=np.repeat(counted.by_form[1:2], encoders, axis=0),
        own_class=np.repeat(counted.own_class[1:2], encoders, axis=0),
    )
    chip = load_chip("trex_fefet_32nm")
    return PricedSpace.of(model, chip, "full", space, Budget.parse(budget), parameters)


def random_losses(space: SearchSpace, seed: int) -> Losses:
    """Losses in the ranges measured on DeiT-Tiny (docs/search.md)."""
    rng, encoders = np.random.default_rng(seed), space.num_encoders
    choice = np.zeros((encoders, space.width))
    reference = rng.lognormal(-2, 0.7, encoders) * np.where(np.arange(encoders) < 3, 3, 1)
    for encoder, of in enumerate(space.choices):
        for number, one in enumerate(of):
            if one.form:
                tensor, transform = space.forms[one.form - 1]
                source = encoder - 1 if one.source < 0 else one.source
                far = 1 + 0.4 * (encoder - source - 1)
                form = TENSORS[tensor] * TRANSFORMS[transform]
                choice[encoder, number] = reference[encoder] * far * form * rng.lognormal(0, 0.15)
    pairs = measured_pairs(space)
    shares = max(space.shares, key=len) if space.shares_rows else ()
    added, triples = np.zeros((encoders, encoders)), np.zeros((encoders,) * 3)
    for one, other in itertools.combinations(range(encoders), 2):
        if other - one <= 4 and rng.random() < 0.6:
            added[one, other] = rng.exponential(0.2) / (other - one)
    if not space.joint:  # elsewhere no triples are measured
        for of in itertools.combinations(range(encoders), 3):
            if of[2] - of[0] <= 4 and rng.random() < 0.5:
                triples[of] = rng.exponential(0.1)
    return Losses(
        space=space,
        choice=choice,
        reference=reference,
        merged=np.cumsum(rng.exponential(0.03, (encoders, len(pairs))), axis=1),
        pairs=pairs,
        shared=np.cumsum(rng.exponential(0.01, (encoders, len(shares))), axis=1),
        shares=shares,
        added=added,
        triples=triples,
    )


if __name__ == "__main__":
    main()
