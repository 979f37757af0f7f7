"""Searches among mixed maps, and fits of plans with all that goes by rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_runs import Inputs, plain_records, results

import trex
from trex.cli import main
from trex.exporters.bundle import load_config
from trex.plan import Plan
from trex.reuse import plan_of
from trex.store.run import Run

MIXED = ("--tensors", "map", "--transforms", "mixed")
RUNGS = (
    "--refined-candidates", "2", "--finetuned-candidates", "2", "--finetune-images", "8",
)  # fmt: skip


@pytest.fixture(scope="module")
def searched(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "mixed"
    assert main(inputs.search(out, *MIXED, *RUNGS)) == 0
    return Run.open(out)


def test_all_that_is_measured_has_mixed_maps(searched: Run) -> None:
    records = plain_records(searched)
    assert len(records) == 5
    for record in records:
        reuses = Plan.parse(record["plan"]).reuses
        assert {reuse.form for reuse in reuses} <= {("map", "mixed")}
        state = load_file(searched.candidates / f"{record['key']}.safetensors")
        for reuse in reuses:
            assert f"blocks.{reuse.consumer}.attn.average" in state
            assert f"blocks.{reuse.consumer}.attn.mix" in state
    predicted = searched.read_json("surrogate.json")
    assert all(loss > 0 for loss in predicted["reference"][1:])
    assert [of[1] for of in predicted["choice"]] == predicted["reference"]


def test_the_best_is_a_bundle_with_its_averages(searched: Run) -> None:
    best = searched.read_json("best/best.json")
    for folder in (searched.best, searched.finetuned):
        model = trex.load(folder)
        assert str(plan_of(model)) == best["plan"]
        averages = [b for name, b in model.named_buffers() if name.endswith("attn.average")]
        assert averages
        # the start is the source's map: nothing is added to it
        assert all(bool(average.any()) for average in averages)
    fitted, trained = (trex.load(of) for of in (searched.best, searched.finetuned))
    assert not torch.equal(fitted.get_parameter("head.weight"),
                           trained.get_parameter("head.weight"))  # fmt: skip


def test_workers_find_the_same(searched: Run, inputs: Inputs, tmp_path: Path) -> None:
    assert main(inputs.search(tmp_path / "run", *MIXED, *RUNGS, "--workers", "2")) == 0
    assert results(Run.open(tmp_path / "run")) == results(searched)


def test_output_alone_cannot_be_mixed(inputs: Inputs, tmp_path: Path, capsys) -> None:
    assert main(inputs.search(tmp_path / "run", "--transforms", "mixed")) == 2
    assert "names mixed, which is of maps" in capsys.readouterr().err
    plan = ("--transform", "mixed")
    assert main(inputs.fit(tmp_path / "fit", "3<-2", more=plan)) == 2
    assert "cannot reuse an output through 'mixed'" in capsys.readouterr().err


#: all that goes by rows at once: averages, mixed maps with class rows of their own, shared rows
ROWS = "3<-1:map/mixed 4:map/average 0=3 1=@0 3=class 5=class"


@pytest.fixture(scope="module")
def fitted(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "rows"
    assert main(inputs.fit(out, ROWS, "3<-1:map 1=3", more=("--transform", "mixed"))) == 0
    return Run.open(out)


def test_given_plans_of_all_forms_are_fitted(fitted: Run) -> None:
    plans = {record["plan"] for record in plain_records(fitted)}
    assert plans == {ROWS, "3<-1:map/mixed 1=3"}
    assert all(0 < record["selection"]["loss"] < 10 for record in plain_records(fitted))
    assert load_config(fitted.best)["plan"] in plans


def test_later_commands_read_it(fitted: Run, inputs: Inputs, tmp_path: Path, capsys) -> None:
    run, pick = str(fitted.path), ("--pick", ROWS)
    noisy = ("--non-ideal", "--draws", "1", "--calib", str(inputs.calib))
    data = ("--data", str(inputs.labelled))
    assert main(["evaluate", run, *pick, *data, *noisy, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["plan"] == ROWS
    assert 0 <= found["non_ideal"]["top1"] <= 1
    assert main(["export", run, *pick, "--out", str(tmp_path / "bundle")]) == 0
    assert str(plan_of(trex.load(tmp_path / "bundle"))) == ROWS
    assert main(["report", run, "--out", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report" / "index.html").read_text()
    assert "share rows of attention" in page or "shares rows of attention" in page
    assert main(["runs", "show", run]) == 0
    tuning = ("--data", str(inputs.calib), "--out", str(tmp_path / "tuned"))
    short = ("--set", "epochs=1", "--set", "batch_size=8", "--set", "micro_batch=8")
    assert main(["finetune", run, *pick, *tuning, *short]) == 0
    assert str(plan_of(trex.load(tmp_path / "tuned" / "bundle"))) == ROWS
