"""Whole searches in the joint space, on a tiny model and images of noise."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_runs import Inputs, interrupted_search, plain_records, results

import trex
from trex.cli import main
from trex.exporters.bundle import load_config
from trex.plan import Plan
from trex.reuse import plan_of
from trex.search.strategies import Chosen, Exact, Task
from trex.store.ranking import best_record
from trex.store.run import Run

#: of four patches one or two merge at a time, and two or one rows are left of them
JOINT = (
    "--space", "joint", "--merge-step", "0.25", "--most-merged", "0.5",
    "--row-shares", "0.5", "0.25", "--evaluations", "9",
)  # fmt: skip
EVALUATED = 9


@pytest.fixture(scope="module")
def undisturbed(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "joint"
    assert main(inputs.search(out, *JOINT)) == 0
    return Run.open(out)


def weights_of_best(run: Run) -> str:
    return str(load_config(run.best)["weights_sha256"])


def test_measured_plans_are_within_the_budget_and_the_space(undisturbed: Run) -> None:
    manifest, records = undisturbed.read_json("manifest.json"), plain_records(undisturbed)
    limit = 0.8 * manifest["baseline"]["latency_s"]
    assert len(records) == len({record["key"] for record in records}) == EVALUATED
    assert manifest["space_size"] > 10**5
    for record in records:
        plan = Plan.parse(record["plan"])
        assert plan.key == record["key"]
        assert record["estimate"]["latency_s"] <= limit * (1 + 1e-9)
        assert plan.at(5).class_rows  # no other row of the last encoder is read
        assert {merge.pairs for merge in plan.merges} <= {1, 2}
        assert sum(merge.pairs for merge in plan.merges) <= 3
        assert record["ranked_on"] == "loss"
        assert record["selection"]["loss"] >= 0
        assert record["predicted_loss"] >= 0
    done = [Plan.parse(record["plan"]) for record in records]
    assert any(plan.merges or len(plan.rows) > 1 for plan in done)


def test_the_prediction_of_the_first_plan_is_proved(undisturbed: Run) -> None:
    proof = undisturbed.read_json("proof.json")
    assert proof["proved"]
    least = min(record["predicted_loss"] for record in plain_records(undisturbed))
    assert proof["predicted_loss"] == pytest.approx(least)
    assert proof["bound"] <= least * (1 + 1e-9)


def test_the_best_are_confirmed_on_images_of_their_own(undisturbed: Run) -> None:
    records = plain_records(undisturbed)
    fitted = sorted(records, key=lambda record: record["selection"]["loss"])
    confirmed = [record for record in records if "confirmed" in record]
    assert {r["key"] for r in confirmed} == {r["key"] for r in fitted[: len(confirmed)]}
    assert 1 < len(confirmed) < len(records)
    for record in confirmed:
        assert record["confirmed"]["n"] < 16
        assert record["confirmed"]["loss"] != record["selection"]["loss"]
    winner = best_record(undisturbed.records())
    assert "confirmed" in winner.later
    best = undisturbed.read_json("best/best.json")
    assert (best["key"], best["plan"]) == (winner.key, winner.plan)
    assert plan_of(trex.load(undisturbed.best)) == winner.parsed


def test_the_best_plan_s_producers_are_solved_where_that_loses_less(
    inputs: Inputs, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    more = (*JOINT[:6], "--only", "merging", "--max-latency", "0.95x")
    assert main(inputs.search(out, *more)) == 0
    run = Run.open(out)
    best = run.read_json("best/best.json")
    tried = {float(share): loss for share, loss in best["producers"].items()}
    assert tried.keys() == {0.0, 0.5, 1.0}
    record = run.record(best["key"])
    assert record is not None
    assert tried[0.0] == pytest.approx(record.selection.loss)
    kept = load_file(run.best / "model.safetensors")
    original = load_file(inputs.weights)
    share = min(tried, key=lambda of: (tried[of], of))
    first = Plan.parse(best["plan"]).first_changed
    for index in range(6):
        name = f"blocks.{index}.attn.proj.weight"
        assert torch.equal(kept[name], original[name]) == (share == 0 or index <= first), index


@pytest.mark.parametrize("recorded", [0, 2, 5, 8])
def test_an_interrupted_search_goes_on_to_the_same_end(
    recorded: int, inputs: Inputs, undisturbed: Run, tmp_path: Path, monkeypatch, capsys
) -> None:
    out = tmp_path / "run"
    assert interrupted_search(inputs.search(out, *JOINT), recorded, monkeypatch) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert len(plain_records(Run.open(out))) == recorded
    assert main(inputs.search(out, *JOINT)) == 0
    assert results(Run.open(out)) == results(undisturbed)
    assert weights_of_best(Run.open(out)) == weights_of_best(undisturbed)


def test_damaged_predictions_are_named_and_made_again(
    inputs: Inputs, undisturbed: Run, tmp_path: Path, capsys
) -> None:
    shutil.copytree(undisturbed.path, tmp_path / "run")
    file = tmp_path / "run" / "surrogate.json"
    for text in ('{"schema": 3, "choice": [1]}', '{"schema": 3, "correlation": []}'):
        file.write_text(text)
        assert main(inputs.search(tmp_path / "run", *JOINT)) == 2
        told = capsys.readouterr().err
        assert "surrogate.json is damaged" in told
        assert "Traceback" not in told
    file.unlink()
    assert main(inputs.search(tmp_path / "run", *JOINT)) == 0
    assert file.read_bytes() == (undisturbed.path / file.name).read_bytes()


def test_workers_end_with_the_records_of_one(
    inputs: Inputs, undisturbed: Run, tmp_path: Path
) -> None:
    assert main(inputs.search(tmp_path / "run", *JOINT, "--workers", "2")) == 0
    run = Run.open(tmp_path / "run")
    assert results(run) == results(undisturbed)
    assert weights_of_best(run) == weights_of_best(undisturbed)
    surrogate = "surrogate.json"
    assert (run.path / surrogate).read_bytes() == (undisturbed.path / surrogate).read_bytes()


def searched(inputs: Inputs, out: Path, *flags: str) -> list[Plan]:
    """The plans that a search measured."""
    assert main(inputs.search(out, *JOINT[:-2], "--evaluations", "4", *flags)) == 0
    return [Plan.parse(record["plan"]) for record in plain_records(Run.open(out))]


def shares_rows(plan: Plan) -> bool:
    return any(rows.rows != "class" for rows in plan.rows)


def test_merging_alone(inputs: Inputs, tmp_path: Path) -> None:
    plans = searched(inputs, tmp_path / "run", "--only", "merging", "--max-latency", "0.97x")
    assert len(plans) == 4
    assert all(plan.merges and not plan.reuses and not shares_rows(plan) for plan in plans)


def test_rows_alone(inputs: Inputs, tmp_path: Path) -> None:
    plans = searched(inputs, tmp_path / "run", "--only", "rows", "--max-latency", "0.97x")
    assert len(plans) == 4
    assert all(shares_rows(plan) and not plan.reuses and not plan.merges for plan in plans)


def test_tokens_are_kept(inputs: Inputs, tmp_path: Path) -> None:
    plans = searched(inputs, tmp_path / "run", "--keep-tokens")
    assert len(plans) == 4
    assert not any(plan.merges for plan in plans)
    assert any(plan.reuses or shares_rows(plan) for plan in plans)


def test_reuse_alone_is_the_papers_space(inputs: Inputs, tmp_path: Path) -> None:
    flags = [*inputs.search(tmp_path / "run"), "--only", "reuse"]
    at = flags.index("--space")
    del flags[at : at + 2]
    assert main(flags) == 0
    run = Run.open(tmp_path / "run")
    assert run.read_json("manifest.json")["space_size"] == 2**5
    for record in plain_records(run):
        plan = Plan.parse(record["plan"])
        assert plan == Plan.nearest(plan.consumers)


def test_a_quick_search_measures_less(inputs: Inputs, tmp_path: Path, capsys) -> None:
    flags = inputs.search(tmp_path / "run", *JOINT[:-2], "--quick", "--json")
    at = flags.index("--evaluations")
    del flags[at : at + 2]
    assert main(flags) == 0
    result = json.loads(capsys.readouterr().out)
    settings = Run.open(tmp_path / "run").read_json("manifest.json")["settings"]["search"]
    assert result["candidates"]["evaluated"] == settings["evaluations"] < 32
    assert settings["surrogate_images"] < 240


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--merge-step", "2"), "merging.step: 2.0 is not allowed"),
        (("--row-shares", "0"), "rows.shares.0: 0.0 is not allowed"),
        (("--merge-encoders", "9"), "names encoder 9, but test_vit has 6 encoders"),
        (("--space", "default", "--only", "rows"), "rows: is not in the space"),
    ],
)
def test_contradictions_are_refused(
    inputs: Inputs, tmp_path: Path, capsys, flags: tuple[str, ...], message: str
) -> None:
    assert main(inputs.search(tmp_path / "run", "--space", "joint", *flags)) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "hint: " in printed
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("limit", ["--max-latency", "--max-edap"])
def test_nothing_fits(inputs: Inputs, tmp_path: Path, capsys, limit: str) -> None:
    flags = inputs.search(tmp_path / "run", *JOINT, "--max-latency", "9x", limit, "0.01x")
    assert main(flags) == 3
    printed = capsys.readouterr().err
    assert "plans fits the budget; the nearest is" in printed
    assert not (tmp_path / "run").exists()


def test_where_the_budget_asks_for_many_consumers_triples_are_measured(
    inputs: Inputs, undisturbed: Run, tmp_path: Path
) -> None:
    searched(
        inputs, tmp_path / "area", *JOINT, "--max-area", "0.85x", "--like", str(undisturbed.path)
    )
    run = Run.open(tmp_path / "area")
    assert run.read_json("surrogate.json")["triples_measured"]
    assert all(record.n_reuse >= 3 for record in run.records())
    assert len({Plan.parse(record.plan).consumers for record in run.records()}) > 1


def test_few_consumers_need_no_triples(inputs: Inputs, tmp_path: Path) -> None:
    searched(inputs, tmp_path / "few", *JOINT, "--max-reuse", "2", "--quick")
    assert not Run.open(tmp_path / "few").read_json("surrogate.json")["triples_measured"]


def test_a_search_goes_on_where_an_earlier_version_chose_other_plans(
    inputs: Inputs, undisturbed: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "again"
    shutil.copytree(undisturbed.path, out)
    choose = Exact.choose
    chosen: list[Plan] = []

    def otherwise(self: Exact, task: Task) -> Chosen:
        found = choose(self, task)
        chosen[:] = found.plans[::-1]
        return replace(found, plans=tuple(chosen))

    monkeypatch.setattr(Exact, "choose", otherwise)
    assert main(inputs.search(out, *JOINT)) == 0
    measured = {record.key for record in Run.open(out).records()}
    assert {plan.key for plan in chosen[:3]} | {r.key for r in undisturbed.records()} <= measured
