"""What plans gain on every shipped chip, sequential and pipelined, softmax depth-first and not.

    python benchmarks/chip_gains.py > gains.md

A Markdown table of EDAP gains to the original as loaded under `full` accounting, and what sets the
original's pace; docs/hardware-agreement.md holds it and a test prices it again. `--model` and
`--plans` take others.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Final

from trex.architecture import Architecture
from trex.datafiles import shipped
from trex.hardware import Chip, Schedule, compare_schedules, load_chip, workload
from trex.models.registry import architecture
from trex.plan import Plan

MODEL: Final = "deit_small_patch16_224"
#: five consumers; tokens and rows together
PLANS: Final = (
    "3<-2 5<-4 7<-6 9<-8 11<-10",
    "3~32 4~40 6~16 7~8 6=63 7=55 8=26 9=26 10=13 11=class",
)
SCHEDULES: Final[tuple[Schedule, ...]] = ("sequential", "pipelined")


def rows(model: Architecture, chip: Chip, plans: Sequence[Plan]) -> Iterator[list[str]]:
    """One chip's: schedule, gains with depth-first softmax off and on, bottleneck."""
    compared = [compare_schedules(workload(model, plan), chip, SCHEDULES) for plan in plans]
    for of_plans in zip(*compared, strict=True):
        gains = []
        for found in of_plans:
            assert found.other is not None
            both = {c.depth_first: c.edap_gain for c in (found, found.other)}
            gains += [f"{both[False]:.2f}×", f"{both[True]:.2f}×"]
        told = of_plans[0].original.bottleneck
        last = f"{told.resource}, {told.share:.0%}"
        yield [f"`{chip.name}`", of_plans[0].schedule, *gains, last]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--plans", nargs="+", default=PLANS)
    args = parser.parse_args()
    plans = [Plan.parse(text) for text in args.plans]
    heads = [f"plan {i}, {how}" for i in range(1, len(plans) + 1) for how in ("off", "on")]
    table = [["chip", "schedule", *heads, "bottleneck of the original"]]
    table.append(["---"] * len(table[0]))
    for name in sorted(shipped("hw_models", "chip.yaml")):
        table += rows(architecture(args.model), load_chip(name), plans)
    for row in table:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
