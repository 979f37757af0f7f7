"""Searches priced by a measured machine, whose finalists are timed whole."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from measured_devices import Clockwork, write_machine
from small_runs import Inputs, write_inputs

from trex.cli import main
from trex.search.pareto import cost_front
from trex.store.ranking import furthest_first
from trex.store.run import Run


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_machine(tmp_path_factory.mktemp("device") / "my_cpu")


def flags(inputs: Inputs, machine: Path, out: Path, *more: str) -> list[str]:
    given = inputs.search(out, *more)
    given[given.index("--hw") + 1] = str(machine)
    return given


def timed(patch: pytest.MonkeyPatch, *shares: float) -> Clockwork:
    clock = Clockwork(*shares)
    patch.setattr("trex.search.timed.interleaved", clock)
    return clock


def summary_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return found


def test_the_next_plan_that_holds_the_limit_wins_and_that_is_said(
    inputs: Inputs, machine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out = tmp_path / "run"
    clock = timed(monkeypatch, 0.83, 0.79)
    command = flags(inputs, machine, out, "--eval", str(inputs.labelled))
    assert main(command) == 0
    table, told = capsys.readouterr()
    summary, run = summary_of(out), Run.open(out)
    ranked = furthest_first(run.records())
    assert clock.names == [[record.key for record in ranked[:4]]]
    assert summary["best"]["key"] == ranked[1].key
    assert run.read_json("best/best.json")["plan"] == ranked[1].plan
    timings = summary["timings"]
    assert timings["chosen"] == ranked[1].key
    first, second = timings["rows"][:2]
    assert (first["holds"], second["holds"]) == (False, True)
    assert first["ratio"]["median"] == pytest.approx(0.83)
    assert first["predicted_ratio"] <= 0.8 + 1e-9
    predicted = first["predicted_s"] / summary["baseline"]["latency_s"]
    assert first["predicted_ratio"] == pytest.approx(predicted)
    assert (timings["batch"], timings["threads"], timings["runtime"]) == (2, 1, "eager")
    assert "passed over: 1 plan that would lose less" in table
    assert "are not ranked by latency" in table
    paths = (str(run.path), str(inputs.labelled))
    lines = [line for line in table.splitlines() if not any(path in line for path in paths)]
    assert [line for line in lines if len(line) > 100] == []
    assert f"{first['plan']} is beyond the limit when timed whole" in told
    # what nobody measured stands nowhere as a number
    for price in (summary["baseline"], *(record.estimate.as_json() for record in run.records())):
        assert (price["basis"], price["accounting"], price["spread"]) == (
            "measured", "measured", 0.02,
        )  # fmt: skip
        assert [price[n] for n in ("energy_j", "area_m2", "edap_mj_ms_mm2")] == [None] * 3
    assert not {"uJ", "mm2", "EDAP"} & set(table.split())
    assert summary["front"]["objectives"] == ["top1", "latency_s"]

    # going on times nothing again
    timed(monkeypatch).__dict__["names"] = None  # a call would fail
    (out / "summary.json").unlink()
    assert main(command) == 0
    assert summary_of(out)["timings"] == timings
    capsys.readouterr()
    # a run of a machine is shown, listed, reported
    assert main(["runs", "show", str(out)]) == 0
    assert "timed whole on this machine" in capsys.readouterr().out
    assert main(["runs", "list", str(tmp_path)]) == 0
    assert "faster" in capsys.readouterr().out
    assert main(["report", str(out), "--json"]) == 0
    page = Path(json.loads(capsys.readouterr().out)["page"]).read_text()
    assert "predicted by my_cpu, a measured machine" in page
    assert "Timed whole on my_cpu" in page
    assert "EDAP" not in page.split("<script>")[0].split("</style>")[1]
    # other commands refuse nothing
    assert main(["runs", "prune", str(out), "--yes"]) == 0
    assert main(["export", str(out), "--out", str(tmp_path / "bundle")]) == 0


def test_nothing_that_holds_is_no_answer(
    inputs: Inputs, machine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    clock = timed(monkeypatch, *[0.85, 0.81, 0.9] * 10)
    out = tmp_path / "run"
    assert main(flags(inputs, machine, out)) == 3
    error = capsys.readouterr().err
    assert "is within latency <= 0.8x when the whole model is timed" in error
    assert "measured 3.24 ms, 0.810x of the original" in error
    measured = [name for names in clock.names for name in names]
    assert len(measured) == len(set(measured)) == len(Run.open(out).records())
    assert not (out / "best").exists()


def test_an_absolute_limit_is_held_to_milliseconds(
    inputs: Inputs, machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed(monkeypatch, 0.61, 0.59)
    command = flags(inputs, machine, tmp_path / "run")
    command[command.index("--max-latency") + 1] = "2.4ms"  # the clock's original takes 4 ms
    assert main(command) == 0
    rows = summary_of(tmp_path / "run")["timings"]["rows"]
    assert [row["holds"] for row in rows[:2]] == [False, True]


def test_finalists_are_timed_before_they_are_trained(
    inputs: Inputs, machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = timed(monkeypatch, 0.85, 0.7, 0.7)
    out = tmp_path / "run"
    rungs = ["--finetuned-candidates", "1", "--finetune-images", "4"]
    assert main(flags(inputs, machine, out, *rungs)) == 0
    assert len(clock.names) == 1
    trained = [r for r in Run.open(out).records() if "finetuned-1" in r.later]
    rows = {row["key"]: row for row in summary_of(out)["timings"]["rows"]}
    assert [rows[record.key]["holds"] for record in trained] == [True]
    assert summary_of(out)["finetuned"]["plan"] == trained[0].plan


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--max-energy", "0.8x"], "its energy is not"),
        (["--max-area", "600mm2"], "its area is not"),
        (["--max-edap", "0.5x"], "its edap is not"),
        (["--accounting", "full"], "which has no --accounting"),
        (["--img-size", "48"], "was measured with test_vit, not with test_vit as"),
    ],
    ids=str,
)
def test_what_a_machine_does_not_know_is_refused(
    more: list[str], message: str, inputs: Inputs, machine: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "run"
    assert main(flags(inputs, machine, out, *more)) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"machine": {"processor": "abacus", "system": "none"}}, "was measured on abacus, none"),
        ({"threads": 4096}, "was measured with 4096 threads; here are"),
    ],
    ids=str,
)
@pytest.mark.parametrize("command", ["search", "cost", "compare"])
def test_another_machine_is_refused_unless_forced(
    command: str, changes: dict[str, Any], message: str, inputs: Inputs, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    machine = write_machine(tmp_path / "theirs", **changes)
    model = [*inputs.model_flags()]
    del model[2:4]  # --weights, which only measuring needs
    given = {
        "search": flags(inputs, machine, tmp_path / "run"),
        "cost": ["cost", *model, "--hw", str(machine), "--plan", "2<-1"],
        "compare": ["compare", *model, "--hw", str(machine), "--max-latency", "0.9x"],
    }[command]
    assert main(given) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "--force" in error
    if command != "search":  # which would time finalists here
        assert main([*given, "--force"]) == 0
        assert message in capsys.readouterr().err


def test_comparisons_on_a_machine_price_plans_alone(
    inputs: Inputs, machine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = [*inputs.model_flags()]
    del model[2:4]
    command = [
        "compare", *model, "--hw", str(machine), "--max-latency", "0.9x", "--plan", "2<-1 4<-3",
        "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    assert main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["basis"], told["accounting"]) == ("measured", "measured")
    rows = {row["method"]: row for row in told["rows"]}
    for row in rows.values():
        if (price := row["estimate"]) is not None:
            assert price["basis"] == "measured"
            assert price["energy_j"] is price["area_m2"] is price["edap_mj_ms_mm2"] is None
            assert price["edap_gain"] is None
    assert rows["tome"]["estimate"]["latency_ratio"] < 1.0
    assert "was measured with plans, and this is none" in rows["evit"]["note"]
    assert rows["depth_first_softmax"]["group"] == "unpriced"
    others = [row for row in told["rows"] if row["method"] == "backbones"]
    assert others
    assert all("was measured with test_vit alone" in row["note"] for row in others)
    assert main(command) == 0
    table = capsys.readouterr().out
    assert "fastest within the limit" in table
    assert "are not ranked. Energy and area: nobody measured" in table
    assert max(map(len, table.splitlines())) <= 100
    head = (tmp_path / "out" / "compare.csv").read_text().splitlines()[0]
    assert "energy" not in head
    assert "speed-up (predicted by a measured machine)" in head


def test_a_front_ranks_nothing_closer_than_the_spread() -> None:
    costs, losses = [0.60, 0.61, 0.70, 0.71], [0.5, 0.4, 0.2, 0.1]
    assert cost_front(costs, losses) == [0, 1, 2, 3]
    assert cost_front(costs, losses, 0.03) == [1, 3]
    assert cost_front(costs, losses, 0.5) == [3]
    assert cost_front([1.0, 1.0 + 1e-12], [0.1, 0.1], 0.02) == [0]
    rng = np.random.default_rng(0)
    costs, losses = rng.random(50).tolist(), rng.random(50).tolist()
    front = cost_front(costs, losses, 0.05)
    kept = [costs[i] for i in front]
    assert all(b - a > 0.05 * a for a, b in itertools.pairwise(kept))
    assert min(losses) == losses[front[-1]]
