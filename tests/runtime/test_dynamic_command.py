"""`trex dynamic` from fitted plans to measured cascades, exports and a simulation."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import SIDE, Inputs
from tiny_models import logits_of

import trex
from trex.cli import main
from trex.runtime import DynamicModel, load_adaptive
from trex.runtime.costs import parts_of
from trex.search.points import names_of

PLANS = ("5=class", "4~1 5=class", "3~1 4~1 5=class", "2<-1:map/mixed 3~1 4~1 5=class")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, inputs: Inputs) -> Path:
    """Four plans of growing savings, fitted and measured."""
    out = tmp_path_factory.mktemp("fitted") / "run"
    more = ("--hw", "trex_fefet_32nm", "--accounting", "full")
    assert main(inputs.fit(out, *PLANS, more=more)) == 0
    return out


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def images(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def test_from_a_run_to_a_simulation(
    run: Path, inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "dynamic"
    made = told(capsys, "dynamic", str(run), "--points", "2", "--original", "--out", str(out))
    model = trex.load(out)
    assert isinstance(model, DynamicModel)
    assert [row["name"] for row in made["plans"]] == model.plans
    assert model.plans[-1] == "original"
    assert made["ratio"] < 1.25
    weights = (out / "model.safetensors").stat().st_size
    assert made["total_bytes"] <= weights < made["total_bytes"] + 20_000
    for point in model.points:
        assert sum(point.parts["latency_s"]) == pytest.approx(point.estimate["latency_s"])
        assert sum(point.parts["energy_j"]) == pytest.approx(point.estimate["energy_j"])
    assert torch.equal(
        logits_of(model.variant("original"), images()), logits_of(model.base, images())
    )

    # one graph a plan over one file of weights, and a loop that needs nothing of ours
    pytest.importorskip("onnx", reason="the extra `onnx` is missing")
    graphs = tmp_path / "onnx"
    exported = told(capsys, "export", str(out), "--format", "onnx", "--out", str(graphs))
    assert len(exported["plans"]) == len(exported["verified"]) == 3
    listed = json.loads((graphs / "plans.json").read_text())
    assert [about["name"] for about in listed.values()] == model.plans
    guard = "import sys\nfor name in ('trex', 'torch', 'timm'): sys.modules[name] = None\n"
    code = guard + f"sys.argv[1:] = ['1', '1e-9']\n__file__ = {str(graphs / 'switch.py')!r}\n"
    code += (graphs / "switch.py").read_text()
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    dear, cheap = done.stdout.splitlines()
    assert "original" in dear
    assert model.plans[0] in cheap
    one = told(
        capsys, "export", str(out), "--pick", model.plans[0], "--out", str(tmp_path / "one")
    )
    assert one["plans"] == [model.points[0].plan]
    alone = logits_of(trex.load(tmp_path / "one"), images())
    assert torch.equal(alone, logits_of(model.variant(model.plans[0]), images()))

    # the calibration images stand for a user's own
    share = model.points[-2].cost("latency") / model.baseline["latency_s"] * 1.001
    adapted = told(
        capsys, "dynamic", str(out), "--mean-latency", f"{share:.6f}x", "--calib",
        str(inputs.calib), "--data", str(inputs.labelled), "--simulate", "--requests", "300",
    )  # fmt: skip
    ways = {way["kind"]: way for way in adapted["adaptive"]["ways"]}
    assert "plan" in ways
    assert "cascade" in ways
    for way in ways.values():
        assert way["cost"] <= adapted["adaptive"]["limit"] * (1 + 1e-9)
    rows = {row["name"]: row for row in adapted["measured"]["rows"]}
    assert rows["plan original"]["difference"] == 0.0
    assert {f"plan {name}" for name in model.plans} | set(ways) - {"plan"} == set(rows)
    cascade = load_adaptive(out, "cascade")
    costs = cascade.costs("latency")
    assert min(costs) <= rows["cascade"]["mean_latency"] <= max(costs)
    outcomes = adapted["simulated"]["outcomes"]
    assert [of["policy"] for of in outcomes] == [*model.plans, "controller"]
    assert adapted["simulated"]["accuracy_of"].startswith("top-1 on")


def test_what_is_asked_wrongly_is_told(
    run: Path, inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "dynamic"

    def refused(*arguments: str) -> str:
        capsys.readouterr()
        assert main(list(arguments)) == 2
        return capsys.readouterr().err

    assert "distinct points, not 9" in refused(
        "dynamic", str(run), "--points", "9", "--out", str(out)
    )
    assert "nothing to switch between" in refused(
        "dynamic", str(run), "--points", "1", "--out", str(out)
    )
    assert "--out" in refused("dynamic", str(run))
    assert "is of a dynamic bundle" in refused("dynamic", str(run), "--simulate")
    assert not out.exists()
    assert main(["dynamic", str(run), "--points", "2", "--out", str(out)]) == 0
    assert "is not an empty folder" in refused(
        "dynamic", str(run), "--points", "2", "--out", str(out)
    )
    assert "nothing is asked of it" in refused("dynamic", str(out))
    assert "--calib is missing" in refused("dynamic", str(out), "--mean-latency", "0.9x")
    assert "makes a bundle of a run" in refused("dynamic", str(out), "--points", "2")
    assert "no plan 'none'" in refused(
        "export", str(out), "--pick", "none", "--out", str(tmp_path / "none")
    )
    assert "train them together with --dynamic" in refused(
        "finetune", str(out), "--data", str(inputs.calib), "--out", str(tmp_path / "tuned")
    )
    assert "is a dynamic bundle" in refused("evaluate", str(out), "--data", str(inputs.labelled))


def test_plans_are_trained_together(
    run: Path, inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "dynamic"
    assert main(["dynamic", str(run), "--points", "2", "--original", "--out", str(out)]) == 0
    arguments = (
        "finetune", str(out), "--dynamic", "--twins", "--data", str(inputs.calib), "--eval",
        str(inputs.labelled), "--out", str(tmp_path / "tuned"), "--set", "epochs=1", "--set",
        "batch_size=8", "--set", "selection.share=0", "--set", "teacher.mode=live",
    )  # fmt: skip
    found = told(capsys, *arguments)
    before, after = trex.load(out), trex.load(tmp_path / "tuned" / "bundle")
    assert isinstance(before, DynamicModel)
    assert isinstance(after, DynamicModel)
    assert [row["name"] for row in found["paths"]] == before.plans == after.plans
    for row in found["paths"]:
        for stage in ("untrained", "shared", "alone"):
            assert 0.0 <= row[stage]["top1"] <= 1.0
        # every path learned, and they still share what they shared
        assert not torch.equal(
            logits_of(after.variant(row["name"]), images()),
            logits_of(before.variant(row["name"]), images()),
        )
    shared = {id(parameter) for parameter in after.base.parameters()}
    assert {id(parameter) for parameter in after.variant("original").parameters()} == shared
    assert found["paths"][-1]["untrained"]["difference"] == 0.0
    # the same command again repeats nothing
    file = tmp_path / "tuned" / "bundle" / "model.safetensors"
    written = file.stat().st_mtime_ns
    again = told(capsys, *arguments)
    assert file.stat().st_mtime_ns == written
    assert [row["shared"]["top1"] for row in again["paths"]] == [
        row["shared"]["top1"] for row in found["paths"]
    ]


def test_parts_add_up_to_the_price_under_every_accounting() -> None:
    from trex.hardware import load_chip, price, workload
    from trex.models.registry import architecture
    from trex.plan import Plan

    model, chip = architecture("deit_tiny_patch16_224"), load_chip("trex_fefet_32nm")
    plan = Plan.parse("5<-4:map/mixed 3~24 7=75 11=class")
    for accounting in ("paper", "full"):
        whole = price(workload(model, plan), chip, accounting)  # type: ignore[arg-type]
        parts = parts_of(model, plan, chip, accounting)  # type: ignore[arg-type]
        assert len(parts["latency_s"]) == len(parts["energy_j"]) == 14
        assert sum(parts["latency_s"]) == pytest.approx(whole.latency_s)
        assert sum(parts["energy_j"]) == pytest.approx(whole.energy_j)
        assert all(part > 0 for part in parts["latency_s"][1:-1])


def test_points_are_named_with_as_many_digits_as_tell_them_apart() -> None:
    assert names_of([0.4, 0.5249]) == ["0.40x", "0.52x"]
    assert names_of([0.401, 0.402]) == ["0.401x", "0.402x"]
    assert names_of([0.5, 0.5]) == ["0.5000x-1", "0.5000x-2"]
