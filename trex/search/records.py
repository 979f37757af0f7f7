"""Candidates as records: what was measured, and which are on the front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor

from trex.fit.loss import answers, mean_kl
from trex.search.pareto import cost_front, hypervolume, knee, pareto_front
from trex.search.ranking import in_fixed_order, spread_of
from trex.store.record import overall


def spent_on(rung: str, loss: float, images: int, seconds: float) -> dict[str, Any]:
    """What one rung found and spent on a candidate, for its record."""
    return {"rung": rung, "loss": loss, "images": images, "seconds": round(seconds, 3)}


def soft_agreement(logits: Tensor, original: Tensor) -> float:
    """How surely a variant gives the original's first guess, between 0 and 1.

    The mean of 1 / (1 + exp(-margin)), with the margin in logits by which the original's first
    guess leads all other classes. It is agreement without its jumps, so a few hundred images tell
    plans apart, and it ranks top-1 on other images better than KL divergence (docs/search.md).
    """
    first = original.argmax(1, keepdim=True)
    own = logits.double().gather(1, first)
    others = logits.double().scatter(1, first, -math.inf).amax(1, keepdim=True)
    return float((own - others).sigmoid().mean())


def selection_metrics(logits: Tensor, original: Tensor, labels: Tensor) -> dict[str, Any]:
    """How a fitted candidate does on the selection images; accuracies None without labels."""
    labelled = bool((labels >= 0).all())
    logits = answers(logits, original)

    def top1(of: Tensor) -> float | None:
        return float((of.argmax(1) == labels).double().mean()) if labelled else None

    return {
        "loss": mean_kl(logits, original),
        "agreement": float((logits.argmax(1) == original.argmax(1)).double().mean()),
        "soft_agreement": soft_agreement(logits, original),
        "top1": top1(logits),
        "baseline_top1": top1(original),
        "n": len(logits),
    }


def front_of(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records no other beats in both EDAP and selection loss, cheapest first.

    Of equal ones the first by key, so that it does not matter who was measured first. On a
    measured machine latency takes EDAP's place, and plans closer than its spread are not ranked.
    """
    records = in_fixed_order(records)
    front = cost_front(
        [overall(record["estimate"]) for record in records],
        [record["selection"]["loss"] for record in records],
        spread_of(records),
    )
    return [records[i] for i in front]


@dataclass(frozen=True, kw_only=True, slots=True)
class Front:
    """What was measured, without what something else beats in everything.

    Attributes:
        accuracy: what counts as accuracy: `top1`, or `agreement` where there are no labels.
        costs: that count beside it: latency, energy and area, or latency alone where nothing
            else was measured.
        records: of the front of inaccuracy and these; the cheapest first.
        hypervolume: the share that they beat of all that is cheaper than the original and not
            always wrong: between 0 and 1, larger is better.
        knee: on the front of EDAP (or latency) and loss, the record where it bends most; None
            where it does not bend.
    """

    accuracy: Literal["top1", "agreement"]
    costs: tuple[str, ...]
    records: list[dict[str, Any]]
    hypervolume: float
    knee: dict[str, Any] | None


def measured_front(records: Sequence[dict[str, Any]], baseline: dict[str, Any]) -> Front:
    """The front of fitted candidates, before any of them was refined or tuned.

    Args:
        records: at least one.
        baseline: what the original costs.
    """
    records = in_fixed_order(records)
    labelled = all(record["selection"]["top1"] is not None for record in records)
    accuracy: Literal["top1", "agreement"] = "top1" if labelled else "agreement"
    spread = spread_of(records)
    costs = ("latency_s",) if spread else ("latency_s", "energy_j", "area_m2")
    objectives = np.array(
        [
            [
                1.0 - record["selection"][accuracy],
                *(float(f"{record['estimate'][name] / baseline[name]:.9g}") for name in costs),
            ]
            for record in records
        ]
    )
    front = (
        cost_front(objectives[:, 1].tolist(), objectives[:, 0].tolist(), spread)
        if spread
        else pareto_front(objectives).tolist()
    )
    kept = sorted((records[i] for i in front), key=lambda record: overall(record["estimate"]))
    bent = front_of(records)
    prices = [[overall(r["estimate"]), r["selection"]["loss"]] for r in bent]
    number = knee(np.array(prices))
    return Front(
        accuracy=accuracy,
        costs=costs,
        records=kept,
        hypervolume=hypervolume(objectives, np.ones(1 + len(costs))),
        knee=None if number is None else bent[number],
    )
