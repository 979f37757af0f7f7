"""Plans that are given: what no search can choose is fitted, measured, recorded and picked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_runs import Inputs, plain_records, results
from tiny_models import logits_of

import trex
from trex.cli import main
from trex.plan import EncoderPlan, Layout, Plan, Reuse
from trex.reuse import plan_of
from trex.search.entries import Options, decision_name, entry, in_tree_order
from trex.search.pick import load_original, pick_record, pick_variant
from trex.search.space import SearchSpace
from trex.store.ranking import records_of
from trex.store.record import Record
from trex.store.run import Run

PLANS = ("3<-2 4<-1:map", "4<-3:output/block 2~1 5=class", "1~1 3~1", "5=class")
EXACT = ("--precision", "float32")
IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def fitted(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("given") / "run"
    assert main(inputs.fit(out, *PLANS, more=EXACT)) == 0
    return Run.open(out)


def test_every_plan_is_fitted_measured_and_recorded(fitted: Run) -> None:
    records = {record["plan"]: record for record in plain_records(fitted)}
    assert set(records) == {str(Plan.parse(plan)) for plan in PLANS}
    for text, record in records.items():
        plan = Plan.parse(text)
        assert (record["key"], record["n_reuse"]) == (plan.key, plan.n_reuse)
        assert "transforms" not in record
        state = load_file(fitted.candidates / f"{plan.key}.safetensors")
        assert bool(state) == bool(plan.n_reuse)  # nothing else has anything to fit
    assert records["5=class"]["selection"]["loss"] == pytest.approx(0, abs=1e-9)
    assert records["1~1 3~1"]["selection"]["loss"] > 0


def test_prices_are_those_of_trex_cost(fitted: Run, capsys) -> None:
    flags = ("--model", "test_vit", "--num-classes", "4", "--img-size", "32")
    for record in plain_records(fitted):
        capsys.readouterr()
        assert main([
            "cost", *flags, "--hw", "trex_fefet_32nm", "--accounting", "full",
            "--plan", record["plan"], "--json",
        ]) == 0  # fmt: skip
        cost = json.loads(capsys.readouterr().out)
        for name in ("latency_s", "energy_j", "area_m2", "macs"):
            assert record["estimate"][name] == pytest.approx(cost[name])


def test_the_best_is_a_bundle_that_runs_the_plan(fitted: Run) -> None:
    best = fitted.read_json("best/best.json")
    assert (best["plan"], best["refinement"]) == ("5=class", [])
    original, _ = load_original(fitted)
    variant = trex.load(fitted.best)
    assert plan_of(variant) == Plan.parse("5=class")
    expected = logits_of(original.model, IMAGES)
    torch.testing.assert_close(logits_of(variant, IMAGES), expected, atol=1e-5, rtol=0)


def test_plans_are_picked_as_they_were_fitted(fitted: Run) -> None:
    original, _ = load_original(fitted)
    for text in PLANS:
        plan, variant = pick_variant(fitted, text, original)
        assert plan_of(variant) == Plan.parse(plan) == Plan.parse(text)
    merged = pick_variant(fitted, "1~1 3~1", original)[1]
    other = trex.apply_plan(load_original(fitted)[0].model, "1~1 3~1")
    assert torch.equal(logits_of(merged, IMAGES), logits_of(other, IMAGES))
    assert pick_record(fitted, "2").plan == "3<-2 4<-1:map/linear"


def test_transforms_that_are_left_out_are_any(fitted: Run) -> None:
    records = fitted.records()
    for text, found in (
        ("4<-3 2~1 5=class", 1),
        ("4<-3:output/block 2~1 5=class", 1),
        ("4<-3:output/linear 2~1 5=class", 0),
        ("4<-3 2~1", 0),
        ("3<-2 4<-1:map/linear", 1),
        ("3<-2 4<-1:map/block", 0),
        ("3<-2:output/none 4<-1:map", 0),
        ("3<-2 4<-1", 0),
    ):
        assert len(records_of(records, text)) == found, text


def test_workers_and_order_change_nothing(fitted: Run, inputs: Inputs, tmp_path: Path) -> None:
    flags = inputs.fit(tmp_path / "run", *reversed(PLANS), more=(*EXACT, "--workers", "2"))
    assert main(flags) == 0
    again = Run.open(tmp_path / "run")
    expected, found = results(fitted), results(again)
    assert found.keys() == expected.keys()
    for key, record in expected.items():
        assert found[key]["plan"] == record["plan"]
        assert found[key]["estimate"] == record["estimate"]
        assert found[key]["selection"] == pytest.approx(record["selection"], rel=1e-4, abs=1e-6)


def test_going_on_repeats_nothing_that_is_recorded(
    inputs: Inputs, tmp_path: Path, monkeypatch
) -> None:
    out = tmp_path / "run"
    flags = inputs.fit(out, *PLANS[:3])
    append, done = Run.append, []

    def dies(run: Run, record: Record) -> None:
        append(run, record)
        done.append(record.key)
        if len(done) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "append", dies)
    assert main(flags) == 130
    monkeypatch.undo()
    before = (out / "results.jsonl").read_text()
    assert len(before.splitlines()) == 2
    assert main(flags) == 0
    after = (out / "results.jsonl").read_text()
    assert after.startswith(before)
    assert len(after.splitlines()) == 3
    assert (out / "best" / "best.json").is_file()


def test_only_the_best_is_refined_and_only_if_asked(
    inputs: Inputs, tmp_path: Path, capsys
) -> None:
    rounds = {}
    for name, plans, refine in (
        ("plain", ("3<-2 4<-1", "2~1"), False),
        ("reuse", ("3<-2 4<-1", "3<-2:map/mixed 4<-2:map"), True),
        ("merging", ("2~1",), True),
        ("rows", ("2=3 5=class",), True),
    ):
        more = ("--refine",) if refine else ()
        assert main(inputs.fit(tmp_path / name, *plans, more=more)) == 0
        run = Run.open(tmp_path / name)
        assert not any("refined" in record for record in plain_records(run))
        # a round that would help nothing changes nothing, and is not among these
        rounds[name] = run.read_json("best/best.json")["refinement"]
        assert ("refinement: " in capsys.readouterr().err) is refine
    assert not rounds["plain"]
    assert any(rounds.values())
    # nothing is changed that a projection could make up for
    assert main(inputs.fit(tmp_path / "dead", "5=class", more=("--refine",))) == 0
    assert Run.open(tmp_path / "dead").read_json("best/best.json")["refinement"] == []


def test_a_plan_far_from_the_original_is_warned_of(
    inputs: Inputs, tmp_path: Path, monkeypatch, capsys
) -> None:
    assert main(inputs.fit(tmp_path / "near", "3<-2")) == 0
    told = capsys.readouterr()
    assert "95 % interval" in told.out
    assert "far from the original" not in told.out + told.err
    monkeypatch.setattr("trex.search.agreement.NEAR", 1.1)
    assert main(inputs.fit(tmp_path / "far", "3<-2")) == 0
    told = capsys.readouterr()
    assert "Warning: this is far from the original" in told.out
    assert "the best plan found, 3<-2, gives the original's first guess for" in told.err
    assert main(inputs.fit(tmp_path / "far", "3<-2", more=("--json",))) == 0
    assert json.loads(capsys.readouterr().out)["agreement"]["far_from_original"] is True


def test_how_plans_are_fitted_is_chosen_once_and_told(
    inputs: Inputs, tmp_path: Path, capsys
) -> None:
    for _ in range(2):
        assert main(inputs.fit(tmp_path / "run", "3<-2 4<-2", more=("--json",))) == 0
        found = json.loads(capsys.readouterr().out)
        fitting = Run.open(tmp_path / "run").read_json("fit.json")
        assert found["fit"] == fitting["chosen"]
        assert fitting["fitted"] == "3<-2 4<-2"
        losses = [tried["loss"] for tried in fitting["tried"]]
        assert losses == sorted(losses)
        assert {tried["shrink"] for tried in fitting["tried"]} >= {0.0, 1.0}


def test_later_commands_read_the_run(fitted: Run, inputs: Inputs, tmp_path: Path, capsys) -> None:
    run = str(fitted.path)
    pick = ("--pick", "4<-3 2~1 5=class")
    assert main(["evaluate", run, *pick, "--data", str(inputs.labelled), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plan"] == "4<-3:output/block 2~1 5=class"
    assert main(["export", run, *pick, "--out", str(tmp_path / "bundle")]) == 0
    assert plan_of(trex.load(tmp_path / "bundle")) == Plan.parse("4<-3:output/block 2~1 5=class")
    assert main(["runs", "show", run]) == 0
    assert "4 plans, fitted and measured" in capsys.readouterr().out
    assert main(["report", run, "--out", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report" / "index.html").read_text()
    assert "given, 4 fitted and measured" in page
    assert "The last computes its class rows only: EDAP falls" in page
    assert "Tokens: 5 enter. Encoder 5 reads 5 and puts out 1" in page
    assert "original without dead rows" in page
    assert "Within" not in page


def test_a_trial_says_what_is_done_in_every_encoder() -> None:
    plans = [Plan.parse(text) for text in PLANS]
    layout = Layout(stages=(0,) * 6, tokens=5, class_tokens=1, class_rows=1)
    nothing = SearchSpace(
        name="given", layout=layout, forms=(), may_reuse=(False,) * 6, max_run=0, max_reuse=0
    )
    options = Options(nothing, plans)
    assert options.names[0] == ("own",)
    assert options.names[3] == ("own", "output of 2, linear", "own, 1 pairs merged")
    assert options.names[4] == ("own", "map of 1, linear", "output of 3, block")
    assert options.names[5] == ("own", "own, class rows only")
    made = entry(plans[1], options, {"more": 1})
    assert made.key == plans[1].key
    assert {name: chosen for name, (chosen, _) in made.choices.items()} == {
        "encoder 1": "own", "encoder 2": "own, 1 pairs merged", "encoder 3": "own",
        "encoder 4": "output of 3, block", "encoder 5": "own, class rows only",
    }  # fmt: skip
    assert made.as_trial().params["encoder 2"] == "own, 1 pairs merged"
    assert made.notes == {"plan": str(plans[1]), "consumers": 1, "more": 1}


def test_a_searchs_trials_name_all_of_its_space() -> None:
    layout = Layout(stages=(0, 0, 0), tokens=9, protected=1, class_tokens=1)
    space = SearchSpace(
        name="tiny", layout=layout, forms=(("map", "block"), ("map", "average")),
        may_reuse=(False, True, True), max_run=3, max_reuse=3, source="any", mixed=True,
        pairs=((2,), (), ()), shares=((0.5,), (), (0.5,)), groups=True, class_rows=True,
    )  # fmt: skip
    options = Options(space)
    assert options.chosen == options.names
    assert options.names[0] == (
        "own", "own, 2 pairs merged", "own, 0.5 of the rows",
        "own, 2 pairs merged, 0.5 of the rows", "own, rows shared by the groups at hand",
        "own, 2 pairs merged, rows shared by the groups at hand",
    )  # fmt: skip
    assert options.names[1] == ("own", "map of 0, block", "map, average")
    assert options.names[2] == (
        "own", "own, 0.5 of the rows", "own, rows shared by the groups at hand",
        "map of 1, block", "map of 0, block", "map, average",
    )  # fmt: skip
    plan = Plan.parse("1:map/average 0=5 1=class 2=@0")
    assert options.of(plan) == [
        "own, 0.5 of the rows", "map, average", "own, rows shared by the groups at hand",
    ]  # fmt: skip
    reuse = Reuse(2, 0, "map", "block")
    assert decision_name(EncoderPlan(reuse, 3, None)) == "map of 0, block, 3 pairs merged"


def test_plans_that_begin_alike_stand_together() -> None:
    texts = ["2~1 5=class", "2~1 3<-1", "2~2", "3<-1", "2~1", "2<-1 5=class", "2<-1", ""]
    ordered = [str(plan) for plan in in_tree_order(map(Plan.parse, texts))]
    assert ordered == ["", "3<-1", "2~1", "2~1 5=class", "3<-1 2~1", "2~2", "2<-1",
                       "2<-1 5=class"]  # fmt: skip


def test_what_is_recorded_needs_no_pass_of_the_original(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the winner was written, a fit goes on from its records and fit.json."""
    out = tmp_path / "run"
    command = inputs.fit(out, "5=class", more=EXACT)
    assert main(command) == 0
    before = load_file(out / "best" / "model.safetensors")
    shutil.rmtree(out / "best")

    def none(*_: object, **__: object) -> None:
        pytest.fail("the original ran over the images again")

    monkeypatch.setattr("trex.search.context.Calibration", none)
    assert main(command) == 0
    after = load_file(out / "best" / "model.safetensors")
    assert all(torch.equal(after[name], value) for name, value in before.items())
