"""What was measured after a search, and fine-tunings, on the page; all made up."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from made_up_runs import MODEL, RECORDS, write_run
from small_runs import write_inputs

from trex.cli import main
from trex.errors import RunError
from trex.models.registry import architecture
from trex.report import measured_charts
from trex.report.facts import read_all, read_facts
from trex.report.finetunings import read_finetuning
from trex.store.evaluations import store_evaluation, stored_evaluations
from trex.store.operations import store_architecture, stored_architecture
from trex.store.run import Run
from trex.store.schemas import Evaluation

PLAN = RECORDS[1]["plan"]
MEASURED = {
    "data": "labelled", "data_sha256": "aa", "top1": 0.75, "baseline_top1": 0.8,
    "difference": -0.05, "ci95": [-0.07, -0.03], "n": 1000,
}  # fmt: skip
NOISY = {
    "chip": "trex_fefet_32nm", "mode": "fast", "draws": 3, "top1": 0.7, "top1_std": 0.02,
    "top1_by_draw": [0.68, 0.70, 0.72], "baseline_top1_by_draw": [0.78, 0.79, 0.80],
}  # fmt: skip


def measured(**changes: object) -> Evaluation:
    return Evaluation.model_validate({**MEASURED, **changes})


def write_finetuning(path: Path, run: Path, plan: str = PLAN, **manifest: object) -> Path:
    path.mkdir()
    settings = {
        "model": MODEL, "weights_sha256": "0123456789abcdef", "fitted_sha256": "ff", "plan": plan,
    }  # fmt: skip
    (path / "manifest.json").write_text(json.dumps({
        "schema": 1, "settings": settings, "run": str(run), "command": ["trex", "finetune"],
        **manifest,
    }))  # fmt: skip
    (path / "curve.csv").write_text(
        "step,epoch,loss,lr,held_out_loss,images_per_s,wait_share\n"
        "1,0,0.9,1e-4,,10,0.1\n2,0,0.6,1e-4,0.7,10,0.1\n3,1,0.5,1e-4,,10,0.1\n4,1,0.4,1e"
    )
    stages = [("fitted", 0.70, None), ("finetuned", 0.76, {
        "kept": "epoch 2", "recipe": {"interpolation": 0.7},
    })]  # fmt: skip
    (path / "results.jsonl").write_text("".join(
        json.dumps({
            "schema": 1, "stage": stage, "plan": plan, "non_ideal_chip": None,
            "non_ideal_evaluation": None, "evaluation": {**MEASURED, "top1": top1},
            **({"training": training} if training else {}),
        }) + "\n"
        for stage, top1, training in stages
    ))  # fmt: skip
    return path


def page(*arguments: Path) -> str:
    *_, out = arguments
    assert main(["report", *map(str, arguments[:-1]), "--out", str(out)]) == 0
    return (out / "index.html").read_text()


@pytest.mark.parametrize("name", [MODEL, "lvvit_s", "shvit_s1", "fastvit_t8"])
def test_operations_come_back_as_they_were(name: str, tmp_path: Path) -> None:
    run, model = Run(tmp_path), architecture(name)
    assert stored_architecture(run) is None
    store_architecture(run, model)
    assert stored_architecture(run) == model


def test_a_report_of_a_run_with_its_operations_loads_no_torch(tmp_path: Path) -> None:
    from trex.hardware import load_chip

    run = write_run(tmp_path / "run", chip_sha256=load_chip("trex_fefet_32nm").fingerprint)
    store_architecture(Run(run), architecture(MODEL))
    code = (
        "import sys; from trex.cli import main; "
        f"assert main(['report', {str(run)!r}]) == 0; "
        "print([m for m in ('torch', 'timm', 'optuna') if m in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.splitlines()[-1] == "[]"
    text = (run / "report" / "index.html").read_text()
    assert "they were taken from the model anew" not in text
    assert 'id="run-stage-full"' in text


def test_an_older_run_is_priced_from_its_model_and_says_so(tmp_path: Path) -> None:
    from trex.hardware import load_chip

    run = write_run(tmp_path / "run", chip_sha256=load_chip("trex_fefet_32nm").fingerprint)
    assert "they were taken from the model anew" in page(run, tmp_path / "out")


def test_the_last_evaluation_of_its_kind_counts(tmp_path: Path) -> None:
    run = Run(write_run(tmp_path / "run"))
    store_evaluation(run, "best", PLAN, measured())
    store_evaluation(run, PLAN, PLAN, measured(top1=0.71))
    store_evaluation(run, "best", PLAN, measured(non_ideal=NOISY))
    store_evaluation(run, "best", PLAN, measured(top1=0.76))
    found = stored_evaluations(run)
    assert [(e.pick, e.top1, e.non_ideal is None) for e in found] == [
        (PLAN, 0.71, True), ("best", 0.75, False), ("best", 0.76, True),
    ]  # fmt: skip


def test_ideal_against_non_ideal_with_spread(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    store_evaluation(Run(run), "best", PLAN, measured(non_ideal=NOISY))
    (evaluation,) = read_facts(run).later
    pair = measured_charts.noisy_pair(evaluation)
    assert pair is not None
    assert pair.variant.ideal == pytest.approx(75)
    assert pair.variant.mean == pytest.approx(70)
    assert pair.variant.std == pytest.approx(2)
    assert pair.original.mean == pytest.approx(79)
    text = page(run, tmp_path / "out")
    assert "Ideal against non-ideal" in text
    assert "best plan, chip instance 1: 68.0 %, ideal 75.0 %" in text
    assert (tmp_path / "out" / "figures" / "run-noisy1.png").exists()


def test_fine_tunings_stand_with_their_run(tmp_path: Path) -> None:
    first, second = write_run(tmp_path / "first"), write_run(tmp_path / "second")
    tuned = write_finetuning(tmp_path / "tuned", second)
    runs = read_all([tuned, first, second])
    assert [[f.name for f in run.finetunings] for run in runs] == [[], ["tuned"]]
    numbers = measured_charts.curves("a run", runs[1].finetunings)
    assert numbers is not None
    assert numbers.curves[0].steps == (1, 2, 3)  # the torn row is left out
    assert numbers.curves[0].held_out == ((2, 0.7),)
    text = page(second, tuned, tmp_path / "out")
    assert "kept: epoch 2, 70 % of the way from the fitted weights." in text
    assert "as fitted" in text
    assert "tuned, step 2: loss 0.7000 on held-out images" in text


def test_a_fine_tuning_of_no_run_on_the_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    tuned = write_finetuning(tmp_path / "tuned", run, plan="2<-1")
    with pytest.raises(RunError, match="fine-tuning of none of the runs"):
        read_all([run, tuned])


def test_a_newer_fine_tuning(tmp_path: Path) -> None:
    tuned = write_finetuning(tmp_path / "tuned", tmp_path, schema=3)
    with pytest.raises(RunError, match="is of schema 3, this TReX reads 1 and 2"):
        read_finetuning(tuned)


def test_names_of_fine_tunings_and_data_are_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)"
    run = write_run(tmp_path / "run")
    noisy = {**NOISY, "chip": evil}
    store_evaluation(Run(run), "best", PLAN, measured(data=evil, non_ideal=noisy))
    tuned = write_finetuning(tmp_path / evil, run, command=["trex", evil])
    text = page(run, tuned, tmp_path / "out")
    assert evil not in text
    assert "&lt;script&gt;alert(1)" in text


def test_a_search_and_an_evaluation_leave_what_the_report_needs(tmp_path: Path, capsys) -> None:
    inputs = write_inputs(tmp_path / "inputs")
    run = tmp_path / "run"
    assert main(inputs.search(run, "--evaluations", "2")) == 0
    assert main([
        "evaluate", str(run), "--data", str(inputs.labelled), "--non-ideal", "--draws", "2",
    ]) == 0  # fmt: skip
    facts = read_facts(run)
    (evaluation,) = facts.later
    assert evaluation.pick == "best"
    assert evaluation.non_ideal is not None
    assert len(evaluation.non_ideal.top1_by_draw) == 2
    model = stored_architecture(Run(run))
    assert model is not None
    assert len(model.encoders) == facts.num_encoders
    text = page(run, tmp_path / "out")
    assert "Ideal against non-ideal" in text
    assert "taken from the model anew" not in text
