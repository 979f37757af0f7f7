"""What is damaged or missing in a run folder is found, named, and where possible made again."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from disks import files_of_at_most
from PIL import Image
from safetensors.torch import load_file, save_file
from small_runs import Inputs
from torch import Tensor

from trex.cli import main
from trex.fit.loss import answers
from trex.report.exports import as_csv
from trex.search.front import front_of, measured_front
from trex.search.records import selection_metrics
from trex.store.locks import FileLocks
from trex.store.ranking import best_first
from trex.store.run import Run
from trex.training.data import CorruptImage, contents_fingerprint, open_dataset


@pytest.fixture(scope="module")
def finished(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(inputs.search(out, "--max-latency", "0.95x")) == 0
    return out


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Run:
    """A copy that a test may damage."""
    shutil.copytree(finished, tmp_path / "run")
    return Run.open(tmp_path / "run")


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*arguments: object) -> str:
        capsys.readouterr()
        assert main([str(a) for a in arguments]) == 2
        told = capsys.readouterr().err
        assert "Traceback" not in told
        assert "hint:" in told
        return told

    return run


def flip(file: Path, place: int) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 0x40
    file.write_bytes(data)


# ---- D1: fitted parameters


def test_a_flipped_byte_in_fitted_parameters_is_neither_exported_nor_measured(
    run: Run, inputs: Inputs, tmp_path: Path, refused
) -> None:
    record = next(r for r in run.records() if "linear" in r.plan or r.transform == "linear")
    flip(run.candidates / f"{record.key}.safetensors", -100)
    pick = ("--pick", record.plan)
    assert "is damaged" in refused("export", run.path, "--out", tmp_path / "out", *pick)
    assert not (tmp_path / "out").exists()
    assert "is damaged" in refused("evaluate", run.path, "--data", inputs.labelled, *pick)
    assert "is damaged" in refused("check", run.path)


def test_parameters_of_another_candidate_are_refused(run: Run, refused) -> None:
    one, other = (run.candidates / f"{r.key}.safetensors" for r in run.records()[:2])
    shutil.copyfile(one, other)
    assert "holds the tensors of" in refused("check", run.path)


# ---- D4, D5: what interrupted writers leave


def test_an_export_that_met_a_full_disk_can_be_run_again(run: Run, tmp_path: Path, capsys) -> None:
    export = ["export", str(run.path), "--out", str(tmp_path / "out")]
    with files_of_at_most(10_000):
        assert main(export) == 1
    assert "cannot be written" in capsys.readouterr().err
    assert not json.loads((tmp_path / "out" / "export.json").read_text())["finished"]
    assert main(export) == 0


def test_an_export_that_was_killed_can_be_run_again(run: Run, tmp_path: Path) -> None:
    export = ["export", str(run.path), "--out", str(tmp_path / "out")]
    script = (
        "import os, signal, sys\nfrom trex.cli import main\nfrom trex.exporters import bundle\n"
        "bundle.save_bundle = lambda *_, **more: os.kill(os.getpid(), signal.SIGKILL)\n"
        "main(sys.argv[1:])"
    )
    assert subprocess.run([sys.executable, "-c", script, *export]).returncode == -9
    assert not json.loads((tmp_path / "out" / "export.json").read_text())["finished"]
    assert main(export) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]


def test_going_on_sweeps_what_kills_left(run: Run, inputs: Inputs) -> None:
    left = [
        folder / f".{name}.0badcafe.tmp"
        for folder, name in ((run.path, "fit.json"), (run.candidates, "abc.safetensors"))
    ]
    for file in left:
        file.write_text("half")
    assert main(inputs.search(run.path, "--max-latency", "0.95x")) == 0
    assert not any(file.exists() for file in left)


def test_a_torn_evaluation_is_left_out_and_the_next_one_is_kept(run: Run, inputs: Inputs) -> None:
    measure = ["evaluate", str(run.path), "--data", str(inputs.labelled)]
    assert main(measure) == 0
    file = run.path / "evaluations.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + whole[: len(whole) // 2])
    assert main(measure) == 0
    lines = file.read_text().splitlines()
    assert len(lines) == 2
    assert file.read_bytes().startswith(whole)
    assert [json.loads(line)["plan"] for line in lines] == [json.loads(whole)["plan"]] * 2


# ---- D3, D12: models and images that say nothing


def other_weights(inputs: Inputs, file: Path, change: Callable[[str, Tensor], Tensor]) -> Path:
    state = load_file(inputs.weights)
    save_file({name: change(name, value) for name, value in state.items()}, file)
    return file


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda name, value: value * math.nan, "holds what is not a finite number"),
        (lambda name, value: value * 1e30, "puts out what is no number for 16 of 16"),
        (lambda name, value: value * 1e12 if "head" in name else value, "answers reach"),
        (lambda name, value: value * 0, "answers the same to all 16 calibration images"),
        (lambda name, value: value.to(torch.int8), "holds whole numbers (int8)"),
    ],
    ids=["nan", "overflow", "absurd", "zero", "integers"],
)
def test_a_broken_model_is_named_before_there_is_a_folder(
    change: Callable[[str, Tensor], Tensor], told: str, inputs: Inputs, tmp_path: Path, refused
) -> None:
    weights = other_weights(inputs, tmp_path / "broken.safetensors", change)
    out = tmp_path / "run"
    assert told in refused(*inputs.search(out), "--weights", weights, "--precision", "float32")
    assert not out.exists()


@pytest.mark.parametrize("color", ["black", (12, 99, 140)])
def test_images_that_are_all_the_same_are_named(
    color: object, inputs: Inputs, tmp_path: Path, refused
) -> None:
    for number in range(8):
        Image.new("RGB", (40, 40), color).save(tmp_path / f"{number}.png")
    out = tmp_path / "run"
    told = refused(*inputs.search(out), "--calib", tmp_path, "--precision", "float32")
    assert "answers the same to all 8 calibration images" in told
    assert not out.exists()


def test_a_variant_that_answers_nothing_loses_and_is_counted() -> None:
    original = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0]])
    labels = torch.tensor([0, 1])
    broken = original.clone()
    broken[0] = torch.tensor([math.inf, 0.0, math.nan])
    whole = selection_metrics(original, original, labels)
    found = selection_metrics(broken, original, labels)
    assert (whole.agreement, found.agreement, found.top1) == (1.0, 0.5, 0.5)
    assert whole.loss < found.loss < math.inf
    assert found.soft_agreement < whole.soft_agreement
    assert answers(original, original) is original


# ---- D6: deep nesting


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "{" * 3000], ids=["lists", "fields", "open"]
)
def test_deep_nesting_breaks_no_list_of_runs(text: str, run: Run, capsys, refused) -> None:
    (run.path.parent / "deep").mkdir()
    (run.path.parent / "deep" / "manifest.json").write_text(text)
    assert main(["runs", "list", str(run.path.parent), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["runs"]
    assert {Path(row["run"]).name: row["state"] for row in rows} == {
        "deep": "unreadable", "run": "finished",
    }  # fmt: skip
    assert "cannot be read" in refused("runs", "show", run.path.parent / "deep")


# ---- D7: the winner's record


def test_a_results_file_without_the_winner(run: Run, inputs: Inputs, tmp_path, refused) -> None:
    key = run.read_json("best/best.json")["key"]
    file = run.path / "results.jsonl"
    lines = [x for x in file.read_text().splitlines() if json.loads(x)["key"] != key]
    file.write_text("".join(f"{line}\n" for line in lines))
    assert f"has no record of the winner, {key}" in refused(
        "export", run.path, "--out", tmp_path / "out"
    )
    assert main(inputs.search(run.path, "--max-latency", "0.95x")) == 0
    assert key in {record.key for record in run.records()}


def test_a_pick_of_a_number_without_end(run: Run, tmp_path: Path, refused) -> None:
    pick = ("--pick", "9" * 5000)
    assert "is not part of a plan" in refused("export", run.path, "--out", tmp_path / "o", *pick)


# ---- D9: what is named like an image


def test_pipes_and_devices_named_like_images_are_skipped(inputs: Inputs, tmp_path: Path) -> None:
    calib = tmp_path / "calib"
    shutil.copytree(inputs.calib, calib)
    os.mkfifo(calib / "ant" / "pipe.png")
    (calib / "bee" / "endless.png").symlink_to("/dev/zero")
    (calib / "bee" / "gone.png").symlink_to(tmp_path / "nowhere")
    images = open_dataset(str(calib), transform=lambda picture: torch.zeros(1), labels=False)
    pictures = [images.picture(i) for i in range(len(images))]
    names = {picture.name for picture in pictures if isinstance(picture, CorruptImage)}
    assert {"ant/pipe.png", "bee/endless.png"} <= names
    assert len(pictures) - len(names) == 16
    assert len(contents_fingerprint(images)) == 16


# ---- D10: who finishes first


def test_the_front_does_not_depend_on_who_finishes_first(run: Run) -> None:
    records = run.records()
    twin = records[0].model_copy(update={"key": "0" * 16})
    baseline = run.manifest().baseline
    fronts = set()
    for order in itertools.permutations([*records[:4], twin]):
        front = measured_front(order, baseline)
        named = (front_of(order), front.records, [front.knee] if front.knee else [])
        fronts.add(json.dumps([[record.key for record in part] for part in named]))
    assert len(fronts) == 1
    orders = itertools.permutations([*records[:4], twin])
    assert len({best_first(order, "selection")[0].key for order in orders}) == 1


# ---- D11: calibration data


def test_changed_pixels_are_not_resumed(inputs: Inputs, tmp_path: Path, refused) -> None:
    calib = tmp_path / "calib"
    shutil.copytree(inputs.calib, calib)
    search = [*inputs.search(tmp_path / "run"), "--calib", str(calib)]
    assert main(search) == 0
    flip(calib / "ant" / "0.png", -200)
    told = refused(*search)
    assert "other settings: calibration_contents_sha256 was" in told


def test_runs_from_before_contents_were_hashed_go_on(run: Run, inputs: Inputs) -> None:
    file = run.path / "manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["settings"]["calibration_contents_sha256"]
    file.write_text(json.dumps(manifest))
    (run.path / "study.log").unlink()
    assert main(inputs.search(run.path, "--max-latency", "0.95x")) == 0


# ---- D13: locks of the dead


def test_locks_of_dead_workers_go_when_the_next_one_comes(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from trex.store.locks import FileLocks\n"
        "FileLocks(Path(sys.argv[1])).hold('worker-dead'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path)]).returncode == -9
    assert [path.name for path in tmp_path.iterdir()] == ["worker-dead"]
    living, locks = FileLocks(tmp_path), FileLocks(tmp_path)
    living.hold("worker-living")
    locks.hold("worker-new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["worker-living", "worker-new"]
    assert locks.is_held("worker-living")
    for held in (living, locks):
        held.close()
    assert list(tmp_path.iterdir()) == []


# ---- D15: spreadsheets, and a winner that is made again


def test_no_cell_of_a_table_is_a_formula() -> None:
    cells = ("=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", " =1", "-", "-0.5", "+3e-4")
    head, row = csv.reader(io.StringIO(as_csv(cells, [cells])))
    assert [cell.startswith("'") for cell in row] == [True] * 6 + [False] * 3
    assert row[6:] == ["", "-0.5", "+3e-4"]
    assert head[:6] == row[:6]


@pytest.mark.parametrize("damage", ["gone", "flipped", "cut", "config"])
def test_a_damaged_winner_is_made_again(damage: str, run: Run, inputs: Inputs) -> None:
    file = run.best / ("config.json" if damage == "config" else "model.safetensors")
    whole = (run.best / "model.safetensors").read_bytes()
    if damage == "gone":
        file.unlink()
    elif damage == "flipped":
        flip(file, -100)
    else:
        file.write_bytes(file.read_bytes()[:-100])
    assert main(inputs.search(run.path, "--max-latency", "0.95x")) == 0
    assert (run.best / "model.safetensors").read_bytes() == whole


# ---- paths


def test_a_run_is_read_from_any_folder(
    inputs: Inputs, tmp_path: Path, monkeypatch, refused
) -> None:
    shutil.copyfile(inputs.weights, tmp_path / "weights.safetensors")
    shutil.copytree(inputs.calib, tmp_path / "calib")
    (tmp_path / "classes.txt").write_text("ant\nbee\ncat\ndog\n")
    monkeypatch.chdir(tmp_path)
    given = ["--weights", "weights.safetensors", "--calib", "calib", "--class-map", "classes.txt"]
    assert main([*inputs.search(Path("run")), *given]) == 0
    manifest = Run(tmp_path / "run").read_json("manifest.json")
    for name, file in (
        ("weights_source", "weights.safetensors"),
        ("calibration", "calib"),
        ("class_map", "classes.txt"),
    ):
        assert manifest[name] == str(tmp_path / file)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["export", "../run", "--out", "out"]) == 0
    (tmp_path / "weights.safetensors").unlink()
    told = refused("export", "../run", "--out", "out2")
    assert "weights.safetensors, which ../run was made with, is not there" in told
    assert "--weights" in told


def test_class_maps_are_text_and_never_unpickled(inputs: Inputs, tmp_path: Path, refused) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "ran"),)

    (tmp_path / "classes.pkl").write_bytes(pickle.dumps(Evil()))
    told = refused(*inputs.search(tmp_path / "run"), "--class-map", tmp_path / "classes.pkl")
    assert "is not a class map" in told
    assert not (tmp_path / "ran").exists()


def test_no_password_is_kept(inputs: Inputs, tmp_path: Path, monkeypatch) -> None:
    url = "postgresql://me:se-cret@localhost:1/x"
    monkeypatch.setattr(sys, "argv", ["trex", "search", "--storage", url])
    assert main(inputs.fit(tmp_path / "run", "3~1")) == 0
    command = Run(tmp_path / "run").manifest().command
    assert command == ["trex", "search", "--storage", "postgresql://me:***@localhost:1/x"]
