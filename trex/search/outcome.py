"""What a finished search tells: one JSON object, the same for programs and for the table."""

from __future__ import annotations

from typing import Any

from trex.search.engine import Search
from trex.search.records import front_of


def outcome(
    search: Search, best: dict[str, Any], evaluation: dict[str, Any] | None
) -> dict[str, Any]:
    """The search's answer.

    Args:
        search: finished.
        best: what `Search.execute` returned.
        evaluation: the winner's measurement on `--eval`, or None.
    """
    problem, baseline = search.problem, search.priced.baseline
    records = search.run.records()
    winner = next(record for record in records if record["key"] == best["key"])
    return {
        "run": str(search.run.path),
        "model": problem.loaded.name,
        "chip": problem.chip.name,
        "accounting": problem.accounting,
        "budget": search.run.manifest()["settings"]["budget"],
        "baseline": baseline.estimate(0, problem.chip, problem.accounting),
        "best": {**_short(winner), "evaluation": evaluation},
        "pareto": [_short(record) for record in front_of(records)],
        "candidates": {
            "space": search.priced.space.size,
            "feasible": search.run.manifest()["feasible"],
            "evaluated": len(records),
        },
    }


def _short(record: dict[str, Any]) -> dict[str, Any]:
    names = ("plan", "n_reuse", "transform", "estimate", "predicted_loss", "selection")
    return {name: record[name] for name in names}
