"""What a finished search tells: one JSON object, the same for programs and for the table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from trex.search.engine import Search
from trex.search.ranking import last_rung
from trex.search.records import front_of, measured_front
from trex.search.run import Run


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
    baseline = search.priced.baseline.estimate(0, problem.chip, problem.accounting)
    records = search.run.records()
    front = measured_front(records, baseline)
    winner = next(record for record in records if record["key"] == best["key"])
    rung = last_rung(records)
    return {
        "run": str(search.run.path),
        "model": problem.loaded.name,
        "chip": problem.chip.name,
        "accounting": problem.accounting,
        "budget": search.run.manifest()["settings"]["budget"],
        "strategy": problem.settings.strategy,
        "ranked_by": "fitted" if rung == "selection" else rung,
        "ranked_on": winner.get("ranked_on", "soft_agreement"),
        "baseline": baseline,
        "best": {**_short(winner), "evaluation": evaluate(search.run.best) if evaluate else None},
        "finetuned": _finetuned(search.run, evaluate)
        if problem.settings.finetuning.images
        else None,
        "pareto": [_short(record) for record in front_of(records)],
        "front": {
            "objectives": [front.accuracy, "latency_s", "energy_j", "area_m2"],
            "points": [_short(record) for record in front.records],
            "hypervolume": front.hypervolume,
            "knee": None if front.knee is None else _short(front.knee),
        },
        "proof": search.proof,
        "candidates": {
            "space": search.priced.space.size,
            "feasible": search.run.manifest()["feasible"],
            "evaluated": len(records),
        },
    }


def _finetuned(run: Run, evaluate: Callable[[Path], dict[str, Any]] | None) -> dict[str, Any]:
    """The winner after its short training, apart from all that was measured before it."""
    stored = run.read_json("finetuned/finetuned.json")
    told = {name: stored[name] for name in ("plan", "rung", "images", "measured")}
    return {**told, "evaluation": evaluate(run.finetuned) if evaluate else None}


def _short(record: dict[str, Any]) -> dict[str, Any]:
    always = ("plan", "n_reuse", "transform", "estimate", "predicted_loss", "selection")
    names = (*always, *(name for name in ("refined", "rungs") if name in record))
    return {name: record[name] for name in names}
