"""Spaces and budgets from the command line, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_runs import Inputs, plain_records

from trex.cli import main
from trex.plan import Plan
from trex.store.run import Run


def test_flags_say_what_may_be_chosen(inputs: Inputs, tmp_path: Path, capsys) -> None:
    flags = ("--source", "any", "--tensors", "map", "--transforms", "linear", "none", "--mixed",
             "--consumers", "2", "3", "5", "--max-run", "1", "--max-reuse", "2",
             "--max-latency", "0.95x", "--max-params", "0.99x", "--max-macs", "0.99x")  # fmt: skip
    assert main(inputs.search(tmp_path / "run", *flags, "--json")) == 0
    result = json.loads(capsys.readouterr().out)
    # 2 and 3 never together: three single consumers, and two pairs; two transforms for each;
    # a consumer's sources are the producers before it
    assert result["candidates"]["space"] == 1 + 2 * (2 + 3 + 5) + 4 * (2 * 4 + 3 * 4)
    baseline = result["baseline"]
    for record in plain_records(Run.open(tmp_path / "run")):
        plan = Plan.parse(record["plan"])
        assert set(plan.consumers) <= {2, 3, 5}
        assert {reuse.tensor for reuse in plan.reuses} == {"map"}
        assert plan.n_reuse <= 2
        for name in ("parameters", "macs"):
            assert record["estimate"][name] <= 0.99 * baseline[name] * (1 + 1e-9)


def test_a_space_of_everything_is_searched(inputs: Inputs, tmp_path: Path, capsys) -> None:
    assert main(inputs.search(tmp_path / "run", "--space", "any", "--json")) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["candidates"]["space"] > 10**5
    assert result["candidates"]["evaluated"] == 5


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--source", "all"), "source: 'all' is not allowed"),
        (("--tensors", "maps"), "tensors.0: 'maps' is not allowed"),
        (("--consumers", "0"), "consumers: names encoder 0"),
        (("--consumers", "99"), "consumers: names encoder 99"),
        (("--consumers", "1", "--max-reuse", "0"), "max_reuse: is 0, but consumers are named"),
        (("--max-params", "4ms"), "--max-params '4ms' has the unknown unit 'ms'"),
    ],
)
def test_contradictions_are_refused(
    inputs: Inputs, tmp_path: Path, capsys, flags: tuple[str, ...], message: str
) -> None:
    assert main(inputs.search(tmp_path / "run", *flags)) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "hint: " in printed
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("space", ["default", "any"])
def test_nothing_fits(inputs: Inputs, tmp_path: Path, capsys, space: str) -> None:
    flags = ("--space", space, "--max-params", "0.2x")
    assert main(inputs.search(tmp_path / "run", *flags)) == 3
    printed = capsys.readouterr().err
    assert "plans fits the budget; the nearest is" in printed
    assert "params " in printed
    assert not (tmp_path / "run").exists()
