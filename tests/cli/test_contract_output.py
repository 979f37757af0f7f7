"""What programs read: every command's JSON, in-process."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import CLASSES, MODEL, Inputs, plain_records, write_images

import trex
from trex.cli import main
from trex.store.run import Run


@pytest.fixture(scope="module")
def run_folder(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(inputs.search(out, "--eval", str(inputs.labelled))) == 0
    return out


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return json.loads(out)


COST = ("cost", "--model", "deit_tiny_patch16_224", "--hw", "trex_fefet_32nm")

COST_KEYS = {
    "model", "chip", "accounting", "plan", "n_reuse", "latency_s", "energy_j", "area_m2",
    "edap_mj_ms_mm2", "macs", "tops_per_w", "tops_per_mm2", "by_layer", "by_component",
    "not_modelled",
}  # fmt: skip
SEARCH_KEYS = {
    "run",
    "baseline",
    "best",
    "pareto",
    "candidates",
    "seconds",
    "spent",
    "passes",
    "basis",
    "timings",
    "producers",
}
EVALUATE_KEYS = {
    "plan", "top1", "top5", "baseline_top1", "difference", "ci95", "n", "images_per_second",
}  # fmt: skip


def test_cost(capsys) -> None:
    found = answer(capsys, *COST, "--plan", "3<-2 1<-0")
    assert found.keys() >= COST_KEYS
    assert (found["model"], found["chip"]) == ("deit_tiny_patch16_224", "trex_fefet_32nm")
    assert (found["accounting"], found["plan"], found["n_reuse"]) == ("paper", "1<-0 3<-2", 2)
    assert found["edap_mj_ms_mm2"] == pytest.approx(
        found["latency_s"] * found["energy_j"] * found["area_m2"] * 1e12
    )
    for name in ("latency_s", "energy_j", "area_m2"):
        assert sum(row[name] for row in found["by_layer"]) == pytest.approx(found[name])
        assert sum(row[name] for row in found["by_component"].values()) == pytest.approx(
            found[name]
        )
    original = answer(capsys, *COST)
    assert original["n_reuse"] == 0
    assert original["macs"] > found["macs"]
    assert original["latency_s"] > found["latency_s"]


def test_search(inputs: Inputs, run_folder: Path, capsys) -> None:
    found = answer(capsys, *inputs.search(run_folder, "--eval", str(inputs.labelled)))
    more = {"model", "chip", "accounting", "budget", "strategy", "front", "proof"}
    more |= {"ranked_by", "ranked_on", "finetuned", "fit", "agreement"}
    assert found.keys() == SEARCH_KEYS | more
    assert found["run"] == str(run_folder)
    assert found["budget"] == "latency <= 0.8x"
    best = found["best"]
    assert best.keys() >= {"plan", "n_reuse", "transform", "estimate", "selection", "evaluation"}
    assert best["selection"].keys() >= {"top1", "n"}
    assert best["evaluation"].keys() >= {"top1", "baseline_top1", "n"}
    assert best["evaluation"]["n"] == 12
    assert best["estimate"].keys() == found["baseline"].keys()
    assert best["estimate"]["latency_s"] <= 0.8 * found["baseline"]["latency_s"]
    assert found["candidates"] == {"space": 32, "feasible": 26, "evaluated": 5}
    assert found["pareto"]
    assert all(row.keys() == best.keys() - {"evaluation"} for row in found["pareto"])
    assert found["fit"].keys() == {"shrink", "drift", "class_weight", "ridge", "producers"}
    near = found["agreement"]
    assert near.keys() == {"agreement", "ci95", "n", "far_from_original"}
    assert near["ci95"][0] <= near["agreement"] <= near["ci95"][1]
    assert near["n"] == best["selection"]["n"]
    assert found["seconds"] >= 0
    stored = json.loads((run_folder / "summary.json").read_text())
    assert stored.keys() == found.keys() | {"schema"}
    without = answer(capsys, *inputs.search(run_folder))
    assert without["best"]["evaluation"] is None


FIT_KEYS = {
    "plan", "n_reuse", "transform", "key", "evaluation", "run", "model", "chip", "accounting",
    "estimate", "baseline", "relative", "baseline_without_dead_rows",
    "relative_without_dead_rows", "selection", "agreement", "fit", "ranked_by", "plans", "seconds",
}  # fmt: skip


def test_fit(inputs: Inputs, tmp_path: Path, capsys) -> None:
    plans = ("4<-3 2~1 5=class", "5=class")
    flags = ("--eval", str(inputs.labelled))
    found = answer(capsys, *inputs.fit(tmp_path / "run", *plans, more=flags))
    assert found.keys() == FIT_KEYS
    # nothing agrees with the original more than what computes the same
    assert (found["plan"], found["n_reuse"], found["transform"]) == ("5=class", 0, "none")
    assert (found["chip"], found["accounting"]) == ("trex_fefet_32nm", "full")
    assert found["evaluation"].keys() >= {"top1", "baseline_top1", "n"}
    assert found["evaluation"]["n"] == 12
    assert found["evaluation"]["difference"] == 0
    assert {row["plan"] for row in found["plans"]} == set(plans)
    assert found["estimate"] == found["baseline_without_dead_rows"]
    assert set(found["relative_without_dead_rows"].values()) == {"full", 1.0}
    for row in found["plans"]:
        assert row["relative"]["accounting"] == "full"
        for name, field in (("latency", "latency_s"), ("energy", "energy_j"), ("macs", "macs")):
            share = row["estimate"][field] / found["baseline"][field]
            assert row["relative"][name] == pytest.approx(share)
    assert found["relative"]["latency"] < 1
    run = Run.open(Path(found["run"]))
    assert found["key"] == run.read_json("best/best.json")["key"]
    without = answer(capsys, *inputs.fit(tmp_path / "other", "5=class"))
    assert without["evaluation"] is None


def test_evaluate(inputs: Inputs, run_folder: Path, capsys) -> None:
    flags = ("evaluate", str(run_folder), "--data", str(inputs.labelled))
    found = answer(capsys, *flags)
    assert found.keys() >= EVALUATE_KEYS
    assert found["n"] == 12
    assert found["mean_kl"] > 0 or found["agreement"] == 1
    low, high = found["ci95"]
    assert low <= found["difference"] <= high
    assert found["difference"] == pytest.approx(found["top1"] - found["baseline_top1"])
    records = plain_records(Run.open(run_folder))
    assert found["plan"] == Run.open(run_folder).read_json("best/best.json")["plan"]
    other = next(record["plan"] for record in records if record["plan"] != found["plan"])
    assert answer(capsys, *flags, "--pick", other)["plan"] == other


def test_export(inputs: Inputs, run_folder: Path, tmp_path: Path, capsys) -> None:
    run = Run.open(run_folder)
    found = answer(capsys, "export", str(run_folder), "--out", str(tmp_path / "bundle"))
    assert found["bundle"] == str(tmp_path / "bundle")
    images = torch.randn(2, 3, 32, 32)
    exported, best = trex.load(tmp_path / "bundle"), trex.load(run.best)
    assert torch.equal(exported(images), best(images))
    other = next(r for r in plain_records(run) if r["plan"] != found["plan"])
    again = answer(
        capsys, "export", str(run_folder), "--out", str(tmp_path / "other"),
        "--pick", other["plan"],
    )  # fmt: skip
    assert again["plan"] == other["plan"]
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    assert config["estimate"] == other["estimate"]


@pytest.mark.parametrize("forms", ["block, linear", "linear, block"])
def test_export_takes_the_estimate_of_the_form_it_exports(
    forms: str, inputs: Inputs, tmp_path: Path, capsys
) -> None:
    space = tmp_path / "space.yaml"
    space.write_text(
        "description: two transforms of one plan\n"
        f"transforms: [{forms}]\nconsumers: [3]\nmax_reuse: 1\n"
    )
    flags = ["--accounting", "full", "--space", str(space), "--max-latency", "1.5x"]
    assert main(inputs.search(tmp_path / "run", *flags)) == 0
    run = Run.open(tmp_path / "run")
    forms = {r["plan"]: r for r in plain_records(run)}
    assert set(forms) == {"", "3<-2", "3<-2:output/block"}
    answer(capsys, "export", str(run.path), "--pick", "3<-2", "--out", str(tmp_path / "bundle"))
    config = json.loads((tmp_path / "bundle" / "config.json").read_text())
    assert config["estimate"] == forms[config["plan"]]["estimate"]


@pytest.mark.parametrize(
    ("thing", "kind"),
    [
        ("1<-0 3<-2", "plan"),
        ("3~40 11=class", "plan"),
        ("5:map/average 6=53 7=@6", "plan"),
        ("default", "search space"),
        ("trex_fefet_32nm", "chip"),
        ("RUN", "run folder"),
        ("RUN/best", "bundle"),
    ],
)
def test_check(thing: str, kind: str, run_folder: Path, capsys) -> None:
    found = answer(capsys, "check", thing.replace("RUN", str(run_folder)))
    more = {"accuracy"} if kind == "chip" else set()
    assert found.keys() == {"kind", "ok", "verdict", "details", *more}
    assert (found["kind"], found["ok"]) == (kind, True)
    assert found["verdict"].startswith("weak" if kind == "chip" else "good")
    assert found["details"]


def test_check_against_a_model(capsys) -> None:
    assert answer(capsys, "check", "3<-2", "--model", MODEL)["ok"]
    (_, size) = answer(capsys, "check", "default", "--model", MODEL)["details"]
    assert size == f"32 plans for {MODEL}"


def test_check_knows_a_space_by_its_fields(tmp_path: Path, capsys) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("description: strided only\nmax_run: 1\n")
    assert answer(capsys, "check", str(path))["kind"] == "search space"


def test_class_maps_number_the_folders(inputs: Inputs, run_folder: Path, tmp_path, capsys) -> None:
    names = tmp_path / "classes.txt"
    names.write_text("\n".join(CLASSES) + "\n")
    only = write_images(tmp_path / "all")
    for name in CLASSES[:3]:
        for path in (only / name).iterdir():
            path.unlink()
        (only / name).rmdir()
    flags = ("evaluate", str(run_folder), "--data", str(only), "--class-map", str(names))
    assert answer(capsys, *flags)["n"] == 4


def test_people_get_tables_of_100_columns(inputs: Inputs, run_folder: Path, capsys) -> None:
    for arguments in (
        inputs.search(run_folder, "--eval", str(inputs.labelled)),
        ["evaluate", str(run_folder), "--data", str(inputs.labelled)],
        ["check", "trex_fefet_32nm"],
        [*COST, "--plan", "1<-0", "--by", "layer"],
    ):
        capsys.readouterr()
        assert main(arguments) == 0
        lines = capsys.readouterr().out.splitlines()
        wide = [line for line in lines if len(line) > 100 and str(run_folder.parent) not in line
                and str(inputs.labelled) not in line and "assumption" not in line]  # fmt: skip
        assert wide == []


def test_results_alone_are_on_stdout() -> None:
    command = [sys.executable, "-W", "error", "-m", "trex", *COST, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    assert json.loads(done.stdout).keys() >= COST_KEYS
    assert done.stderr == ""


# needs no torch, so that starting it is quick
CHECK = [sys.executable, "-W", "error", "-m", "trex", "check", "1<-0 3<-2"]


def test_a_full_stdout_is_a_failure_not_a_traceback() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(CHECK, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert done.stderr.count("\n") <= 2


def test_a_closed_pipe_is_silent() -> None:
    done = subprocess.run(
        f"{shlex.join(CHECK)} | true", shell=True, capture_output=True, text=True
    )
    assert done.stderr == ""
