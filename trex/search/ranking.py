"""Which record is best. No torch in here: reports read it too."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from trex.plan import Plan
from trex.store.record import overall
from trex.stored import read_plan

#: what a record holds of its short trainings: `finetuned-1`, `finetuned-2`, ...
_FINETUNED: Final = "finetuned-"
_RUNG: Final = re.compile(rf"{_FINETUNED}([1-9][0-9]{{0,3}})")


def finetuned_rung(number: int) -> str:
    """The name of a rung of short trainings, and of what a record holds of it; from 1."""
    return f"{_FINETUNED}{number}"


def in_fixed_order(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records by loss, then key: whichever process finished which first."""
    return sorted(records, key=lambda record: (record["selection"]["loss"], record["key"]))


def best_first(records: Iterable[dict[str, Any]], rung: str) -> list[dict[str, Any]]:
    """Records by what a rung measured, the best first.

    Rungs are `selection`, `confirmed`, `refined` and `finetuned-1`, `finetuned-2`, ...
    By soft agreement, or by the loss where the records say so (`ranked_on`); of equals the
    cheapest comes first (on a chip: measured latencies this close cannot be told apart), then
    the one of less loss, then by key. Nothing agrees with the original
    more than itself: a variant that is surer comes after it.
    """

    def merit(record: dict[str, Any]) -> float:
        measured = record[rung]
        if record.get("ranked_on") == "loss":
            return float(measured["loss"])
        return -float(measured["soft_agreement"])

    return sorted(
        records,
        key=lambda r: (
            r["plan"] != "",
            merit(r),
            0.0 if r["estimate"].get("spread") else overall(r["estimate"]),
            r["selection"]["loss"],
            r["key"],
        ),
    )


def spread_of(records: Iterable[dict[str, Any]]) -> float:
    """How much closer, relatively, their costs cannot be told apart; 0 on a chip."""
    return max((r["estimate"].get("spread") or 0.0 for r in records), default=0.0)


def order_of(name: str) -> int | None:
    """Where a rung of measurements stands; None for whatever else a record holds."""
    if found := _RUNG.fullmatch(name):
        return 2 + int(found[1])
    return {"selection": 0, "confirmed": 1, "refined": 2}.get(name)


def last_rung(records: Iterable[dict[str, Any]]) -> str:
    """The last rung that any record came to, as `best_first` names it."""
    orders = {name: order_of(name) for record in records for name in record}
    return max((order, name) for name, order in orders.items() if order is not None)[1]


def best_record(records: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The best record of those that came to the last rung any came to."""
    known = list(records)
    rung = last_rung(known)
    return best_first([record for record in known if rung in record], rung)[0]


def furthest_first(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """All records: those that came to the last rung, the best of them first, then the others."""
    left, ordered = list(records), []
    while left:
        rung = last_rung(left)
        ordered += best_first([record for record in left if rung in record], rung)
        left = [record for record in left if rung not in record]
    return ordered


def passed_over(timings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Timed plans that would have been chosen if they had held the limit, the best first."""
    found: list[dict[str, Any]] = []
    for row in timings["rows"]:
        if row["key"] == timings["chosen"]:
            break
        if not row["holds"]:
            found.append(row)
    return found


def records_of(records: Iterable[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    """The records of a plan in text; whatever the transforms it leaves out.

    Raises:
        PlanError: the text is not of a plan.
    """
    asked, other = (Plan.parse(text, transform) for transform in ("linear", "none"))
    left_out = {a.consumer for a, b in zip(asked.reuses, other.reuses, strict=True) if a != b}

    def matches(record: Mapping[str, Any]) -> bool:
        plan = read_plan(record)
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
