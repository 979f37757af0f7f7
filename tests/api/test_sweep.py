"""Sweeps: many searches, one table, gone on with where they stopped."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_runs import CLASSES, MODEL, SIDE, Inputs

import trex
from trex.api import sweep as sweeps
from trex.cli import main
from trex.report.sweeps import COLUMN, Came, Place, SweepResult, column_table, grouped_rows
from trex.store.run import Run
from trex.store.schemas import Summary
from trex.store.sweep import SweepFolder

NOTHING = "0.01x"


def write_sweep(folder: Path, inputs: Inputs, **changes: Any) -> Path:
    """A sweep of one small model under two budgets, one of which nothing fits."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data").symlink_to(inputs.calib.parent)
    asked = {
        "title": "small",
        "calib": "data/calib",
        "eval": "data/labelled",
        "models": [
            {
                "name": MODEL, "label": "vit", "weights": "data/weights.safetensors",
                "num_classes": len(CLASSES), "img_size": SIDE,
            }
        ],
        "devices": ["trex_fefet_32nm"],
        "budgets": ["0.8x", NOTHING],
        "search": {"space": "default", "evaluations": 2, "refine_rounds": 0, "final_views": 0},
        **changes,
    }  # fmt: skip
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump(asked))
    return file


@pytest.fixture(scope="module")
def swept(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("sweep")
    file = write_sweep(folder, inputs)
    assert main(["sweep", str(file), "--out", str(folder / "out")]) == 0
    return file, folder / "out"


def test_every_search_has_a_row_and_a_run(swept: tuple[Path, Path]) -> None:
    _, out = swept
    rows = list(csv.DictReader((out / "sweep.csv").read_text().splitlines()))
    assert [(row["budget"], row["state"]) for row in rows] == [
        ("0.8x", "done"), (NOTHING, "infeasible"),
    ]  # fmt: skip
    assert "plans fits the budget" in rows[1]["why not"]
    run = Run.open(out / rows[0]["run"])
    summary = run.summary()
    assert summary is not None
    best = summary.best
    assert rows[0]["plan"] == best.plan
    share = best.estimate.latency_s / summary.baseline.latency_s
    assert float(rows[0]["latency x (estimate)"]) == pytest.approx(share, abs=1e-4)
    assert float(rows[0]["loss, nats (measured)"]) == pytest.approx(best.last.loss, abs=1e-5)
    assert best.evaluation is not None
    assert rows[0]["evaluation images"] == str(best.evaluation.n)
    assert "none fits" in (out / "sweep.md").read_text()
    page = (out / "index.html").read_text()
    assert best.plan.replace("<", "&lt;") in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("https://www.w3.org", "")


def test_going_on_does_only_what_is_left(
    swept: tuple[Path, Path], inputs: Inputs, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    file, out = swept
    asked = yaml.safe_load(file.read_text())
    asked["seeds"], asked["budgets"] = [0, 1], ["0.8x"]
    file.with_name("more.yaml").write_text(yaml.safe_dump(asked))
    searched = []
    carry_out = sweeps.carry_out

    def counted(prepare: Any, **options: Any) -> Summary:
        told = carry_out(prepare, **options)
        searched.append(told.run)
        return told

    monkeypatch.setattr(sweeps, "carry_out", counted)
    flags = ["sweep", str(file.with_name("more.yaml")), "--out", str(out), "--json"]
    assert main(flags) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(one["seed"], one["state"]) for one in told["searches"]] == [(0, "done"), (1, "done")]
    assert [Path(run).name.rpartition(",")[2] for run in searched] == ["seed1"]
    assert "2 searches, 2 of them are done" not in capsys.readouterr().err
    assert main(flags) == 0
    assert len(searched) == 1
    assert "±" in (out / "sweep.md").read_text()
    assert main(["report", str(out)]) == 0
    assert "mean ± standard deviation of 2 seeds" in capsys.readouterr().out


def test_an_interrupted_sweep_goes_on(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    file = write_sweep(tmp_path, inputs, budgets=["0.9x", "0.8x"])
    out = tmp_path / "out"
    add = SweepFolder.add

    def interrupted(folder: SweepFolder, cell: Any) -> None:
        add(folder, cell)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(SweepFolder, "add", interrupted)
        assert main(["sweep", str(file), "--out", str(out)]) == 130
    with (out / "cells.jsonl").open("a") as torn:
        torn.write('{"name": "cut')
    assert main(["report", str(out)]) == 0
    assert "1 of 2 searches are not done" in capsys.readouterr().out
    result = trex.sweep(file, out).result
    assert [row.state for row in result.rows] == ["done", "done"]
    first, second = (Run.open(out / "runs" / row.place.name) for row in result.rows)
    assert first.read_json("surrogate.json") == second.read_json("surrogate.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": ["no_such_model"]}, "no model is called 'no_such_model'"),
        ({"models": [{"name": MODEL, "weights": "gone.pt"}]}, "gone.pt: no such file"),
        ({"models": []}, "models"),
        ({"devices": ["no_such_chip"]}, "no_such_chip"),
        ({"budgets": ["4volts"]}, "4volts"),
        ({"budgets": [{}]}, "limits nothing"),
        ({"budgets": [{"speed": "1x"}]}, "speed"),
        ({"budgets": ["0.8x", "0.8x"]}, "0.8x stands there twice"),
        ({"calib": "nowhere"}, "nowhere"),
        ({"class_map": "gone.txt"}, "gone.txt"),
        ({"seeds": [-1]}, "seeds"),
        ({"search": {"space": "no_such_space"}}, "no_such_space"),
        ({"search": {"evaluation": 3}}, "evaluation"),
        ({"sedes": [1]}, "sedes"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(
    inputs: Inputs, tmp_path: Path, capsys: Any, changes: dict[str, Any], message: str
) -> None:
    file = write_sweep(tmp_path, inputs, **changes)
    assert main(["sweep", str(file), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "candidates:" not in said
    assert not (tmp_path / "out").exists()


def test_other_folders_are_left_alone(inputs: Inputs, tmp_path: Path, capsys: Any) -> None:
    file = write_sweep(tmp_path, inputs)
    assert main(["sweep", str(file), "--out", str(tmp_path)]) == 2
    assert "is not a sweep's folder" in capsys.readouterr().err


def made_up(swept: tuple[Path, Path], models: list[str], seeds: int) -> SweepResult:
    """A larger table of the one search's figures."""
    _, out = swept
    run = next((out / "runs").iterdir())
    summary = Run.open(run).summary()
    return SweepResult(
        title="made up",
        rows=tuple(
            Came(
                place=Place(model, "trex_fefet_32nm", budget, seed, "none"),
                state="done",
                summary=summary,
            )
            for model in models
            for budget in ("0.8x", "0.65x")
            for seed in range(seeds)
        ),
    )


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize(
    "models", [["deit_tiny_patch16_224"], ["deit_tiny_patch16_224", "deit_small_patch16_224"]]
)
def test_the_papers_table_fits_a_column(
    swept: tuple[Path, Path], models: list[str], seeds: int
) -> None:
    result = made_up(swept, models, seeds)
    tex = column_table(result)
    body = tex[tex.index(r"\toprule") : tex.index(r"\bottomrule")]
    rows = [
        [cell.strip().replace(r"$\pm$", "±").replace("\\", "") for cell in line.split(" & ")]
        for line in body.splitlines()
        if " & " in line
    ]
    assert len(rows) == 1 + 2 * len(models)
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    assert sum(widths) <= COLUMN + 2  # the end of a line, \\
    assert r"\footnotesize" in tex
    assert tex.count("{") == tex.count("}")
    assert ("deit_tiny" in rows[1][0]) == (len(models) > 1)
    assert ("model: deit_tiny_patch16_224" in tex) == (len(models) == 1)
    head, full, same = grouped_rows(result)
    assert head[:3] == ("model", "device", "budget")
    assert len(full) == 2 * len(models)
    assert ("mean" in same[-1]) == (seeds > 1)
