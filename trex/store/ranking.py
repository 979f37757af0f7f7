"""Which record is best. No torch in here: reports read it too."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from trex.plan import Plan
from trex.store.record import SELECTION, Record

#: what records call their short trainings: `finetuned-1`, `finetuned-2`, ...
_FINETUNED: Final = "finetuned-"
_RUNG: Final = re.compile(rf"{_FINETUNED}([1-9][0-9]{{0,3}})")


def finetuned_rung(number: int) -> str:
    """The name of a rung of short trainings in records; from 1."""
    return f"{_FINETUNED}{number}"


def in_fixed_order(records: Iterable[Record]) -> list[Record]:
    """Records by loss, then key: whichever process finished which first."""
    return sorted(records, key=lambda record: (record.selection.loss, record.key))


def best_first(records: Iterable[Record], rung: str) -> list[Record]:
    """The records that came to a rung, by what it measured, the best first.

    Rungs are `selection`, `confirmed`, `refined` and `finetuned-1`, `finetuned-2`, ...
    By soft agreement, or by the loss where the records say so (`ranked_on`); of equals the
    cheapest comes first (on a chip: measured latencies this close cannot be told apart), then the
    one of less loss, then by key. Nothing agrees with the original more than itself: a variant
    that is surer comes after it.
    """
    came = [(record, found) for record in records if (found := record.measured(rung))]
    came.sort(
        key=lambda pair: (
            pair[0].plan != "",
            pair[1].loss if pair[0].ranked_on == "loss" else -pair[1].soft_agreement,
            0.0 if pair[0].estimate.spread else pair[0].estimate.overall,
            pair[0].selection.loss,
            pair[0].key,
        )
    )
    return [record for record, _ in came]


def spread_of(records: Iterable[Record]) -> float:
    """How much closer, relatively, their costs cannot be told apart; 0 on a chip."""
    return max((record.estimate.spread or 0.0 for record in records), default=0.0)


def order_of(rung: str) -> int:
    """Where a rung stands."""
    if found := _RUNG.fullmatch(rung):
        return 2 + int(found[1])
    return {SELECTION: 0, "confirmed": 1, "refined": 2}[rung]


def last_rung(records: Iterable[Record]) -> str:
    """The last rung that any record came to, as `best_first` names it."""
    return max((SELECTION, *(name for r in records for name in r.later)), key=order_of)


def best_record(records: Iterable[Record]) -> Record:
    """The best record of those that came to the last rung any came to."""
    known = list(records)
    return best_first(known, last_rung(known))[0]


def furthest_first(records: Iterable[Record]) -> list[Record]:
    """All records: those that came to the last rung, the best of them first, then the others."""
    left, ordered = list(records), list[Record]()
    while left:
        came = best_first(left, last_rung(left))
        keys = {record.key for record in came}
        ordered += came
        left = [record for record in left if record.key not in keys]
    return ordered


def records_of(records: Iterable[Record], text: str) -> list[Record]:
    """The records of a plan in text; whatever the transforms it leaves out.

    Raises:
        PlanError: the text is not of a plan.
    """
    asked, other = (Plan.parse(text, transform) for transform in ("linear", "none"))
    left_out = {a.consumer for a, b in zip(asked.reuses, other.reuses, strict=True) if a != b}

    def matches(record: Record) -> bool:
        plan = record.parsed
        same = (plan.merges, plan.rows, plan.consumers) == (
            asked.merges,
            asked.rows,
            asked.consumers,
        )
        return same and all(
            own == (replace(meant, transform=own.transform) if own.consumer in left_out else meant)
            for own, meant in zip(plan.reuses, asked.reuses, strict=True)
        )

    return [record for record in records if matches(record)]
