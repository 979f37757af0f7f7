"""`trex finetune` from a run folder: its answer, killed and resumed, and on two processes."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import trex
from trex.cli import main
from trex.models.registry import LoadedModel
from trex.store.run import Run

RECIPE = """
description: for tests
epochs: 3
batch_size: 8
micro_batch: 4
optimizer: {lr: 1.0e-3, lr_new: 3.0e-3}
losses: {kl: 1.0, tokens: 1.0}
augment: {color_jitter: 0.2}
ema_decay: 0.8
selection: {share: 0.2, average: 2}
checkpoints: {steps: 1}
"""


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, image_folder: Path, loaded: LoadedModel
) -> Path:
    """A finished search, a recipe and images."""
    folder = tmp_path_factory.mktemp("finetune")
    save_file(loaded.model.state_dict(), folder / "original.safetensors")
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "images").symlink_to(image_folder)
    searched = main(
        [
            "search", "--model", loaded.name, "--weights", str(folder / "original.safetensors"),
            "--hw", "trex_fefet_32nm", "--max-latency", "0.8x", "--evaluations", "2",
            "--only", "reuse", "--calib", str(image_folder), "--final-views", "0",
            "--out", str(folder / "run"),
        ]
    )  # fmt: skip
    assert searched == 0
    return folder


def arguments(place: Path, out: Path, *more: str) -> list[str]:
    return [
        "finetune", str(place / "run"), "--data", str(place / "images"),
        "--recipe", str(place / "recipe.yaml"), "--out", str(out), *more,
    ]  # fmt: skip


def weights(out: Path) -> bytes:
    return (out / "bundle" / "model.safetensors").read_bytes()


def curve(out: Path, column: str = "loss") -> list[float]:
    with (out / "curve.csv").open(newline="") as file:
        return [float(row[column]) for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def whole(place: Path) -> Path:
    out = place / "whole"
    assert main(arguments(place, out, "--eval", str(place / "images"))) == 0
    return out


def test_the_answer(
    place: Path, whole: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(arguments(place, whole, "--eval", str(place / "images"), "--json")) == 0
    answer = json.loads(capsys.readouterr().out)
    fitted, finetuned = answer["records"]
    assert (fitted["stage"], finetuned["stage"]) == ("fitted", "finetuned")
    assert fitted["plan"] == finetuned["plan"]
    assert fitted["estimate"] == finetuned["estimate"]
    assert {fitted["evaluation"]["n"], finetuned["evaluation"]["n"]} == {40}
    model = trex.load(whole / "bundle")
    assert model(torch.rand(1, 3, 24, 24)).shape == (1, 10)
    assert main(arguments(place, whole, "--eval", str(place / "images"))) == 0
    told = capsys.readouterr().out
    assert told.index("fitted: ") < told.index("finetuned: ")
    assert "measured on 40 images" in told


def test_single_fields_of_the_recipe_set(
    place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert main(arguments(place, out, "--set", "epochs=1", "--set", "selection.average=0")) == 0
    record = json.loads((out / "results.jsonl").read_text().splitlines()[-1])
    used = record["training"]["recipe"]
    assert (used["epochs"], used["selection"]["average"], used["ema_decay"]) == (1, 0, 0.8)
    assert used["description"] == "recipe, but epochs=1, selection.average=0"
    assert main(arguments(place, out, "--set", "epochs=2", "--set", "selection.average=0")) == 2
    assert "other settings: recipe.epochs was 1, now it is 2" in capsys.readouterr().err
    assert main(arguments(place, tmp_path / "none", "--set", "epoch=1")) == 2
    assert "did you mean 'epochs'" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_its_bundle_is_measured_as_its_record_says(
    place: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = json.loads((whole / "results.jsonl").read_text().splitlines()[-1])
    before = sorted((whole / "bundle").iterdir())
    command = [
        "evaluate", str(whole / "bundle"), "--data", str(place / "images"), "--json",
        "--weights", str(place / "original.safetensors"),
    ]  # fmt: skip
    assert main(command) == 0
    measured = json.loads(capsys.readouterr().out)
    for name in ("top1", "baseline_top1", "difference", "agreement", "n", "data_sha256"):
        assert measured[name] == record["evaluation"][name]
    assert measured["plan"] == record["plan"]
    assert main([*command, "--non-ideal", "--draws", "2", "--calib", str(place / "images")]) == 0
    noisy = json.loads(capsys.readouterr().out)["non_ideal"]
    assert (noisy["chip"], noisy["draws"]) == ("trex_fefet_32nm", 2)
    assert sorted((whole / "bundle").iterdir()) == before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--pick", "2"), "leave --pick out"),
        (("--non-ideal",), "with --calib"),
        (("--weights", "{place}/whole/bundle/model.safetensors"), "does not fit"),
        (("--weights", "{place}/other.safetensors"), "other weights than"),
    ],
)
def test_a_bundle_measured_wrongly(
    place: Path, whole: Path, loaded: LoadedModel, capsys: pytest.CaptureFixture[str],
    more: tuple[str, ...], message: str,
) -> None:  # fmt: skip
    other = {name: value + 1 for name, value in loaded.model.state_dict().items()}
    save_file(other, place / "other.safetensors")
    given = [part.format(place=place) for part in more]
    command = ["evaluate", str(whole / "bundle"), "--data", str(place / "images")]
    if "--weights" not in given:
        command += ["--weights", str(place / "original.safetensors")]
    assert main([*command, *given]) in (1, 2)
    assert message in capsys.readouterr().err


def test_a_bundle_that_names_no_chip(
    place: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(whole / "bundle", bundle)
    config = json.loads((bundle / "config.json").read_text())
    del config["estimate"]
    (bundle / "config.json").write_text(json.dumps(config))
    command = [
        "evaluate", str(bundle), "--data", str(place / "images"), "--non-ideal",
        "--calib", str(place / "images"), "--weights", str(place / "original.safetensors"),
    ]  # fmt: skip
    assert main(command) == 2
    assert "give one with --hw" in capsys.readouterr().err
    assert main([*command, "--hw", "trex_hybrid_32nm", "--draws", "1", "--json"]) == 0
    noisy = json.loads(capsys.readouterr().out)["non_ideal"]
    assert (noisy["chip"], noisy["draws"]) == ("trex_hybrid_32nm", 1)


def test_a_plan_by_name_and_hard_labels(place: Path, tmp_path: Path) -> None:
    plan = Run.open(place / "run").records()[-1].plan
    (tmp_path / "r.yaml").write_text(RECIPE.replace("{kl: 1.0,", "{ce: 1.0,"))
    command = arguments(place, tmp_path / "out", "--pick", plan, "--labels", "hard")
    command[command.index("--recipe") + 1] = str(tmp_path / "r.yaml")
    assert main(command) == 0
    (first, _) = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    assert json.loads(first)["plan"] == plan


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--labels", "hard"), "no loss of the recipe reads them"),
        (("--recipe", "best"), "neither a shipped recipe nor a file"),
        (("--pick", "3<-1"), "has not measured the plan"),
        (("--data", "nowhere"), "no such file or folder"),
        (("--device", "gpu"), "cannot be used"),
    ],
)
def test_wrong_usage(
    place: Path, tmp_path: Path, more: tuple[str, ...], message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert main(arguments(place, tmp_path / "out", *more)) in (1, 2)
    assert message in capsys.readouterr().err


def test_a_folder_of_something_else(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    assert main(arguments(place, tmp_path)) == 2
    assert "is not a fine-tuning" in capsys.readouterr().err


def start(command: list[str], **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **environment},
    )  # fmt: skip


@pytest.mark.slow
def test_killed_in_the_middle_of_an_epoch(place: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    command = arguments(place, out, "--eval", str(place / "images"))
    process = start(["-m", "trex", *command])
    # five is the second step of the second epoch of four
    while process.poll() is None and not list(out.glob("checkpoints/step-00000000[5-7].pt")):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    said = process.communicate()[0].decode()
    assert process.returncode == -signal.SIGKILL, said
    assert not (out / "bundle").exists()
    assert main(command) == 0
    assert weights(out) == weights(whole)
    assert curve(out) == curve(whole)


@pytest.mark.slow
def test_two_processes_train_as_one(place: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "two"
    command = arguments(place, out, "--eval", str(place / "images"), "--device", "cpu")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    process = start([*torchrun, "-m", "trex", *command])
    said = process.communicate(timeout=300)[0].decode()
    assert process.returncode == 0, said
    assert curve(out) == pytest.approx(curve(whole), rel=1e-3)
    assert json.loads((out / "manifest.json").read_text())["processes"] == 2
    assert said.count("finetuned: ") == 1
