"""What each axis alone is predicted to come to, at several limits, from one run's probes.

    python benchmarks/axes_alone.py RUN [--hw CHIP] [--minimize latency] --limits 0.64x 0.55x

For the joint space and each part of it: the plan of least predicted loss within the limit, its
predicted loss and the bound. `benchmarks/joint_plans.py --plan ...` measures those that reuse
nothing, `trex fit` the others.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from probed import Probed

from trex.errors import InfeasibleError
from trex.search.budget import Budget
from trex.search.predict import Losses
from trex.search.solve import Solver
from trex.search.space import SearchSpace


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--hw", default="trex_fefet_32nm")
    parser.add_argument("--minimize", default="latency")
    parser.add_argument("--limits", nargs="+", default=["0.64x"])
    args = parser.parse_args()
    probed = Probed.of(args.run, args.hw)
    space, losses, priced = probed.space, probed.losses, probed.priced
    no_reuse = {"may_reuse": (False,) * space.num_encoders}
    parts = {
        "joint": space,
        "no token removed": replace(space, pairs=()),
        "merging": replace(space, shares=(), **no_reuse),
        "rows": replace(space, pairs=(), **no_reuse),
        "reuse": replace(space, pairs=(), shares=()),
    }
    print("| limit | axes | predicted loss | bound | plan |")
    print("|---|---|---|---|---|")
    for axes, part in parts.items():
        solver = Solver(replace(priced, space=part), _of(losses, part))
        for limit in args.limits:
            try:
                best = solver.solve(Budget.parse({args.minimize: limit}))
            except InfeasibleError:
                print(f"| {limit} | {axes} | nothing fits | | |", flush=True)
                continue
            print(
                f"| {limit} | {axes} | {best.losses[0]:.4f} | {best.bounds[0]:.4f} "
                f"| `{part.plan(best.rows[0])}` |",
                flush=True,
            )


def _of(losses: Losses, part: SearchSpace) -> Losses:
    """The same losses for a part of the space, whose choices have other numbers."""
    whole = losses.space
    choice = [
        [losses.choice[e, whole.choices[e].index(one)] for one in of]
        for e, of in enumerate(part.choices)
    ]
    table = losses.choice[:, : part.width] * 0.0
    for e, values in enumerate(choice):
        table[e, : len(values)] = values
    return replace(losses, space=part, choice=table)


if __name__ == "__main__":
    main()
