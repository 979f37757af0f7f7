"""What `import trex` shows, and that showing it loads nothing."""

from __future__ import annotations

import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from measured_devices import write_machine
from objects import images, own_model, timm_model

import trex
from trex.api.search import search
from trex.cli import main
from trex.errors import ChipError, PlanError

FUNCTIONS = (
    "compare",
    "evaluate",
    "export",
    "finetune",
    "fit",
    "load",
    "price",
    "search",
    "sweep",
)
MODEL = "deit_tiny_patch16_224"
CHIP = "trex_fefet_32nm"


def test_everything_public_is_shown_and_can_be_called() -> None:
    shown = [name for name in dir(trex) if not name.startswith("_")]
    assert shown == sorted(trex.__all__)
    assert set(FUNCTIONS) <= set(shown)
    assert all(callable(getattr(trex, name)) for name in FUNCTIONS)


def test_importing_trex_loads_nothing_heavy() -> None:
    script = (
        "import sys, trex\n"
        "assert 'search' in dir(trex) and callable(trex.search)\n"
        "print(sorted({'torch', 'timm', 'numpy', 'pydantic', 'optuna'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_packages_that_are_called_stay_packages() -> None:
    import trex.search.engine as engine

    assert trex.search.engine is engine  # type: ignore[attr-defined]
    assert inspect.signature(trex.search) == inspect.signature(search)
    assert "trex.api.search.search" in inspect.getdoc(trex.search)
    with pytest.raises(AttributeError, match="has no attribute 'sarch'"):
        trex.sarch  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstrings_name_every_argument(name: str) -> None:
    module = importlib.import_module("trex.runtime" if name == "load" else f"trex.api.{name}")
    documented = inspect.getdoc(getattr(module, name)) or ""
    for argument in inspect.signature(getattr(trex, name)).parameters:
        assert f"    {argument}: " in documented, f"{name}: {argument}"


def test_a_price_is_the_commands(capsys: Any) -> None:
    plan = "5<-4 3~40 11=class"
    flags = ["cost", "--model", MODEL, "--hw", CHIP, "--accounting", "full", "--plan", plan]
    assert main([*flags, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    found = trex.price(MODEL, CHIP, plan=plan)
    assert found.latency_s == told["latency_s"]
    assert found.energy_j == told["energy_j"]
    assert found.area_m2 == told["area_m2"]
    assert found.edap_gain == told["edap_gain"]
    assert found.original.latency_s == told["original"]["latency_s"]
    assert found.latency_ratio == found.latency_s / found.original.latency_s < 1
    assert trex.price(MODEL, CHIP, accounting="paper").latency_s < found.original.latency_s


def test_objects_and_chips_with_other_values_are_priced() -> None:
    model = own_model()
    found = trex.price(model, CHIP, plan=trex.Plan.parse("3<-2"))
    assert found.cost.model == "MyViT"
    assert found.latency_ratio < 1
    more = trex.price(model, CHIP, changes={"softmax.units": 1})
    assert more.latency_s > trex.price(model, CHIP).latency_s
    with pytest.raises(PlanError):
        trex.price(model, CHIP, plan="9<-8")
    with pytest.raises(ChipError):
        trex.price(model, "no_such_chip")


def test_a_comparison_prices_and_measures(tmp_path: Path) -> None:
    model = own_model()
    priced = trex.compare(model, CHIP, methods=["tome"], plans=["2~4"])
    assert {row.group for row in priced.rows} >= {"original"}
    assert all(row.measured is None for row in priced.rows)
    found = trex.compare(
        model, CHIP, methods=["tome"], plans=["2~4"], data=images(12), out=tmp_path / "kept"
    )
    (by_hand,) = [row for row in found.rows if row.plan == "2~4"]
    assert by_hand.measured is not None
    assert "ToMe" in str(found)


def test_a_measured_machine_prices_latency_alone(tmp_path: Path, capsys: Any) -> None:
    device = write_machine(tmp_path / "machine")
    found = trex.price(timm_model(), device, plan="3<-2")
    assert isinstance(found, trex.api.price.MachinePrice)
    assert 0 < found.latency_ratio < 1
    assert main(["check", str(device)]) == 0
    capsys.readouterr()
    with pytest.raises(ChipError, match="which has no --accounting"):
        trex.price(timm_model(), device, accounting="full")
