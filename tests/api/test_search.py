"""Searching and fitting model objects, and all that follows, in Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from objects import FEW, images, own_model, timm_model
from small_runs import CLASSES, MODEL, SIDE, Inputs, results, write_images

import trex
from trex.cli import main
from trex.errors import BudgetError, ExportError, InfeasibleError, ModelError, WeightsError
from trex.hardware import load_chip
from trex.reuse import plan_of
from trex.store.run import ORIGINAL, Run

CHIP = "trex_fefet_32nm"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A search of a model that no name builds, on tensors."""
    out = tmp_path_factory.mktemp("own") / "run"
    told: list[trex.Progress] = []
    model = own_model()
    result = trex.search(
        model, images(), CHIP, out=out, evaluate_on=images(12, 1), progress=told.append, **FEW
    )
    return model, result, told


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A search of a model of timm's, with weights of its own."""
    model = timm_model()
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(*images()), batch_size=7, shuffle=True
    )
    return model, trex.search(model, loader, load_chip(CHIP), **FEW)


def test_a_search_of_an_object(found: Any) -> None:
    model, result, _ = found
    assert len(result.records) == 3
    assert result.plan.n_reuse == result.winner.n_reuse > 0
    assert result.estimate.latency_s <= 0.8 * result.baseline.latency_s * (1 + 1e-9)
    assert result.estimate.accounting == "full"
    assert result.winner.evaluation.n == 12
    assert {point.plan for point in result.front} <= {record.plan for record in result.records}
    variant = result.model
    assert plan_of(variant) == result.plan
    assert type(variant) is type(model)
    assert variant is result.model
    with torch.no_grad():
        assert variant(images(3)[0]).shape == (3, len(CLASSES))
    assert plan_of(model) is None
    assert str(result.plan) in str(result)
    assert str(result.plan) in repr(result)


def test_progress_is_told(found: Any) -> None:
    _, _, told = found
    steps = {of.step for of in told}
    assert {"original", "surrogate", "candidates", "final fit"} <= steps
    for step in steps:
        done = [of.done for of in told if of.step == step]
        assert done == sorted(done)
    last = [of for of in told if of.step == "original"][-1]
    assert (last.done, last.total, last.unit, last.share) == (24, 24, "images", 1.0)


def test_the_run_folder_is_as_every_other(found: Any, capsys: Any) -> None:
    model, result, _ = found
    manifest = result.run.manifest()
    assert manifest.settings.model == "object:MyViT"
    assert (manifest.weights_source, manifest.calibration) == (ORIGINAL, None)
    stored = trex.Result.open(result.path, model)
    assert stored.plan == result.plan
    x = images(4)[0]
    with torch.no_grad():
        assert torch.equal(stored.model(x), result.model(x))
        bundle = trex.load(result.path / "best", own_model())
        assert torch.equal(bundle(x), result.model(x))
    assert main(["runs", "show", str(result.path)]) == 0
    assert "object:MyViT" in capsys.readouterr().out
    assert result.report().exists()


def test_what_needs_the_object_says_so(found: Any, tmp_path: Path, capsys: Any) -> None:
    _, result, _ = found
    flags = ["--data", str(write_images(tmp_path / "images"))]
    assert main(["evaluate", str(result.path), *flags]) == 2
    said = capsys.readouterr().err
    assert "MyViT is a model of your own, which no name builds" in said
    assert "trex.evaluate(RUN, data, model=model)" in said
    with pytest.raises(ModelError, match="model of your own"):
        trex.evaluate(result.path, images())
    with pytest.raises(WeightsError, match="holds other weights"):
        trex.evaluate(result.path, images(), model=timm_model())


def test_measuring_it_again(found: Any) -> None:
    model, result, _ = found
    again = trex.evaluate(result.path, images(12, 1), model=model)
    assert again.top1 == result.winner.evaluation.top1
    assert result.evaluate(images(12, 1)).difference == again.difference
    worst = max(result.records, key=lambda record: record.selection.loss)
    assert result.evaluate(images(12, 1), pick=worst.plan).n == 12


