"""What a search measured after the fits of its selection: refinements and short trainings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trex.store.ranking import order_of
from trex.store.record import Measured, Record


@dataclass(frozen=True, kw_only=True, slots=True)
class RungResult:
    """One candidate on one rung, measured on the selection's images.

    Attributes:
        rung: `refined`, `finetuned-1`, ...
        key: the candidate's.
        images: what the rung spent, refined or trained on.
    """

    rung: str
    key: str
    plan: str
    images: int
    measured: Measured


def rung_results(records: Sequence[Record]) -> tuple[RungResult, ...]:
    """Every rung's after the fit, rung by rung, as the records stand."""
    found = [
        RungResult(
            rung=rung,
            key=record.key,
            plan=record.plan,
            images=record.spent(rung).images,
            measured=measured,
        )
        for record in records
        for rung, measured in record.later.items()
    ]
    return tuple(sorted(found, key=lambda result: order_of(result.rung)))
