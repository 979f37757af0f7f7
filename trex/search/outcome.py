"""What a finished search tells: one JSON object, the same for programs and for the table."""

from __future__ import annotations

from typing import Any

from trex.search.engine import Search
from trex.search.records import front_of, measured_front


def outcome(
    search: Search, best: dict[str, Any], evaluation: dict[str, Any] | None
) -> dict[str, Any]:
    """The search's answer.

    Args:
        search: finished.
        best: what `Search.execute` returned.
        evaluation: the winner's measurement on `--eval`, or None.
    """
    problem = search.problem
    baseline = search.priced.baseline.estimate(0, problem.chip, problem.accounting)
    records = search.run.records()
    front = measured_front(records, baseline)
    winner = next(record for record in records if record["key"] == best["key"])
    return {
        "run": str(search.run.path),
        "model": problem.loaded.name,
        "chip": problem.chip.name,
        "accounting": problem.accounting,
        "budget": search.run.manifest()["settings"]["budget"],
        "strategy": problem.settings.strategy,
        "ranked_by": "refined" if "refined" in winner else "fitted",
        "baseline": baseline,
        "best": {**_short(winner), "evaluation": evaluation},
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


def _short(record: dict[str, Any]) -> dict[str, Any]:
    always = ("plan", "n_reuse", "transform", "estimate", "predicted_loss", "selection")
    names = (*always, *(name for name in ("refined", "rungs") if name in record))
    return {name: record[name] for name in names}