def test_going_on_measures_nothing_again(found: Any) -> None:
    model, result, _ = found
    before = (result.path / "results.jsonl").read_bytes()
    again = trex.search(model, images(), CHIP, out=result.path, evaluate_on=images(12, 1), **FEW)
    assert again.plan == result.plan
    assert (result.path / "results.jsonl").read_bytes() == before


def test_a_named_object_needs_nobody_later(named: Any, tmp_path: Path, capsys: Any) -> None:
    model, result = named
    assert result.run.manifest().settings.model == MODEL
    temporary = result.path
    assert (temporary / ORIGINAL).exists()
    saved = result.save(tmp_path / "saved")
    assert result.path == saved
    assert not temporary.exists()
    data = write_images(tmp_path / "images")
    assert main(["evaluate", str(saved), "--data", str(data), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plan"] == str(result.plan)
    with pytest.raises(trex.TrexError, match="is not empty"):
        result.save(saved)
    x = images(4)[0]
    written = result.export(tmp_path / "bundle", images=x)
    assert written.record["verified_on"] == "4 tensors in memory"
    with torch.no_grad():
        assert torch.equal(trex.load(written.path)(x), result.model(x))
        assert torch.allclose(model(x), result.original.model(x))


def test_an_object_is_exported_where_files_hold_all(found: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    model, result, _ = found
    with pytest.raises(ExportError, match="no name builds object:MyViT"):
        trex.export(result.path, tmp_path / "bundle", model=model)
    assert not (tmp_path / "bundle").exists()
    written = trex.export(result, tmp_path / "pt2", format="torch-export", images=images(4)[0])
    assert written.record["verified"][0]["same_top1"] == 4
    assert "torch" in written.loading


def test_python_finds_what_the_command_finds(inputs: Inputs, tmp_path: Path) -> None:
    flags = inputs.search(tmp_path / "cli", "--evaluations", "3", "--refine-rounds", "0")
    assert main(flags) == 0
    result = trex.search(
        MODEL, inputs.calib, CHIP, accounting="paper", out=tmp_path / "python", final_views=1,
        weights=inputs.weights, num_classes=len(CLASSES), img_size=SIDE, **FEW,
    )  # fmt: skip
    assert results(result.run) == results(Run.open(tmp_path / "cli"))
    command = result.run.manifest().command
    assert command[:2] == ["python", "-c"]
    assert "trex.search('test_vit'" in command[2]
    assert result.run.manifest().device == CHIP


def test_a_fit_of_plans(tmp_path: Path) -> None:
    model = own_model()
    result = trex.fit(model, ["3<-2", "2~4 5=class"], images(), out=tmp_path / "run")
    assert {record.plan for record in result.records} == {
        str(trex.Plan.parse("3<-2")), "2~4 5=class"
    }  # fmt: skip
    assert plan_of(result.model) == result.plan
    assert "plan" in str(result)
    other = next(r.plan for r in result.records if r.plan != str(result.plan))
    assert plan_of(result.variant(other)) == trex.Plan.parse(other)


def test_the_cheapest_plan_that_loses_little(tmp_path: Path) -> None:
    options = {name: value for name, value in FEW.items() if name != "budget"}
    result = trex.search(
        timm_model(), images(), CHIP, max_drop=60.0, out=tmp_path / "many", **options
    )
    assert result.path.parent == tmp_path / "many"
    assert 100 * (1 - result.winner.last.agreement) <= 60 or result.winner.last.top1 is not None


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"budget": None}, BudgetError, "no budget was given"),
        ({"budget": {"speed": "1x"}}, BudgetError, "limits 'speed', which is no cost"),
        ({"budget": {"latency": 0.6}}, BudgetError, "is 0.6, no text"),
        ({"budget": "fast"}, BudgetError, "fast"),
        ({"budget": "0.8x", "evaluations": 0}, BudgetError, "evaluations 0 is too small"),
        ({"budget": "0.01x", "space": "default"}, InfeasibleError, "none of .* plans fits"),
        ({"budget": "1x", "weights": "w.pt"}, ModelError, "weights is given beside a model"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(
    options: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        trex.search(timm_model(), images(), CHIP, out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
