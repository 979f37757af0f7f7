"""Prices of every shipped chip and kind of model, for tests/golden/prices.csv.

    python benchmarks/golden_prices.py > tests/golden/prices.csv

A model of every kind, as it is and under one plan that does all that its kind can: reuse, merging,
shared rows and class rows. `tests/hardware/test_golden_prices.py` compares what is priced now.
Where a price was meant to change, this command writes the file anew, and CHANGELOG.md says why.
"""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Final

from trex.architecture import Architecture
from trex.datafiles import shipped
from trex.errors import ChipError
from trex.hardware import Accounting, Chip, load_chip, price, workload
from trex.models.registry import architecture
from trex.plan import Plan

MODELS: Final = (
    "deit_tiny_patch16_224",
    "lvvit_s",
    "uniform_t",
    "shvit_s1",
    "bert_tiny_uncased",
)
ACCOUNTINGS: Final[tuple[Accounting, ...]] = ("paper", "full")
HEAD: Final = ("model", "chip", "accounting", "plan", "latency_s", "energy_j", "area_m2", "macs")
#: where prices would stand, of what a chip has no term for
REFUSED: Final = ("refused", "", "", "")


def joint_plan(model: Architecture) -> Plan:
    """What the model's kind can do, each once, in the stage of most encoders.

    Raises:
        PlanError: the model cannot run it.
    """
    layout = model.layout
    stage, _ = Counter(layout.stages).most_common(1)[0]
    first, *others = (i for i, of in enumerate(layout.stages) if of == stage)
    items = [f"{others[0]}<-{first}"]
    if len(others) > 1:
        attending = layout.windows[others[1]] if layout.windows else model.encoders[0].tokens
        if attending:
            items.append(f"{others[1]}={max(2, attending // 3)}")
    if not layout.no_merging:
        items.append(f"{first}~{layout.most_pairs(layout.tokens) // 4}")
    if layout.class_rows and not layout.no_class_rows:
        items.append(f"{len(layout.stages) - 1}=class")
    plan = Plan.parse(" ".join(items))
    plan.validate(layout)
    return plan


def numbers(
    model: Architecture, chip: Chip, accounting: Accounting, plan: Plan
) -> tuple[str, ...]:
    """What stands in the last columns."""
    try:
        cost = price(workload(model, plan), chip, accounting)
    except ChipError:
        return REFUSED
    return repr(cost.latency_s), repr(cost.energy_j), repr(cost.area_m2), str(cost.macs)


def rows() -> Iterator[tuple[str, ...]]:
    """The file's, without its head."""
    chips = [load_chip(name) for name in sorted(shipped("hw_models", "chip.yaml"))]
    for name in MODELS:
        model = architecture(name)
        for plan in (Plan(), joint_plan(model)):
            for chip in chips:
                for accounting in ACCOUNTINGS:
                    found = numbers(model, chip, accounting, plan)
                    yield name, chip.name, accounting, str(plan), *found


if __name__ == "__main__":
    csv.writer(sys.stdout, lineterminator="\n").writerows([HEAD, *rows()])
