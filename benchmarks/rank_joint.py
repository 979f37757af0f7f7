"""How well a search's predicted losses rank random joint plans near several latencies.

    python benchmarks/rank_joint.py RUN --weights FILE --calib IMAGES --store losses.jsonl [--bf16]
        [--latencies 0.65 0.55 0.45] [--plans 64]

RUN holds the probes (`trex search` of the joint space). Plans are drawn from its space uniformly,
without regard to their loss, and kept where their latency is within 0.01 of a level (estimate,
`full`); few of the uniform draws cost much, so plans are also drawn with parts taken out. Each is
fitted and measured on other images than those it was fitted on. Prints Spearman's correlation of
predicted and measured losses, of the shipped prediction and of simpler ones. Losses are kept in
--store; run again, it measures what is missing.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from measured import Measured, add_arguments
from probed import Probed
from rank_correlation import rank_correlation

from trex.search.feasible import PricedSpace
from trex.search.predict import Losses
from trex.search.space import Numbers, SearchSpace

#: plans drawn at a time, and how often before a level is given up
_DRAWN, _ROUNDS = 4096, 60
#: how far from a level a plan's latency may be
_NEAR = 0.01


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    add_arguments(parser)
    parser.add_argument("--fit-images", type=int, default=150)
    parser.add_argument("--select-images", type=int, default=150)
    parser.add_argument("--latencies", type=float, nargs="+", default=[0.65, 0.55, 0.45])
    parser.add_argument("--plans", type=int, default=64, help="at each latency")
    parser.add_argument("--hw", default="trex_fefet_32nm")
    args = parser.parse_args()
    probed = Probed.of(args.run, args.hw)
    space, losses, priced = probed.space, probed.losses, probed.priced
    drawn = {at: draw(priced, at, args.plans) for at in args.latencies}
    for at, rows in drawn.items():
        plans = [space.plan(row) for row in rows]
        print(f"{at:.2f}x: {len(rows)} plans, {sum(bool(p.reuses) for p in plans)} reuse, "
              f"{sum(bool(p.merges) for p in plans)} merge", flush=True)  # fmt: skip
    measured = Measured(args, args.fit_images, args.select_images)
    measured.measure([space.plan(row) for rows in drawn.values() for row in rows])
    print(measured.describe())
    drawn["all"] = np.concatenate([*drawn.values()])  # type: ignore[index]
    print("| prediction |", *(f"{at} |" for at in drawn))
    print("|---|" + "---|" * len(drawn))
    simpler = {
        "own losses, added": replace(
            losses, correlation=(0.0, 0.0, 0.0), added=np.zeros_like(losses.added)
        ),
        "one correlation, 0.2, for all kinds": replace(losses, correlation=(0.2, 0.2, 0.2)),
        "by kind, without pairs of consumers": replace(losses, added=np.zeros_like(losses.added)),
        f"by kind, from the probes {tuple(round(c, 2) for c in losses.correlation)}": losses,
    }
    for name, by in simpler.items():
        cells = [correlation(measured, space, by, rows) for rows in drawn.values()]
        print(f"| {name} |", *(f"{cell} |" for cell in cells))


def draw(priced: PricedSpace, latency: float, count: int) -> Numbers:
    """(plans, encoders): random different plans of about that latency."""
    rng = np.random.default_rng(round(1000 * latency))
    whole = float(priced.baseline.latency_s[0])
    found: dict[bytes, Numbers] = {}
    for _ in range(_ROUNDS):
        rows = priced.space.draw(rng, _DRAWN)
        # some encoders get choice 0, nothing: uniform draws change nearly all of them
        kept = np.where(rng.random(rows.shape) < rng.random((len(rows), 1)), rows, 0)
        kept = kept[priced.space.holds(kept)]
        near = np.abs(priced.price(kept).latency_s / whole - latency) < _NEAR
        found.update({row.tobytes(): row for row in kept[near]})
        if len(found) >= count:
            break
    return np.array([*found.values()][:count])


def correlation(measured: Measured, space: SearchSpace, by: Losses, rows: Numbers) -> str:
    """Spearman's correlation, with its 95 % interval over plans, and predicted over measured."""
    losses = np.array([measured.loss(space.plan(row)) for row in rows])
    predicted = by.predict(rows)
    found = rank_correlation(predicted, losses)
    ratio = float(np.median(predicted / losses))
    return f"{found.rank:.2f} ({found.low:.2f}–{found.high:.2f}), {ratio:.2f}"


if __name__ == "__main__":
    main()
