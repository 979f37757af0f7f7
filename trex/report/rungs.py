"""What a search measured after the fits of its selection: refinements and short trainings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trex.search.ranking import order_of


@dataclass(frozen=True, kw_only=True, slots=True)
class RungResult:
    """One candidate on one rung, measured on the selection's images.

    Attributes:
        rung: `refined`, `finetuned-1`, ...
        images: what the rung spent, refined or trained on.
        top1: a fraction; None without labels.
        key: the candidate's.
    """

    rung: str
    key: str
    plan: str
    images: int
    loss: float
    agreement: float
    soft_agreement: float
    top1: float | None
    n: int


def rung_results(records: Sequence[dict[str, Any]]) -> tuple[RungResult, ...]:
    """Every rung's after the fit, rung by rung, as the records stand."""
    orders = {name: order_of(name) for record in records for name in record}
    later = sorted((order, name) for name, order in orders.items() if order)
    return tuple(
        _result(name, record) for _, name in later for record in records if name in record
    )


def _result(rung: str, record: dict[str, Any]) -> RungResult:
    measured = record[rung]
    spent = next(of for of in record["rungs"] if of["rung"] == rung)
    top1 = measured["top1"]
    return RungResult(
        rung=rung,
        key=str(record["key"]),
        plan=str(record["plan"]),
        images=int(spent["images"]),
        loss=float(measured["loss"]),
        agreement=float(measured["agreement"]),
        soft_agreement=float(measured["soft_agreement"]),
        top1=None if top1 is None else float(top1),
        n=int(measured["n"]),
    )
