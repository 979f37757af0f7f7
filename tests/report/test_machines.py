"""Real machines in a report: what was timed beside accuracy, what a device predicts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_up_runs import MODEL, RECORDS, write_run

from trex.cli import main

BEST = RECORDS[1]["plan"]


def interval(median: float) -> dict[str, float]:
    return {"median": median, "low": 0.99 * median, "high": 1.01 * median}


def write_bench(file: Path, **changes: Any) -> Path:
    """The original, the run's best plan and another model, timed at one batch."""
    rows = [
        {
            "variant": name, "runtime": runtime, "dtype": dtype, "batch": 8,
            "latency_s": interval(0.1 / faster), "images_per_second": 80 * faster,
            "speedup": interval(faster),
        }
        for runtime, dtype, factor in (("eager", "fp32", 1.0), ("ort", "int8", 2.0))
        for name, faster in ((f"{MODEL} (original)", factor), ("best", 1.5 * factor),
                             ("shvit_s1", 3.0 * factor))
    ]  # fmt: skip
    names = {f"{MODEL} (original)": MODEL, "best": MODEL, "shvit_s1": "shvit_s1"}
    file.write_text(json.dumps({
        "basis": "measured", "machine": {"processor": "abacus", "system": "Linux"},
        "device": "cpu", "threads": 1, "clock": "cpu", "rounds": 5,
        "plans": {**dict.fromkeys(names, ""), "best": BEST}, "models": names, "rows": rows,
        "versions": {}, **changes,
    }))  # fmt: skip
    return file


def page_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["report", *arguments, "--json"]) == 0
    return Path(json.loads(capsys.readouterr().out)["page"]).read_text()


def test_timings_stand_beside_accuracy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    page = page_of(capsys, str(run), "--bench", str(write_bench(tmp_path / "bench.json")))
    assert "Timed with trex bench" in page
    rows = [line for line in page.splitlines() if "<td>eager</td>" in line]
    original, best, other = rows
    assert "<td>1.50x (1.48 to 1.52)</td><td>75.0</td><td>-5.0</td>" in best
    assert 'class="best"' in best
    assert "<td>80.0</td><td>-</td>" in original
    assert other.endswith("<td>-</td><td>-</td></tr>")
    # the run measured floats, so nothing is said of int8
    int8 = [line for line in page.splitlines() if "<td>int8</td>" in line]
    assert all(line.endswith("<td>-</td><td>-</td></tr>") for line in int8)
    table = (run / "report" / "tables" / "run-machine1.csv").read_text()
    assert "latency ms (measured)" in table
    assert "estimate" not in table


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"basis": "estimate"}, "is damaged: basis"),
        ({"rows": []}, "is damaged: rows"),
        ({"plans": {"best": "1<-0"}}, "timed the best plan of none of the runs"),
        ({"threads": "1"}, "is damaged: threads"),
    ],
    ids=str,
)
def test_other_files_are_refused(
    changes: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run")
    bench = write_bench(tmp_path / "bench.json", **changes)
    assert main(["report", str(run), "--bench", str(bench)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "trex bench" in error
    assert not (run / "report").exists()


def test_a_chip_is_no_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    assert main(["report", str(run), "--hw", "trex_fefet_32nm"]) == 2
    assert "is a chip" in capsys.readouterr().err
    assert main(["report", str(run), "--bench", str(tmp_path / "none.json")]) == 2
    assert "cannot be read" in capsys.readouterr().err
