"""What a finished search tells: one JSON object, the same for programs and for the table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from trex.fit.choose import CHOSEN
from trex.hardware import without_dead_rows
from trex.models.registry import architecture_of
from trex.search.agreement import Agreement
from trex.search.engine import Search
from trex.search.pick import record_of
from trex.search.ranking import best_first, last_rung
from trex.search.records import front_of, measured_front
from trex.store.run import TIMINGS, Run


def outcome(
    search: Search,
    best: dict[str, Any],
    evaluate: Callable[[Path], dict[str, Any]] | None,
) -> dict[str, Any]:
    """The search's answer.

    Args:
        search: finished.
        best: what `Search.execute` returned.
        evaluate: measures a bundle on `--eval`; None where there is none.
    """
    problem = search.problem
    baseline = search.priced.baseline.estimate(0, problem.device, problem.accounting)
    records = search.run.records()
    front = measured_front(records, baseline)
    winner = record_of(search.run, best["key"])
    rung = last_rung(records)
    return {
        "run": str(search.run.path),
        "model": problem.loaded.name,
        "chip": problem.device.name,
        "basis": problem.device.basis,
        "accounting": problem.accounting,
        "budget": search.run.manifest()["settings"]["budget"],
        "strategy": problem.settings.strategy,
        "ranked_by": "fitted" if rung == "selection" else rung,
        "ranked_on": winner.get("ranked_on", "soft_agreement"),
        "baseline": baseline,
        "fit": fit_of(search.run),
        "producers": best.get("producers", {}),
        "agreement": Agreement.of_best(winner).as_json(),
        "best": {**_short(winner), "evaluation": evaluate(search.run.best) if evaluate else None},
        "finetuned": _finetuned(search.run, evaluate)
        if problem.settings.finetuning.images
        else None,
        "pareto": [_short(record) for record in front_of(records)],
        "front": {
            "objectives": [front.accuracy, *front.costs],
            "points": [_short(record) for record in front.records],
            "hypervolume": front.hypervolume,
            "knee": None if front.knee is None else _short(front.knee),
        },
        "timings": _timings(search.run, winner),
        "proof": search.proof,
        **(_given(search, records) if problem.plans else {}),
        "candidates": {
            "space": search.run.manifest()["space_size"],
            "feasible": search.run.manifest()["feasible"],
            "evaluated": len(records),
        },
    }


def fit_answer(result: dict[str, Any]) -> dict[str, Any]:
    """What a fit of given plans tells programs: its best plan, and all of them.

    Args:
        result: what `outcome` gave.
    """
    best, baseline, trimmed = (
        result["best"],
        result["baseline"],
        result["baseline_without_dead_rows"],
    )
    return {
        **{name: best[name] for name in ("plan", "n_reuse", "transform", "key", "evaluation")},
        **{name: result[name] for name in ("run", "model", "chip", "accounting")},
        "estimate": best["estimate"],
        "baseline": baseline,
        "relative": relative(best["estimate"], baseline),
        "baseline_without_dead_rows": trimmed,
        "relative_without_dead_rows": (
            None if trimmed is None else relative(best["estimate"], trimmed)
        ),
        "selection": best["selection"],
        "agreement": result["agreement"],
        "fit": result["fit"],
        "ranked_by": result["ranked_by"],
        "plans": [
            {**record, "relative": relative(record["estimate"], baseline)}
            for record in result["plans"]
        ],
        "seconds": result["seconds"],
    }


def fit_of(run: Run) -> dict[str, float | None]:
    """How a run's plans are fitted: what was chosen, or what version 0.1 always did."""
    stored, used = run.fitting(), run.manifest()["settings"]["search"]["fit"]
    if stored is not None:
        used = {**used, **stored["chosen"]}
    return {name: used.get(name) for name in CHOSEN}


def relative(estimate: dict[str, Any], baseline: dict[str, Any]) -> dict[str, Any]:
    """An estimate as shares of another's, under their accounting."""
    names = {
        "latency": "latency_s",
        "energy": "energy_j",
        "area": "area_m2",
        "edap": "edap_mj_ms_mm2",
        "parameters": "parameters",
        "macs": "macs",
    }
    shares = {
        name: None if estimate[field] is None else estimate[field] / baseline[field]
        for name, field in names.items()
    }
    return {"accounting": estimate["accounting"], **shares}


def _timings(run: Run, winner: dict[str, Any]) -> dict[str, Any] | None:
    """Finalists timed whole on a measured machine; None on a chip, which nobody can time."""
    if not (run.path / TIMINGS).exists():
        return None
    told = {name: of for name, of in run.read_json(TIMINGS).items() if name != "schema"}
    return {**told, "chosen": winner["key"]}


def _given(search: Search, records: list[dict[str, Any]]) -> dict[str, Any]:
    """What is told of given plans alone: all of them, the best first, and one more baseline."""
    loaded = search.problem.loaded
    trimmed = without_dead_rows(architecture_of(loaded.model, loaded.name))
    return {
        "plans": [_short(record) for record in best_first(records, "selection")],
        "baseline_without_dead_rows": None if trimmed is None else search.estimate(trimmed),
    }


def _finetuned(run: Run, evaluate: Callable[[Path], dict[str, Any]] | None) -> dict[str, Any]:
    """The winner after its short training, apart from all that was measured before it."""
    stored = run.read_json("finetuned/finetuned.json")
    told = {name: stored[name] for name in ("plan", "rung", "images", "measured")}
    return {**told, "evaluation": evaluate(run.finetuned) if evaluate else None}


def _short(record: dict[str, Any]) -> dict[str, Any]:
    always = ("key", "plan", "n_reuse", "transform", "estimate", "predicted_loss", "selection")
    names = (*always, *(name for name in ("confirmed", "refined", "rungs") if name in record))
    return {name: record[name] for name in names}
