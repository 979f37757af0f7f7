"""Whatever ends a command, the same command goes on to the same end, and leaves nothing behind.

The short form kills a few times. `make campaign` kills often: TREX_KILLS says how often in all,
TREX_KILLS_SEED where random numbers begin.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from disks import files_of_at_most
from kills import FORK, WAYS, drop_capabilities, kill_after, kill_at_write, run_to_the_end
from small_runs import Inputs, results

from trex.cli import main
from trex.exporters.bundle import load_config
from trex.store.run import Run

KILLS = int(os.environ.get("TREX_KILLS", "4"))
SEED = int(os.environ.get("TREX_KILLS_SEED", "0"))
RUNGS = ["--refined-candidates", "2", "--finetuned-candidates", "2", "--finetune-images", "8"]
# Python 3.12 and later warn of forking beside threads: torch's hold no lock that a child needs.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def search(inputs: Inputs, out: Path) -> list[str]:
    return inputs.search(out, *RUNGS, "--max-latency", "0.95x")


@pytest.fixture(scope="module")
def undisturbed(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A finished search, and how long it took."""
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    started = time.monotonic()
    assert run_to_the_end(main, search(inputs, out)) == 0
    return out, time.monotonic() - started


def end_of(run: Path) -> tuple[object, ...]:
    """What a search found, but for the time it took."""
    hashes = [load_config(run / name)["weights_sha256"] for name in ("best", "finetuned")]
    keys = sorted(path.name for path in (run / "candidates").iterdir())
    lines = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    told = sorted((line["key"], line.get("rung", {"rung": ""})["rung"]) for line in lines)
    assert len(set(told)) == len(told), "a record is there twice"
    return results(Run.open(run)), hashes, keys, told


def left_in(folder: Path) -> list[str]:
    found = [*folder.rglob(".*.tmp"), *folder.glob(".locks/worker-*")]
    return [str(path.relative_to(folder)) for path in found]


def writes() -> Iterator[tuple[int, str]]:
    """Write numbers and ways, at random: most writes are among the first thirty."""
    numbers = random.Random(SEED)
    while True:
        yield numbers.randint(1, 30), numbers.choice(WAYS)


def test_a_search_that_is_killed_again_and_again(
    inputs: Inputs, undisturbed: tuple[Path, float], tmp_path: Path
) -> None:
    expected, duration = undisturbed
    moments, killed, done = random.Random(SEED), 0, 0
    for number, way in writes():
        if killed >= KILLS:
            break
        out = tmp_path / f"run{done}"
        command = search(inputs, out)
        for _ in range(3):
            if moments.random() < 0.5:
                killed += kill_at_write(main, command, number, way)
            else:
                killed += kill_after(main, command, moments.uniform(0, duration))
        assert run_to_the_end(main, command) == 0
        assert end_of(out) == end_of(expected)
        assert left_in(out) == []
        shutil.rmtree(out)
        done += 1
    print(f"searches: {killed} kills of {done} runs")


@pytest.mark.parametrize("verb", ["export", "evaluate", "report", "finetune"])
def test_other_commands_that_are_killed(
    verb: str, inputs: Inputs, undisturbed: tuple[Path, float], tmp_path: Path
) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    shutil.copytree(undisturbed[0], run)
    command = {
        "export": ["export", str(run), "--out", str(out)],
        "evaluate": ["evaluate", str(run), "--data", str(inputs.labelled)],
        "report": ["report", str(run), "--out", str(out)],
        "finetune": ["finetune", str(run), "--data", str(inputs.calib), "--out", str(out),
                     "--set", "epochs=1", "--set", "batch_size=8", "--set", "micro_batch=8",
                     "--set", "schedule.warmup_epochs=0", "--set", "checkpoints.steps=1"],
    }[verb]  # fmt: skip
    wanted, killed = max(1, KILLS // 10), 0
    numbers = random.Random(SEED)
    for _ in range(wanted):
        for way in WAYS:
            # an evaluation writes one line, the others several files
            number = 1 if verb == "evaluate" else numbers.randint(1, 3)
            killed += kill_at_write(main, command, number, way)
        assert run_to_the_end(main, command) == 0
        assert left_in(tmp_path) == []
        if verb == "evaluate":
            for line in (run / "evaluations.jsonl").read_text().splitlines():
                assert json.loads(line)["pick"] == "best"
        shutil.rmtree(out, ignore_errors=True)
    print(f"{verb}: {killed} kills")
    assert killed


@pytest.mark.parametrize("size", [0, 300, 3_000, 30_000])
def test_a_full_disk(size: int, inputs: Inputs, undisturbed: tuple[Path, float], tmp_path) -> None:
    out = tmp_path / "run"
    with files_of_at_most(size):
        assert run_to_the_end(main, search(inputs, out)) == 1
    assert not out.exists() or left_in(out) == []
    if size == 3_000:
        assert run_to_the_end(main, search(inputs, out)) == 0
        assert end_of(out) == end_of(undisturbed[0])


def test_two_processes_in_one_folder(
    inputs: Inputs, undisturbed: tuple[Path, float], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    both = [FORK.Process(target=main, args=(search(inputs, out),)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
        assert process.exitcode == 0
    assert end_of(out) == end_of(undisturbed[0])
    assert left_in(out) == []


def test_a_clock_that_jumps(
    inputs: Inputs, undisturbed: tuple[Path, float], tmp_path: Path
) -> None:
    jumps = itertools.cycle((0.0, 4e8, -4e8, 1.0))
    real, out = time.time, tmp_path / "run"

    def jumping(command: list[str]) -> int:
        time.time = lambda: real() + next(jumps)
        return main(command)

    assert run_to_the_end(jumping, search(inputs, out)) == 0
    assert end_of(out) == end_of(undisturbed[0])


def test_a_run_that_may_only_be_read(inputs: Inputs, undisturbed: tuple[Path, float]) -> None:
    folder = Path(tempfile.mkdtemp(prefix="trex-read-only-"))
    try:
        shutil.copytree(undisturbed[0], folder / "run")
        shutil.copytree(inputs.weights.parent, folder / "inputs")
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        weights = folder / "inputs" / "weights.safetensors"
        given = ["--weights", str(weights)]

        def without_rights(command: list[str]) -> int:
            drop_capabilities()
            return main(command)

        moved = Inputs(weights=weights, calib=folder / "inputs" / "calib", labelled=weights)
        data = str(folder / "inputs" / "labelled")
        before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
        for command, code in (
            (["evaluate", str(folder / "run"), "--data", data, *given], 0),
            (["check", str(folder / "run")], 0),
            (["runs", "list", str(folder)], 0),
            (["report", str(folder / "run")], 1),
            (["export", str(folder / "run"), "--out", str(folder / "out"), *given], 1),
            (search(moved, folder / "run"), 1),
            (search(moved, folder / "other"), 1),
        ):
            assert run_to_the_end(without_rights, command) == code, command
        assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before
    finally:
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)
        shutil.rmtree(folder)
