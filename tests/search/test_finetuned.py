"""Rungs of short trainings: successive halving after the fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.storages import JournalStorage
from safetensors.torch import load_file
from small_runs import Inputs, plain_records, results

import trex
from trex.cli import main
from trex.exporters.bundle import load_config
from trex.plan import Plan
from trex.reuse import plan_of
from trex.search.storage import JOURNAL, Journal
from trex.store.ranking import best_first, best_record, last_rung
from trex.store.record import Estimate, Later, Measured, Record, Spent
from trex.store.run import Run
from trex.training.finetune.loop import Trainer

RANDOM = ["--strategy", "random"]  # needs no probes
RUNGS = [*RANDOM, "--finetuned-candidates", "3", "2", "--finetune-images", "8", "20"]


@pytest.fixture(scope="module")
def undisturbed(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert main(inputs.search(out, *RUNGS)) == 0
    return Run.open(out)


def weights_of(folder: Path) -> str:
    return str(load_config(folder)["weights_sha256"])


def test_each_rung_trains_the_best_of_the_one_before(undisturbed: Run) -> None:
    before = records = undisturbed.records()
    for rung, kept, images in (
        ("selection", 5, 10),
        ("finetuned-1", 3, 8),
        ("finetuned-2", 2, 20),
    ):
        came = best_first(records, rung)
        assert {r.key for r in came} == {r.key for r in before[:kept]}
        for record in came:
            spent = record.spent("fitted" if rung == "selection" else rung)
            measured = record.measured(rung)
            assert measured is not None
            assert (spent.images, spent.loss) == (images, measured.loss)
            assert measured.n == 6
        before = came
    assert last_rung(records) == "finetuned-2"
    assert best_record(records).key == before[0].key
    assert undisturbed.read_json("best/best.json")["key"] == before[0].key


def test_a_rung_of_more_images_than_there_are_has_epochs(undisturbed: Run) -> None:
    winner = best_record(undisturbed.records())
    assert winner.later["finetuned-1"].epochs == 1
    assert winner.later["finetuned-2"].epochs == 2  # of ten fitted images
    assert {winner.later[f"finetuned-{number}"].start for number in (1, 2)} == {"fitted"}


def test_training_begins_with_the_fit_and_changes_more_than_the_fit_did(undisturbed: Run) -> None:
    winner = best_record(undisturbed.records())
    fitted = load_file(undisturbed.candidates / f"{winner.key}.safetensors")
    trained = trex.load(undisturbed.finetuned).state_dict()
    best = trex.load(undisturbed.best).state_dict()
    assert plan_of(trex.load(undisturbed.finetuned)) == plan_of(trex.load(undisturbed.best))
    for name, value in fitted.items():
        assert not torch.equal(trained[name], value)
        assert torch.allclose(trained[name], value, atol=0.02)
    assert not torch.equal(trained["head.weight"], best["head.weight"])


def test_what_was_measured_is_what_is_handed_over(undisturbed: Run) -> None:
    told = undisturbed.read_json("finetuned/finetuned.json")
    winner = best_record(undisturbed.records())
    assert (told["key"], told["rung"], told["images"]) == (winner.key, "finetuned-2", 20)
    assert told["measured"] == winner.later["finetuned-2"].as_json()
    # neither weights nor states of the others are left
    assert {f.name for f in undisturbed.candidates.iterdir()} == {
        f"{record['key']}.safetensors" for record in plain_records(undisturbed)
    }
    assert not undisturbed.trainings.exists()


def test_fits_and_the_fitted_winner_do_not_depend_on_later_training(
    undisturbed: Run, inputs: Inputs, tmp_path: Path
) -> None:
    assert main(inputs.search(tmp_path / "plain", *RANDOM)) == 0
    plain = Run.open(tmp_path / "plain")
    of = {r["key"]: (r["selection"], r["estimate"]) for r in plain_records(undisturbed)}
    assert of == {r["key"]: (r["selection"], r["estimate"]) for r in plain_records(plain)}
    assert not plain.finetuned.exists()
    # of one that is trained, training cannot choose another
    one = ("--finetuned-candidates", "1", "--finetune-images", "8")
    assert main(inputs.search(tmp_path / "one", *RANDOM, *one)) == 0
    trained = Run.open(tmp_path / "one")
    winners = [run.read_json("best/best.json")["key"] for run in (trained, plain)]
    assert winners[0] == winners[1]
    assert weights_of(trained.best) == weights_of(plain.best)
    assert trained.finetuned.exists()


def test_workers_end_with_the_records_of_one(
    inputs: Inputs, undisturbed: Run, tmp_path: Path
) -> None:
    assert main(inputs.search(tmp_path / "run", *RUNGS, "--workers", "2")) == 0
    run = Run.open(tmp_path / "run")
    assert results(run) == results(undisturbed)
    assert weights_of(run.finetuned) == weights_of(undisturbed.finetuned)


@pytest.mark.parametrize("steps", [1, 4])
def test_an_interrupted_training_goes_on_to_the_same_end(
    steps: int, inputs: Inputs, undisturbed: Run, tmp_path: Path, monkeypatch, capsys
) -> None:
    update, done = Trainer._update, []

    def interrupted(trainer: Trainer, parts: Any) -> Any:
        if len(done) == steps:
            raise KeyboardInterrupt
        done.append(1)
        return update(trainer, parts)

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_update", interrupted)
        assert main(inputs.search(out, *RUNGS)) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert not (out / "best").exists()
    assert main(inputs.search(out, *RUNGS)) == 0
    assert results(Run.open(out)) == results(undisturbed)
    assert weights_of(Run.open(out).finetuned) == weights_of(undisturbed.finetuned)


def test_lost_weights_are_trained_again(inputs: Inputs, undisturbed: Run, tmp_path: Path) -> None:
    expected = weights_of(undisturbed.finetuned)
    for file in undisturbed.finetuned.iterdir():
        file.unlink()
    assert main(inputs.search(undisturbed.path, *RUNGS)) == 0
    assert weights_of(undisturbed.finetuned) == expected


def test_before_and_after_share_no_row(inputs: Inputs, undisturbed: Run, capsys) -> None:
    flags = [*RUNGS, "--eval", str(inputs.labelled)]
    assert main(inputs.search(undisturbed.path, *flags, "--json")) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["ranked_by"] == "finetuned-2"
    assert result["ranked_on"] == "soft_agreement"
    best, tuned = result["best"], result["finetuned"]
    assert not [name for name in best if "finetuned" in name]
    assert tuned["plan"] == best["plan"]
    assert tuned["measured"]["loss"] != best["selection"]["loss"]
    assert tuned["evaluation"]["n"] == best["evaluation"]["n"] == 12
    assert tuned["evaluation"]["top1"] is not None
    assert main(inputs.search(undisturbed.path, *flags)) == 0
    table = capsys.readouterr().out
    assert "after training on 20 images" in table
    assert "fine-tuned on 20 images, from the fitted best plan" in table
    assert all(
        len(line) <= 100 for line in table.splitlines() if str(undisturbed.path) not in line
    )
    evaluate = ["evaluate", str(undisturbed.path), "--data", str(inputs.labelled), "--json"]
    assert main([*evaluate, "--pick", "finetuned"]) == 0
    assert json.loads(capsys.readouterr().out)["top1"] == tuned["evaluation"]["top1"]


def test_refined_plans_are_trained_from_their_refinement(inputs: Inputs, tmp_path: Path) -> None:
    flags = ["--refined-candidates", "2", "--finetuned-candidates", "2", "--finetune-images", "8"]
    assert main(inputs.search(tmp_path / "run", *flags)) == 0
    trained = [r for r in plain_records(Run.open(tmp_path / "run")) if "finetuned-1" in r]
    assert len(trained) == 2
    for record in trained:
        assert record["finetuned-1"]["start"] == "refined"
        assert [of["rung"] for of in record["rungs"]] == [
            "surrogate", "fitted", "refined", "finetuned-1",
        ]  # fmt: skip


def test_the_papers_way_trains_every_pattern_and_the_least_loss_wins(
    inputs: Inputs, tmp_path: Path, capsys
) -> None:
    flags = ["--strategy", "paper", "--finetuned-candidates", "99", "--finetune-images", "4"]
    assert main(inputs.search(tmp_path / "run", *flags, "--json")) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["ranked_by"], result["ranked_on"]) == ("finetuned-1", "loss")
    records = plain_records(Run.open(tmp_path / "run"))
    assert len(records) > 1
    losses = {record["plan"]: record["finetuned-1"]["loss"] for record in records}
    assert result["best"]["plan"] == min(losses, key=lambda plan: losses[plan])
    assert {record["finetuned-1"]["epochs"] for record in records} == {1}


def test_the_study_of_a_rung_reads_by_itself(undisturbed: Run) -> None:
    storage = JournalStorage(Journal(undisturbed.path / JOURNAL, undisturbed.path / ".locks/j"))
    names = {study.study_name for study in optuna.get_all_study_summaries(storage)}
    (name,) = (name for name in names if "20 images" in name)
    assert name.endswith(", fine-tuned on 20 images")
    trials = optuna.load_study(study_name=name, storage=storage).trials
    assert len(trials) == 2
    for trial in trials:
        assert {"estimate: latency (ms)", "measured: soft agreement with the original (%)"} <= set(
            trial.user_attrs
        )
        assert trial.params


def test_the_original_wins_untrained_where_it_fits(inputs: Inputs, tmp_path: Path) -> None:
    flags = ["--max-latency", "1x", "--evaluations", "3", "--finetuned-candidates", "2"]
    out = tmp_path / "run"
    assert main(inputs.search(out, *flags, "--finetune-images", "8")) == 0
    told = Run.open(out).read_json("finetuned/finetuned.json")
    assert (told["plan"], told["images"], told["measured"]["epochs"]) == ("", 0, 0)
    assert told["measured"]["loss"] == pytest.approx(0.0, abs=1e-9)
    trained = [r for r in plain_records(Run.open(out)) if "finetuned-1" in r]
    assert sorted(of["images"] for r in trained for of in r["rungs"][-1:]) == [0, 8]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--finetune-images", "8"], "nothing is fine-tuned"),
        (["--finetuned-candidates", "2", "3"], "no rung can have more"),
        (["--finetuned-candidates", "0"], "no rung can have more"),
        (["--finetuned-candidates", "3", "--refined-candidates", "2"], "no rung can have more"),
        (["--finetuned-candidates", "3", "2", "--finetune-images", "8", "8"], "does not rise"),
        (["--finetuned-candidates", "3", "--finetune-images", "8", "9"], "is of 2 rungs"),
        (["--finetuned-candidates", "3", "--finetune-recipe", "few"], "neither a shipped recipe"),
    ],
)
def test_rungs_that_make_no_sense(
    flags: list[str], says: str, inputs: Inputs, tmp_path: Path, capsys
) -> None:
    assert main(inputs.search(tmp_path / "run", *flags)) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_losses_that_read_labels_need_them(inputs: Inputs, tmp_path: Path, capsys) -> None:
    calib = tmp_path / "calib"
    calib.mkdir()
    for path in sorted(inputs.calib.rglob("*.png")):
        (calib / f"{path.parent.name}{path.name}").write_bytes(path.read_bytes())
    flags = ["--finetuned-candidates", "2", "--finetune-recipe", "paper_deit"]
    assert main(inputs.search(tmp_path / "run", "--calib", str(calib), *flags)) == 2
    assert "has no labels, which the losses of paper_deit read" in capsys.readouterr().err


def test_a_run_without_training_has_nothing_to_pick(
    inputs: Inputs, undisturbed: Run, tmp_path: Path, capsys
) -> None:
    assert main(inputs.search(tmp_path / "run", "--evaluations", "1")) == 0
    data = ["--data", str(inputs.labelled), "--pick", "finetuned"]
    assert main(["evaluate", str(tmp_path / "run"), *data]) == 2
    assert "has fine-tuned nothing" in capsys.readouterr().err
    tuning = ["finetune", str(undisturbed.path), "--out", str(tmp_path / "tuned")]
    assert main([*tuning, *data]) == 2
    assert "it was trained already" in capsys.readouterr().err


def test_only_those_that_came_to_the_last_rung_can_win() -> None:
    price = Estimate(
        chip="chip", accounting="paper", latency_s=1.0, energy_j=1.0, area_m2=1.0,
        edap_mj_ms_mm2=1.0,
    )  # fmt: skip

    def measured(value: float) -> Measured:
        return Measured(
            loss=value, agreement=0.5, soft_agreement=value, top1=None, baseline_top1=None, n=6
        )

    def record(plan: str, selection: float, **rungs: float) -> Record:
        found = Record(
            key=Plan.parse(plan).key, plan=plan, n_reuse=1, transform="linear", estimate=price,
            selection=measured(selection),
        )  # fmt: skip
        for name, value in rungs.items():
            spent = Spent(rung=name.replace("_", "-"), loss=value, images=1, seconds=0.0)
            found = found.with_later(Later(key=found.key, rung=spent, measured=measured(value)))
        return found

    fitted = record("1<-0", selection=0.9)
    once = record("2<-1", selection=0.5, finetuned_1=0.8)
    tenth = record("3<-2", selection=0.4, finetuned_1=0.6, finetuned_10=0.1)
    second = record("4<-3", selection=0.3, finetuned_1=0.6, finetuned_2=0.7, finetuned_10=0.2)
    records = [fitted, once, tenth, second]
    assert [last_rung(records[:n]) for n in (1, 2, 3)] == [
        "selection", "finetuned-1", "finetuned-10",
    ]  # fmt: skip
    assert [best_record(records[:n]).plan for n in (1, 2, 4)] == ["1<-0", "2<-1", "4<-3"]
    by_loss = [of.model_copy(update={"ranked_on": "loss"}) for of in records]
    assert best_record(by_loss).plan == "3<-2"
    assert [r.plan for r in best_first(by_loss, "selection")] == [
        "4<-3", "3<-2", "2<-1", "1<-0",
    ]  # fmt: skip
