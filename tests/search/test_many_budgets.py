"""Several searches that share passes, and probes taken from another run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small_runs import Inputs, plain_records

from trex.api import budgets
from trex.cli import main
from trex.errors import InfeasibleError
from trex.store.record import Estimate, Measured
from trex.store.run import Run
from trex.store.schemas import Budgets, Short, Summary

JOINT = ("--space", "joint", "--evaluations", "3", "--final-views", "0", "--refine-rounds", "0")


def command(inputs: Inputs, out: Path, *more: str) -> list[str]:
    """A search whose limit is left to `more`."""
    flags = inputs.search(out, *JOINT, *more)
    at = flags.index("--max-latency")
    return [*flags[:at], *flags[at + 2 :]]


def test_several_limits_share_the_pass_and_the_probes(
    inputs: Inputs, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "many"
    assert main(command(inputs, out, "--budgets", "0.9x", "0.7x", "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["limit"] for one in told["searches"]] == ["0.9x", "0.7x"]
    assert (told["chosen"], told["max_drop"], told["minimized"]) == (None, None, "latency")
    runs = [Run.open(out / limit) for limit in ("0.9x", "0.7x")]
    for run, one, share in zip(runs, told["searches"], (0.9, 0.7), strict=True):
        assert one["run"] == str(run.path)
        limit = share * one["baseline"]["latency_s"] * (1 + 1e-9)
        assert all(record["estimate"]["latency_s"] <= limit for record in plain_records(run))
        assert one["proof"]["bound"] <= one["proof"]["predicted_loss"]
    first, second = (run.read_json("surrogate.json") for run in runs)
    for name in ("triples_measured", "triples", "added"):  # where a limit asks for triples
        first.pop(name), second.pop(name)
    assert first == second
    spent = [one["spent"].keys() for one in told["searches"]]
    assert {"original", "surrogate"} <= spent[0]
    assert not {"original", "surrogate"} & spent[1]
    assert "candidates" in spent[1]
    assert json.loads((out / "budgets.json").read_text())["searches"][1]["limit"] == "0.7x"


def test_the_first_of_several_is_what_a_search_alone_finds(inputs: Inputs, tmp_path: Path) -> None:
    assert main(command(inputs, tmp_path / "many", "--budgets", "0.8x", "0.7x")) == 0
    assert main(command(inputs, tmp_path / "one", "--max-latency", "0.8x")) == 0
    many, one = (plain_records(Run.open(tmp_path / name)) for name in ("many/0.8x", "one"))
    assert [(r["key"], r["selection"]) for r in many] == [(r["key"], r["selection"]) for r in one]


def test_the_probes_of_another_run(inputs: Inputs, tmp_path: Path, capsys: Any) -> None:
    first, other = tmp_path / "first", tmp_path / "other"
    assert main(command(inputs, first, "--max-latency", "0.8x")) == 0
    flags = command(inputs, other, "--max-energy", "0.7x", "--like", str(first))
    flags[flags.index("trex_fefet_32nm")] = "neurosim_sram_22nm"
    assert main(flags) == 0
    assert Run(other).read_json("surrogate.json") == Run(first).read_json("surrogate.json")
    assert Run(other).fitting() == Run(first).fitting()
    capsys.readouterr()
    flags = command(inputs, tmp_path / "third", "--max-latency", "0.8x", "--like", str(first))
    assert main([*flags, "--keep-tokens"]) == 2
    said = capsys.readouterr().err
    assert "--like" in said
    assert "is of other settings: space" in said
    assert not (tmp_path / "third").exists()


def test_the_cheapest_plan_that_loses_little(inputs: Inputs, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "cheapest"
    assert main(command(inputs, out, "--max-drop", "40", "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    drops = {one.limit: budgets.drop_of(one) for one in Budgets.model_validate(told).searches}
    assert told["chosen"] is not None
    assert drops[told["chosen"]] <= 40
    share = float(told["chosen"][:-1])
    assert all(float(limit[:-1]) >= share for limit, drop in drops.items() if drop <= 40)


def lost(points: float) -> Summary:
    """A search's result, as far as the search for the cheapest reads it."""
    measured = Measured.model_construct(top1=None, baseline_top1=None, agreement=1 - points / 100)
    best = Short.model_construct(selection=measured)
    return Summary.model_construct(best=best, baseline=Estimate.model_construct(spread=None))


@pytest.mark.parametrize("works", [0.3, 0.64, 0.77, 0.95, None])
def test_the_search_for_the_cheapest_closes_in(works: float | None) -> None:
    asked = []

    def search(limit: str) -> Summary:
        share = float(limit[:-1])
        asked.append(share)
        return lost(0.0 if works is not None and share >= works else 50.0)

    found = budgets.closing_in(1.0, search)
    if works is None:
        assert found is None
    else:
        assert found is not None
        assert works <= float(found[:-1]) <= works * 1.04
    assert len(asked) < 14


def test_where_nothing_fits_the_search_for_the_cheapest_says_so() -> None:
    asked = []

    def search(limit: str) -> Summary:
        asked.append(limit)
        raise InfeasibleError(f"none fits {limit}")

    with pytest.raises(InfeasibleError, match=r"none fits 0\.95x"):
        budgets.closing_in(1.0, search)
    assert asked == ["0.64x", "0.8x", "0.95x"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--budgets", "0.8x", "--max-drop", "1"), "--budgets and --max-drop are both given"),
        (("--budgets", "0.8x", "--max-latency", "1ms"), "--max-latency is given"),
        (("--budgets", "4volts"), "4volts"),
        (("--max-drop", "0"), "--max-drop 0 is not between 0 and 100"),
    ],
)
def test_flags_that_contradict_are_refused(
    inputs: Inputs, tmp_path: Path, capsys: Any, flags: tuple[str, ...], message: str
) -> None:
    assert main(command(inputs, tmp_path / "run", *flags)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
