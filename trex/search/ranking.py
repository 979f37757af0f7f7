"""Which record is best. No torch in here: reports read it too."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def best_first(records: Iterable[dict[str, Any]], rung: str) -> list[dict[str, Any]]:
    """Records by soft agreement in `selection` or `refined`; of equals the cheapest first.

    Nothing agrees with the original more than itself: a variant that is surer comes after it.
    """
    return sorted(
        records,
        key=lambda r: (
            r["plan"] != "",
            -r[rung]["soft_agreement"],
            r["estimate"]["edap_mj_ms_mm2"],
        ),
    )


def best_record(records: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The record of most soft agreement on the last rung any came to; of equals the cheapest."""
    known = list(records)
    refined = [record for record in known if "refined" in record]
    return best_first(refined or known, "refined" if refined else "selection")[0]
