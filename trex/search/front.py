"""Which records nothing else beats. No torch in here: reports read it too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from trex.search.pareto import hypervolume, knee, pareto_front
from trex.store.ranking import in_fixed_order
from trex.store.record import Estimate, Record


def front_of(records: Sequence[Record]) -> list[Record]:
    """The records no other beats in both EDAP and selection loss, cheapest first.

    Of equal ones the first by key, so that it does not matter who was measured first.
    """
    records = in_fixed_order(records)
    objectives = np.array(
        # Equal plans differ in the last digits, by the order in which their encoders are added up.
        [[float(f"{r.estimate.edap_mj_ms_mm2:.9g}"), r.selection.loss] for r in records]
    )
    return [records[i] for i in pareto_front(objectives)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Front:
    """What was measured, without what something else beats in everything.

    Attributes:
        accuracy: what counts as accuracy: `top1`, or `agreement` where there are no labels.
        records: of the front of inaccuracy, latency, energy and area; the cheapest first.
        hypervolume: the share that they beat of all that is cheaper than the original and not
            always wrong: between 0 and 1, larger is better.
        knee: on the front of EDAP and loss, the record where it bends most; None where it does
            not bend.
    """

    accuracy: Literal["top1", "agreement"]
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
    objectives = np.array(
        [
            [
                1.0 - getattr(record.selection, accuracy),
                *(
                    float(f"{getattr(record.estimate, name) / getattr(baseline, name):.9g}")
                    for name in ("latency_s", "energy_j", "area_m2")
                ),
            ]
            for record in records
        ]
    )
    kept = sorted(
        (records[i] for i in pareto_front(objectives)),
        key=lambda record: record.estimate.edap_mj_ms_mm2,
    )
    bent = front_of(records)
    prices = [[r.estimate.edap_mj_ms_mm2, r.selection.loss] for r in bent]
    number = knee(np.array(prices))
    return Front(
        accuracy=accuracy,
        records=kept,
        hypervolume=hypervolume(objectives, np.ones(4)),
        knee=None if number is None else bent[number],
    )
