"""Whole searches on a tiny model and images of noise."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from disks import files_of_at_most
from small_runs import Inputs, interrupted_search, plain_records, results, write_images

import trex
from trex.cli import main
from trex.errors import RunError
from trex.exporters.bundle import load_config
from trex.files import write_atomic
from trex.plan import Plan
from trex.reuse import plan_of
from trex.search.pick import pick_record
from trex.search.records import soft_agreement
from trex.store.ranking import best_record, last_rung
from trex.store.run import Run


@pytest.fixture(scope="module")
def undisturbed(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert main(inputs.search(out)) == 0
    return Run.open(out)


def weights_of_best(run: Run) -> str:
    return str(load_config(run.best)["weights_sha256"])


def test_records_are_complete(undisturbed: Run) -> None:
    records = plain_records(undisturbed)
    assert len(records) == 5
    for record in records:
        plan = Plan.parse(record["plan"])
        assert plan.key == record["key"]
        assert plan.n_reuse == record["n_reuse"] > 0
        assert record["transform"] == "linear"
        assert record["estimate"].keys() == {
            "chip", "accounting", "basis", "latency_s", "energy_j", "area_m2",
            "edap_mj_ms_mm2", "parameters", "macs",
        }  # fmt: skip
        selection = record["selection"]
        assert selection.keys() == {
            "loss",
            "agreement",
            "soft_agreement",
            "top1",
            "baseline_top1",
            "n",
        }
        assert selection["n"] == 6  # 0.4 of sixteen images
        assert selection["loss"] >= 0
        assert record["seconds"] >= 0
        assert (undisturbed.candidates / f"{record['key']}.safetensors").is_file()


def test_every_measured_plan_is_within_the_budget(undisturbed: Run) -> None:
    limit = 0.8 * undisturbed.read_json("manifest.json")["baseline"]["latency_s"]
    assert all(r.estimate.latency_s <= limit * (1 + 1e-9) for r in undisturbed.records())


def test_the_winner_agrees_most_and_is_what_the_bundle_runs(undisturbed: Run) -> None:
    winner = best_record(undisturbed.records())
    assert winner.selection.soft_agreement == max(
        record["selection"]["soft_agreement"] for record in plain_records(undisturbed)
    )
    best = undisturbed.read_json("best/best.json")
    assert (best["key"], best["plan"]) == (winner.key, winner.plan)
    assert plan_of(trex.load(undisturbed.best)) == winner.parsed


def test_the_manifest_says_what_was_asked_of_what(undisturbed: Run, inputs: Inputs) -> None:
    manifest = undisturbed.read_json("manifest.json")
    assert manifest["command"][0] == "trex"
    assert manifest["versions"].keys() >= {"trex", "torch", "timm", "python"}
    assert manifest["weights_source"] == str(inputs.weights)
    assert manifest["calibration_images"] == 16
    assert manifest["space_size"] == 32
    settings = manifest["settings"]
    for name in ("weights_sha256", "chip_sha256", "calibration_sha256"):
        assert len(settings[name]) == 16
        int(settings[name], 16)
    assert settings["search"]["seed"] == 0


@pytest.mark.parametrize("recorded", [0, 1, 4])
def test_an_interrupted_search_goes_on_to_the_same_end(
    recorded: int, inputs: Inputs, undisturbed: Run, tmp_path: Path, monkeypatch, capsys
) -> None:
    out = tmp_path / "run"
    assert interrupted_search(inputs.search(out), recorded, monkeypatch) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert len(plain_records(Run.open(out))) == recorded
    assert not (out / "best").exists()
    assert main(inputs.search(out)) == 0
    assert results(Run.open(out)) == results(undisturbed)
    assert weights_of_best(Run.open(out)) == weights_of_best(undisturbed)
    surrogate = "surrogate.json"
    assert (out / surrogate).read_bytes() == (undisturbed.path / surrogate).read_bytes()


def test_a_finished_search_is_not_repeated(undisturbed: Run, inputs: Inputs, capsys) -> None:
    before = {path: path.stat().st_mtime_ns for path in undisturbed.path.rglob("*.safetensors")}
    assert main(inputs.search(undisturbed.path, "--json")) == 0
    assert json.loads(capsys.readouterr().out)["candidates"]["evaluated"] == 5
    after = {path: path.stat().st_mtime_ns for path in undisturbed.path.rglob("*.safetensors")}
    assert after == before


def test_the_winner_can_be_made_again_and_seeds_repeat(
    undisturbed: Run, inputs: Inputs, tmp_path: Path
) -> None:
    out = tmp_path / "again"
    assert main(inputs.search(out)) == 0
    again = Run.open(out)
    assert results(again) == results(undisturbed)
    for file in again.best.iterdir():
        file.unlink()
    again.best.rmdir()
    assert main(inputs.search(out)) == 0
    assert weights_of_best(again) == weights_of_best(undisturbed)


def test_another_seed_is_another_run(undisturbed: Run, inputs: Inputs, tmp_path, capsys) -> None:
    before = (undisturbed.path / "results.jsonl").read_bytes()
    assert main(inputs.search(undisturbed.path, "--seed", "1")) == 2
    message = capsys.readouterr().err
    assert "holds a run of other settings: search.seed was 0, now it is 1" in message
    assert (undisturbed.path / "results.jsonl").read_bytes() == before
    assert main(inputs.search(tmp_path / "other", "--seed", "1")) == 0
    losses = [
        {key: record["selection"]["loss"] for key, record in results(run).items()}
        for run in (undisturbed, Run.open(tmp_path / "other"))
    ]
    assert losses[0] != losses[1]


def test_a_corrupt_image_is_skipped_and_counted(inputs: Inputs, tmp_path: Path, capsys) -> None:
    calib = write_images(tmp_path / "calib")
    (calib / "bee" / "2.png").write_bytes(b"\x89PNG no more")
    flags = ["--calib", str(calib), "--eval", str(calib), "--json"]
    assert main(inputs.search(tmp_path / "run", *flags)) == 0
    captured = capsys.readouterr()
    assert "skipped bee/2.png" in captured.err
    assert "skipped 1 of 16 images" in captured.err
    result = json.loads(captured.out)
    assert result["best"]["evaluation"]["n"] == 15
    assert result["best"]["evaluation"]["skipped"] == 1
    assert result["best"]["selection"]["n"] in (5, 6)


def test_a_corrupt_image_is_an_error_under_strict(inputs: Inputs, tmp_path: Path, capsys) -> None:
    calib = write_images(tmp_path / "calib")
    (calib / "bee" / "2.png").write_bytes(b"")
    flags = ["--calib", str(calib), "--strict"]
    assert main(inputs.search(tmp_path / "run", *flags)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "bee/2.png cannot be read" in captured.err


def test_calibration_needs_no_labels(inputs: Inputs, tmp_path: Path, capsys) -> None:
    calib = write_images(tmp_path / "calib")
    for path in sorted(calib.rglob("*.png")):
        path.rename(calib / f"{path.parent.name}{path.name}")
    assert main(inputs.search(tmp_path / "run", "--calib", str(calib), "--json")) == 0
    captured = capsys.readouterr()
    assert "labels are not used" in captured.err
    selection = json.loads(captured.out)["best"]["selection"]
    assert selection["top1"] is selection["baseline_top1"] is None
    assert selection["n"] == 6
    assert main(inputs.search(tmp_path / "run", "--calib", str(calib))) == 0
    assert " - " in capsys.readouterr().out


def test_forms_compete(inputs: Inputs, tmp_path: Path, capsys) -> None:
    space = tmp_path / "both.yaml"
    space.write_text(
        "description: both tensors, two transforms\n"
        "tensors: [output, map]\ntransforms: [none, linear_own]\nmax_reuse: 2\nmax_run: 1\n"
    )
    out = tmp_path / "run"
    flags = ["--space", str(space), "--evaluations", "12", "--json"]
    assert main(inputs.search(out, *flags)) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["candidates"]["space"] == 1 + 4 * (5 + 6)
    records = plain_records(Run.open(out))
    assert len(records) == 12
    assert len({r["transform"] for r in records} | {":map" in r["plan"] for r in records}) > 2
    assert plan_of(trex.load(out / "best")) is not None
    # the front is in EDAP's order, and its losses fall
    edaps = [row["estimate"]["edap_mj_ms_mm2"] for row in result["pareto"]]
    losses = [row["selection"]["loss"] for row in result["pareto"]]
    assert edaps == sorted(edaps)
    assert losses == sorted(losses, reverse=True)


def test_where_the_original_fits_it_wins(inputs: Inputs, tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    assert main(inputs.search(out, "--max-latency", "1x", "--evaluations", "3", "--json")) == 0
    best = json.loads(capsys.readouterr().out)["best"]
    assert (best["plan"], best["n_reuse"], best["selection"]["loss"]) == ("", 0, 0.0)
    assert plan_of(trex.load(out / "best")) is None


def test_more_evaluations_than_plans(inputs: Inputs, tmp_path: Path, capsys) -> None:
    flags = ["--max-latency", "0.3x", "--evaluations", "99", "--json"]
    assert main(inputs.search(tmp_path / "run", *flags)) == 0
    counts = json.loads(capsys.readouterr().out)["candidates"]
    assert 0 < counts["evaluated"] == counts["feasible"] < counts["space"] == 32


def test_a_full_disk_under_the_activations(inputs: Inputs, tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    with files_of_at_most(10_000):
        assert main(inputs.search(out)) == 1
    message = capsys.readouterr().err
    assert "cannot write activations" in message
    assert "hint:" in message
    assert main(inputs.search(out)) == 0


def test_a_full_disk_under_the_winner(
    inputs: Inputs, undisturbed: Run, tmp_path: Path, monkeypatch, capsys
) -> None:
    def full(path: Path, content: str | bytes) -> None:
        with files_of_at_most(10_000):
            write_atomic(path, content)

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("trex.exporters.bundle.write_atomic", full)
        assert main(inputs.search(out)) == 1
    assert "cannot be written: File too large" in capsys.readouterr().err
    assert len(plain_records(Run.open(out))) == 5
    assert list((out / "best").iterdir()) == []
    assert main(inputs.search(out)) == 0
    assert weights_of_best(Run.open(out)) == weights_of_best(undisturbed)


def test_scratch_files_go_elsewhere_where_asked(inputs: Inputs, tmp_path: Path, capsys) -> None:
    missing = ["--scratch", str(tmp_path / "missing")]
    assert main(inputs.search(tmp_path / "run", *missing)) == 1
    assert str(tmp_path / "missing") in capsys.readouterr().err


def test_workers_end_with_the_records_of_one(
    inputs: Inputs, undisturbed: Run, tmp_path: Path
) -> None:
    assert main(inputs.search(tmp_path / "run", "--workers", "2")) == 0
    run = Run.open(tmp_path / "run")
    assert results(run) == results(undisturbed)
    assert weights_of_best(run) == weights_of_best(undisturbed)
    surrogate = "surrogate.json"
    assert (run.path / surrogate).read_bytes() == (undisturbed.path / surrogate).read_bytes()


def test_threads_end_with_the_records_of_one(
    inputs: Inputs, undisturbed: Run, tmp_path: Path
) -> None:
    """Sums of several threads are added up in another order: measurements differ by rounding."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert main(inputs.search(tmp_path / "run")) == 0
    finally:
        torch.set_num_threads(before)
    expected, found = results(undisturbed), results(Run.open(tmp_path / "run"))
    assert found.keys() == expected.keys()
    for key, record in expected.items():
        assert found[key]["estimate"] == record["estimate"]
        assert found[key]["selection"] == pytest.approx(record["selection"], rel=1e-3, abs=1e-5)
    best = [run.read_json("best/best.json")["key"] for run in (undisturbed, Run(tmp_path / "run"))]
    assert best[0] == best[1]


