"""What every shipped chip asks for a model of every kind, as it is and under a plan that does all.

`python benchmarks/golden_prices.py > tests/golden/prices.csv` writes the file anew.
"""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

import pytest

from trex.architecture import Architecture
from trex.datafiles import shipped
from trex.errors import ChipError
from trex.hardware import Chip, load_chip, price, workload
from trex.models.registry import architecture
from trex.plan import Plan

FILE = Path(__file__).parents[1] / "golden" / "prices.csv"
ROWS = list(csv.DictReader(FILE.read_text().splitlines()))
MODELS = {row["model"] for row in ROWS}

model_of = cache(architecture)
chip_of = cache(load_chip)


def priced(row: dict[str, str], model: Architecture, chip: Chip) -> dict[str, float]:
    accounting = row["accounting"]
    cost = price(workload(model, Plan.parse(row["plan"])), chip, accounting)  # type: ignore[arg-type]
    return {name: getattr(cost, name) for name in ("latency_s", "energy_j", "area_m2", "macs")}


def test_every_chip_and_kind_of_model_is_there() -> None:
    named = {(row["model"], row["chip"], row["accounting"], bool(row["plan"])) for row in ROWS}
    chips = [load_chip(name).name for name in shipped("hw_models", "chip.yaml")]
    assert len(MODELS) == 5
    assert named == {
        (model, chip, accounting, planned)
        for model in MODELS
        for chip in chips
        for accounting in ("paper", "full")
        for planned in (False, True)
    }
    assert len(ROWS) == len(named)
    plans = {row["plan"] for row in ROWS}
    assert all(any(sign in plan for plan in plans) for sign in ("<-", "~", "=", "=class"))


@pytest.mark.parametrize("name", sorted(MODELS))
def test_prices_are_what_they_were(name: str) -> None:
    for row in ROWS:
        if row["model"] != name:
            continue
        of = (row, model_of(name), chip_of(row["chip"]))
        if row["latency_s"] == "refused":
            with pytest.raises(ChipError):
                priced(*of)
            continue
        for field, value in priced(*of).items():
            told = f"{name} on {row['chip']}, {row['accounting']}, {row['plan']}: {field}"
            assert value == pytest.approx(float(row[field]), rel=1e-9), told
