"""README's figure: what is lost against latency, of the joint search and of what else there is.

    python benchmarks/joint_figure.py docs/figures/joint.csv docs/figures/joint.svg

The table has a line a measured plan: method, latency relative to the original (estimate), KL in
nats, points of top-1 lost and their 95 % interval (measured), and the command or page it is from.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

FIRST = "trex search, joint"


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    found = defaultdict(list)
    with args.table.open(newline="") as file:
        for row in csv.DictReader(file):
            found[row["method"]].append((float(row["latency"]), float(row["kl"])))
    matplotlib.rcParams["svg.hashsalt"] = "trex"
    figure, axes = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
    for method, points in found.items():
        latency, kl = zip(*sorted(points), strict=True)
        ours = method == FIRST
        axes.plot(
            latency, kl, marker="o" if ours else ".", label=method,
            linewidth=2.5 if ours else 1.2, zorder=3 if ours else 2,
        )  # fmt: skip
    axes.set_yscale("log")
    axes.set_xlabel("latency, relative to the original (estimate, full accounting)")
    axes.set_ylabel("KL from its answers (nats)")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    figure.savefig(args.out, metadata={"Date": None})


if __name__ == "__main__":
    main()