def test_the_best_are_refined_before_the_winner_is_chosen(
    inputs: Inputs, undisturbed: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def make_worse(variant: Any, adapter: Any, batches: Any, **settings: Any) -> None:
        seen.append([(len(images), len(logits)) for images, logits, _ in batches()])
        with torch.no_grad():
            variant.head.weight.mul_(1.0 + len(seen))

    monkeypatch.setattr("trex.search.refined.refine", make_worse)
    out = tmp_path / "run"
    assert main(inputs.search(out, "--refined-candidates", "2")) == 0
    assert seen == [[(10, 10)]] * 2  # 0.6 of sixteen
    records = plain_records(Run.open(out))
    fitted = sorted(records, key=lambda r: -r["selection"]["soft_agreement"])
    refined = [r for r in records if "refined" in r]
    assert {r["key"] for r in refined} == {r["key"] for r in fitted[:2]}
    for record in records:
        names = [rung["rung"] for rung in record["rungs"]]
        assert names == ["surrogate", "fitted", *["refined"] * ("refined" in record)]
        assert record["rungs"][0]["loss"] == record["predicted_loss"]
        assert record["rungs"][1]["loss"] == record["selection"]["loss"]
        assert record["rungs"][1]["images"] == 10
    for record in refined:
        assert record["refined"]["n"] == record["selection"]["n"]
        assert record["refined"]["loss"] == record["rungs"][2]["loss"]
        assert record["refined"]["loss"] > record["selection"]["loss"]
    winner = max(refined, key=lambda r: r["refined"]["soft_agreement"])
    assert Run.open(out).read_json("best/best.json")["key"] == winner["key"]
    # what was fitted does not depend on what is refined later
    plain = {r["key"]: r["selection"] for r in plain_records(undisturbed)}
    assert {r["key"]: r["selection"] for r in records} == plain


def test_a_sweep_has_a_front_and_its_knee_can_be_measured(
    inputs: Inputs, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "run"
    flags = ["--pareto", "--max-latency", "1x", "--evaluations", "8", "--json"]
    assert main(inputs.search(out, *flags)) == 0
    result = json.loads(capsys.readouterr().out)
    front = result["front"]
    assert front["objectives"] == ["top1", "latency_s", "energy_j", "area_m2"]
    assert 0 < front["hypervolume"] <= 1
    assert result["proof"]["proved"]
    assert front["knee"] in result["pareto"]
    evaluate = ["evaluate", str(out), "--pick", "knee", "--data", str(inputs.labelled), "--json"]
    assert main(evaluate) == 0
    assert json.loads(capsys.readouterr().out)["plan"] == front["knee"]["plan"]


def test_the_best_plan_of_a_count_can_be_picked(undisturbed: Run) -> None:
    records = undisturbed.records()
    for count in {record.n_reuse for record in records} - {0}:
        same = [record for record in records if record.n_reuse == count]
        came = [of for r in same if (of := r.measured(last_rung(same))) is not None]
        most = max(of.soft_agreement for of in came)
        picked = pick_record(undisturbed, str(count))
        assert picked in same
        assert picked.measured(last_rung(same)).soft_agreement == most
    with pytest.raises(RunError, match="no plan of 99 consumers"):
        pick_record(undisturbed, "99")


def test_a_run_without_a_knee_says_so(undisturbed: Run, inputs: Inputs, tmp_path, capsys) -> None:
    out = tmp_path / "run"
    assert main(inputs.search(out, "--evaluations", "1")) == 0
    evaluate = ["evaluate", str(out), "--pick", "knee", "--data", str(inputs.labelled)]
    assert main(evaluate) == 2
    message = capsys.readouterr().err
    assert "has no knee" in message
    assert "--pareto" in message


def test_the_papers_strategy_predicts_nothing(inputs: Inputs, tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    assert main(inputs.search(out, "--strategy", "paper", "--json")) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["best"]["predicted_loss"] is None
    assert result["proof"] is None
    assert not (out / "surrogate.json").exists()
    assert [[rung["rung"] for rung in r["rungs"]] for r in plain_records(Run.open(out))] == [
        ["fitted"]
    ] * result["candidates"]["evaluated"]


def test_a_sampler_goes_on_from_the_solvers_plans(inputs: Inputs, tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    flags = ["--strategy", "optuna", "--evaluations", "8", "--json"]
    assert main(inputs.search(out, *flags)) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["candidates"]["evaluated"] == 8
    limit = 0.8 * result["baseline"]["latency_s"]
    records = plain_records(Run.open(out))
    assert all(r["estimate"]["latency_s"] <= limit * (1 + 1e-9) for r in records)


def test_images_that_cannot_be_read_leave_no_folder(
    inputs: Inputs, tmp_path: Path, capsys
) -> None:
    calib = write_images(tmp_path / "calib")
    for path in calib.rglob("*.png"):
        path.write_bytes(b"no image")
    assert main(inputs.search(tmp_path / "deep" / "run", "--calib", str(calib))) == 2
    assert "none of its 10 images can be read" in capsys.readouterr().err
    assert not (tmp_path / "deep").exists()


@pytest.mark.parametrize("flag", ["--workers", "--batch-size", "--evaluations"])
def test_numbers_that_are_too_small(flag: str, inputs: Inputs, tmp_path: Path, capsys) -> None:
    assert main(inputs.search(tmp_path / "run", flag, "0")) == 2
    assert f"{flag} 0 is too small" in capsys.readouterr().err


def test_soft_agreement_is_agreement_without_its_jumps() -> None:
    original = torch.tensor([[4.0, 1.0, 0.0], [0.0, 2.0, 1.0]])
    assert soft_agreement(100 * original, original) == pytest.approx(1.0)
    assert soft_agreement(-100 * original, original) == pytest.approx(0.0)
    variant = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, math.log(3.0)]])
    assert soft_agreement(variant, original) == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert soft_agreement(variant + 7.0, original) == pytest.approx(3 / 8)


def test_a_storage_is_checked_before_any_work(inputs: Inputs, tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    assert main(inputs.search(out, "--storage", "mysql://me@localhost/x")) == 2
    message = capsys.readouterr().err
    assert "is not a PostgreSQL database" in message
    assert "original" not in message
    assert not out.exists()
