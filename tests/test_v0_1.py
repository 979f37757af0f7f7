"""What version 0.1 wrote is read: texts, bundles, runs, fine-tunings (tests/data/v0_1)."""

from __future__ import annotations

import json
import lzma
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna import create_trial
from safetensors.torch import load_file
from small_runs import plain_records
from tiny_models import logits_of

import trex
from trex.cli import main
from trex.errors import BundleError, RunError
from trex.exporters.bundle import load_config
from trex.plan import Plan
from trex.report.facts import read_all
from trex.report.finetunings import read_finetuning
from trex.reuse import plan_of
from trex.search.entries import plan_of_trial
from trex.search.pick import load_original, pick_record, pick_variant
from trex.settings import difference
from trex.store.evaluations import stored_evaluations
from trex.store.finetuning import FinetuneFolder
from trex.store.ranking import best_record
from trex.store.run import Run
from trex.stored import current, plan_fields, read_plan, text_of_v0_1

DATA = Path(__file__).parent / "data" / "v0_1"
PLANS: list[dict[str, Any]] = json.loads((DATA / "plans.json").read_text())
BEST = "3<-0:output/block 4<-2"
#: what is in the bundle, and fitted to be compared in the run
OTHER = "3<-0:output/block 4<-2:map/linear"
#: how the run was made; README.md there
SEARCH = [
    "search", "--model", "test_vit", "--weights", "weights.safetensors", "--num-classes", "4",
    "--img-size", "32", "--hw", "trex_fefet_32nm", "--max-latency", "0.77x",
    "--calib", "images/calib", "--eval", "images/labelled", "--out", "run",
    "--evaluations", "10", "--final-views", "1", "--precision", "float32", "--source", "any",
    "--tensors", "output", "map", "--transforms", "linear", "block", "--mixed",
    "--consumers", "3", "4", "5", "--max-reuse", "2", "--refined-candidates", "2",
    "--space", "default",  # which it took unasked
]  # fmt: skip
FINETUNE = [
    "finetune", "run", "--data", "images/calib", "--eval", "images/labelled",
    "--recipe", "recipe.yaml", "--out", "finetuning", "--seed", "1",
]  # fmt: skip


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to work in, unpacked; paths in it begin there."""
    shutil.copytree(DATA, tmp_path, dirs_exist_ok=True)
    for packed in tmp_path.rglob("*.xz"):
        packed.with_suffix("").write_bytes(lzma.decompress(packed.read_bytes()))
        packed.unlink()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(files: Path) -> Run:
    return Run.open(files / "run")


# ---- texts


@pytest.mark.parametrize("old", PLANS, ids=lambda old: old["text"] or "none")
def test_a_plan_keeps_its_key_and_its_text(old: dict[str, Any]) -> None:
    plan = read_plan(old)
    assert plan.key == old["key"]
    assert {str(c): t for c, t in plan.transforms.items()} == old["transforms"]
    assert text_of_v0_1(plan) == text_of_v0_1(Plan.parse(old["text"])) == old["plan"]
    again = current({**old, "remark": 1})
    assert again == {**{k: v for k, v in old.items() if k != "transforms"},
                     "plan": str(plan), "remark": 1}  # fmt: skip
    assert read_plan(plan_fields(plan)) == read_plan(again) == plan


def test_the_public_name_of_plans() -> None:
    assert trex.ReusePlan is trex.Plan is Plan
    assert {"Plan", "ReusePlan", "apply_plan", "remove_plan", "apply_reuse", "remove_reuse",
            "load"} <= set(dir(trex))  # fmt: skip


# ---- bundles


@pytest.mark.parametrize(
    ("folder", "plan"), [("bundle", OTHER), ("run/best", BEST), ("finetuning/bundle", BEST)]
)
def test_bundles_answer_as_they_did(folder: str, plan: str, files: Path) -> None:
    assert json.loads((files / folder / "config.json").read_text())["schema"] == 1
    expected = load_file("expected.safetensors")
    variant = trex.load(files / folder)
    assert plan_of(variant) == Plan.parse(plan)
    assert load_config(files / folder)["plan"] == plan
    torch.testing.assert_close(logits_of(variant, expected["pixels"]), expected[folder],
                               atol=1e-5, rtol=1e-5)  # fmt: skip


def test_a_bundle_turns_its_base_into_the_variant(run: Run) -> None:
    original, _ = load_original(run)
    expected = load_file("expected.safetensors")
    torch.testing.assert_close(logits_of(original.model, expected["pixels"]),
                               expected["original"], atol=1e-5, rtol=1e-5)  # fmt: skip
    variant = trex.load("bundle", original.model)
    torch.testing.assert_close(logits_of(variant, expected["pixels"]), expected["bundle"],
                               atol=1e-5, rtol=1e-5)  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [{"plan": "3<-0 4<-1"}, {"transforms": {"3": "linear", "4": "linear"}}, {"schema": 2}],
    ids=str,
)
def test_a_changed_bundle_is_refused(changes: dict[str, Any], files: Path) -> None:
    file = files / "bundle" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(BundleError, match="was changed after it was written"):
        trex.load("bundle")


# ---- runs


def test_records_are_told_as_they_are_now(run: Run) -> None:
    raw = [json.loads(line) for line in (run.path / "results.jsonl").read_text().splitlines()]
    old = {line["key"]: line for line in raw if "rung" not in line}
    records = plain_records(run)
    assert len(records) == len(old) == 10
    assert len({record["plan"] for record in records}) == 10
    for record in records:
        before = old[record["key"]]
        assert read_plan(record) == read_plan(before)
        assert read_plan(record).key == record["key"]
        assert "transforms" not in record
        assert plan_fields(read_plan(record)) == {k: record[k] for k in plan_fields(Plan())}
        assert (record["selection"], record["estimate"]) == (
            before["selection"], before["estimate"],
        )  # fmt: skip
    assert run.read_json("best/best.json")["plan"] == BEST
    assert sum("refined" in record for record in records) == 2


def test_summaries_name_the_same_plans(run: Run) -> None:
    summary, plans = run.summary(), {record.plan for record in run.records()}
    assert summary is not None
    assert summary.best.plan == BEST
    shorts = [*summary.pareto, *summary.front.points]
    assert shorts
    assert {short.plan for short in shorts} <= plans
    (run.path / "results.jsonl").write_text("")
    with pytest.raises(RunError, match='tells of "3<-0 4<-2", of which there is no record'):
        run.summary()


@pytest.mark.parametrize(
    ("pick", "plan"),
    [
        ("best", BEST),
        ("3<-0 4<-2", BEST),  # of its forms the best
        ("3<-0:output/block 4<-2:output/block", "3<-0:output/block 4<-2:output/block"),
        ("3<-0:map 4<-2", "3<-0:map/linear 4<-2"),
        ("3<-0 4<-2:map", OTHER),
        ("2", BEST),
    ],
)
def test_variants_are_picked(pick: str, plan: str, run: Run) -> None:
    assert pick_record(run, pick).plan == plan
    original, config = load_original(run)
    assert config.input_size == (3, 32, 32)
    text, variant = pick_variant(run, pick, original)
    assert (text, plan_of(variant)) == (plan, Plan.parse(plan))
    if plan == OTHER:
        expected = load_file("expected.safetensors")
        torch.testing.assert_close(logits_of(variant, expected["pixels"]), expected["bundle"],
                                   atol=1e-5, rtol=1e-5)  # fmt: skip


def test_it_is_evaluated_and_exported(files: Path, capsys) -> None:
    before = json.loads((files / "run" / "evaluations.jsonl").read_text())
    flags = ["evaluate", "run", "--data", "images/labelled", "--weights", "weights.safetensors"]
    assert main([*flags, "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["plan"] == BEST
    assert {k: measured[k] for k in ("top1", "baseline_top1", "n", "data_sha256")} == {
        k: before[k] for k in ("top1", "baseline_top1", "n", "data_sha256")
    }
    # the same measurement, once told by 0.1 and once now, is one
    assert [e.plan for e in stored_evaluations(Run(files / "run"))] == [BEST]
    assert main(["export", "run", "--pick", "3<-0:map 4<-2", "--out", "again"]) == 0
    assert load_config(files / "again")["schema"] == 2
    assert load_config(files / "again")["plan"] == "3<-0:map/linear 4<-2"


def test_it_is_listed_shown_and_checked(files: Path, capsys) -> None:
    assert main(["runs", "list", "."]) == 0
    listed = capsys.readouterr().out
    assert "finished" in listed
    assert "fine-tuned" in listed
    assert main(["runs", "show", "run"]) == 0
    assert BEST in capsys.readouterr().out
    assert main(["check", "bundle"]) == 0


def test_a_search_goes_on_in_it(run: Run, capsys) -> None:
    """It keeps what is recorded, and measures plans as 0.1 did; which ones it predicts anew."""
    file = run.path / "results.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    refined = {line["key"] for line in lines if "rung" in line}
    kept = [line for line in lines if line["key"] in refined]
    lost = {line["key"]: line for line in lines if line["key"] not in refined}
    before = "".join(json.dumps(line) + "\n" for line in kept)
    file.write_text(before)
    assert main([*SEARCH, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    after = file.read_text()
    assert after.startswith(before)
    added = [json.loads(line) for line in after.removeprefix(before).splitlines()]
    assert {line["schema"] for line in added} == {3}
    records = {record["key"]: record for record in plain_records(run)}
    assert told["candidates"]["evaluated"] == len(records) >= 10
    again = records.keys() & lost.keys()
    assert len(again) > 2
    for key in again:
        assert records[key]["plan"] == str(read_plan(lost[key]))
        assert records[key]["selection"] == pytest.approx(lost[key]["selection"], rel=1e-4)
        for name, value in lost[key]["estimate"].items():
            assert records[key]["estimate"][name] == (
                value if isinstance(value, str) else pytest.approx(value)
            )
    winner = best_record(run.records())
    assert told["best"]["plan"] == winner.plan
    assert plan_of(trex.load(run.best)) == winner.parsed


@pytest.mark.parametrize("old", PLANS, ids=lambda old: old["text"] or "none")
def test_a_studys_trials_are_of_the_same_plans(old: dict[str, Any]) -> None:
    told = {"plan": old["plan"] or "no reuse", "transforms": old["transforms"]}
    trial = create_trial(value=0.0, user_attrs=told)
    assert plan_of_trial(trial).key == old["key"]


# ---- fine-tunings


def test_a_fine_tuning_is_shown_beside_its_run(files: Path) -> None:
    assert read_finetuning(files / "finetuning").plan == BEST
    (facts,) = read_all([files / "run", files / "finetuning"])
    assert [tuned.plan for tuned in facts.finetunings] == [BEST]
    assert [evaluation.plan for evaluation in facts.later] == [BEST]
    assert main(["report", "run", "finetuning", "--out", "report"]) == 0
    page = (files / "report" / "index.html").read_text()
    assert "3&lt;-0:output/block 4&lt;-2" in page
    assert "the best plan so far" not in page
    assert "Left out" not in page


def test_a_fine_tuning_that_was_stopped_is_still_of_its_run(files: Path) -> None:
    (files / "finetuning" / "results.jsonl").unlink()
    (facts,) = read_all([files / "run", files / "finetuning"])
    assert [tuned.plan for tuned in facts.finetunings] == ["3<-0 4<-2"]


def test_a_fine_tuning_is_gone_on_with(files: Path, capsys) -> None:
    before = (files / "finetuning" / "results.jsonl").read_bytes()
    assert main([*FINETUNE, "--json"]) == 0
    records = json.loads(capsys.readouterr().out)["records"]
    assert [(record["stage"], record["plan"]) for record in records] == [
        ("fitted", BEST), ("finetuned", BEST),
    ]  # fmt: skip
    assert (files / "finetuning" / "results.jsonl").read_bytes() == before
    told = [record.as_json() for record in FinetuneFolder(files / "finetuning").records()]
    assert len(told) == 2
    assert all("transforms" not in record for record in told)


def test_settings_of_now_are_those_of_then(files: Path) -> None:
    """Where this fails, what is new needs a value for the runs of version 0.1."""
    flags = [*SEARCH, "--evaluations", "1", "--refined-candidates", "0"]
    flags[flags.index("--out") + 1] = "again"
    assert main(flags) == 0
    then, now = (Run(files / name).manifest().settings.as_json() for name in ("run", "again"))
    changed = {"evaluations": 10, "refined_candidates": 2}
    assert difference(then, {**now, "search": {**now["search"], **changed}}) is None
