"""What is damaged or missing in a run folder is found, named, and where possible made again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
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
