"""A search that is killed at random moments ends as if it had not been."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
from small_runs import Inputs, results

from trex.cli import main
from trex.exporters.bundle import load_config
from trex.store.run import Run

RUNGS = ["--refined-candidates", "3", "--finetuned-candidates", "3", "2"]
RUNGS += ["--finetune-images", "8", "20"]
FORK = multiprocessing.get_context("fork")
# Python 3.12 and later warn of forking beside threads: torch's hold no lock that a child needs.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.fixture(scope="module")
def undisturbed(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, float]:
    """A search of one worker, and how long it took."""
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    started = time.monotonic()
    assert main(inputs.search(out, *RUNGS)) == 0
    return Run.open(out), time.monotonic() - started


@pytest.mark.parametrize("workers", ["1", "2"])
def test_killed_at_random_moments(
    workers: str, inputs: Inputs, undisturbed: tuple[Run, float], tmp_path: Path
) -> None:
    expected, duration = undisturbed
    out, moments = tmp_path / "run", random.Random(workers)
    command = inputs.search(out, *RUNGS, "--workers", workers)
    for _ in range(3):
        search = FORK.Process(target=main, args=(command,))
        search.start()
        time.sleep(moments.uniform(0.05, 0.9) * duration)
        assert search.pid is not None
        os.kill(search.pid, signal.SIGKILL)
        search.join()
    assert main(command) == 0
    ended = Run.open(out)
    assert results(ended) == results(expected)
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    told = {(line["key"], line.get("rung", {"rung": "fitted"})["rung"]) for line in lines}
    assert len(told) == len(lines) == 5 + 3 + 3 + 2
    for folder in ("best", "finetuned"):
        ended_with, expected_with = (
            load_config(run.path / folder)["weights_sha256"] for run in (ended, expected)
        )
        assert ended_with == expected_with
