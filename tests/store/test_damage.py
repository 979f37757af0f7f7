"""What is damaged or missing in a run folder is found, named, and where possible made again."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from disks import files_of_at_most
from small_runs import Inputs

from trex.cli import main
from trex.store.run import Run


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
    record = next(r for r in run.records() if "linear" in r["plan"] or r["transform"] == "linear")
    flip(run.candidates / f"{record['key']}.safetensors", -100)
    pick = ("--pick", record["plan"])
    assert "is damaged" in refused("export", run.path, "--out", tmp_path / "out", *pick)
    assert not (tmp_path / "out").exists()
    assert "is damaged" in refused("evaluate", run.path, "--data", inputs.labelled, *pick)
    assert "is damaged" in refused("check", run.path)


def test_parameters_of_another_candidate_are_refused(run: Run, refused) -> None:
    one, other = (run.candidates / f"{r['key']}.safetensors" for r in run.records()[:2])
    shutil.copyfile(one, other)
    assert "holds the tensors of" in refused("check", run.path)


# ---- D4, D5: what interrupted writers leave


def test_an_export_that_met_a_full_disk_can_be_run_again(run: Run, tmp_path: Path, capsys) -> None:
    export = ["export", str(run.path), "--out", str(tmp_path / "out")]
    with files_of_at_most(10_000):
        assert main(export) == 1
    assert "cannot be written" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    assert main(export) == 0


def test_an_export_that_was_killed_can_be_run_again(run: Run, tmp_path: Path) -> None:
    export = ["export", str(run.path), "--out", str(tmp_path / "out")]
    script = (
        "import os, signal, sys\nimport trex.export.bundle as bundle\nfrom trex.cli import main\n"
        "bundle.load_bundle = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "main(sys.argv[1:])"
    )
    assert subprocess.run([sys.executable, "-c", script, *export]).returncode == -9
    assert not (tmp_path / "out").exists()
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
