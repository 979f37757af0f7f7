"""Which records nothing else beats. No torch in here: reports read it too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from trex.search.pareto import cost_front, hypervolume, knee, pareto_front
from trex.store.ranking import in_fixed_order, spread_of
from trex.store.record import Estimate, Record


def front_of(records: Sequence[Record]) -> list[Record]:
    """The records no other beats in both EDAP and selection loss, cheapest first.

    Of equal ones the first by key, so that it does not matter who was measured first. On a
    measured machine latency takes EDAP's place, and plans closer than its spread are not ranked.
    """
    records = in_fixed_order(records)
    front = cost_front(
        [record.estimate.overall for record in records],
        [record.selection.loss for record in records],
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
    records: list[Record]
    hypervolume: float
    knee: Record | None


def measured_front(records: Sequence[Record], baseline: Estimate) -> Front:
    """The front of fitted candidates, before any of them was refined or tuned.

    Args:
        records: at least one.
        baseline: what the original costs.
    """
    records = in_fixed_order(records)
    labelled = all(record.selection.top1 is not None for record in records)
    accuracy: Literal["top1", "agreement"] = "top1" if labelled else "agreement"
    spread = spread_of(records)
    costs = ("latency_s",) if spread else ("latency_s", "energy_j", "area_m2")
    objectives = np.array(
        [
            [
                1.0 - getattr(record.selection, accuracy),
                *(
                    float(f"{getattr(record.estimate, name) / getattr(baseline, name):.9g}")
                    for name in costs
                ),
            ]
            for record in records
        ]
    )
    front = (
        cost_front(objectives[:, 1].tolist(), objectives[:, 0].tolist(), spread)
        if spread
        else pareto_front(objectives).tolist()
    )
    kept = sorted((records[i] for i in front), key=lambda record: record.estimate.overall)
    bent = front_of(records)
    number = knee(np.array([[r.estimate.overall, r.selection.loss] for r in bent]))
    return Front(
        accuracy=accuracy,
        costs=costs,
        records=kept,
        hypervolume=hypervolume(objectives, np.ones(1 + len(costs))),
        knee=None if number is None else bent[number],
    )
