"""The comparison as a table for terminals, as rows for papers, and as plain values."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

from trex.compare.options import BEYOND_LIMIT, Group, Row
from trex.compare.target import Price
from trex.report.tables import Row as Cells
from trex.report.tables import aligned, percent, points
from trex.units import significant

_HEADINGS: Final[dict[Group, str]] = {
    "original": "",
    "within": "within the limit",
    "beyond": "cannot reach the limit",
    "unpriced": "not priced",
    "trained": "as published, trained",
    "models": "other models",
}


#: of lines for terminals
_WIDTH: Final = 100
_LEAST_NAME: Final = 16


def best_row(rows: Sequence[Row]) -> Row | None:
    """The measured method within the limit with the highest top-1; of equals the lower EDAP.

    On a measured machine the lower latency.

    Fine-tuned variants do not compete with those that are not trained.
    """
    found = [(r.measured, r.price, r) for r in rows if r.group == "within" and not r.finetuned]
    ranked = [
        (-measured.top1, price.overall, number, row)
        for number, (measured, price, row) in enumerate(found)
        if measured is not None and price is not None
    ]
    return min(ranked)[3] if ranked else None


def as_json(rows: Sequence[Row]) -> list[dict[str, object]]:
    """Every row; estimates under `estimate`, measurements under `measured`.

    EDAP gains are over the original as loaded, and over the original without dead rows: null
    where its head reads every row.
    """
    best = best_row(rows)
    result = []
    for row in rows:
        fields = asdict(row)
        del fields["price"]
        fields["estimate"] = None if row.price is None else _estimate(row.price, rows)
        result.append({**fields, "best": row is best})
    return result


def _estimate(price: Price, rows: Sequence[Row]) -> dict[str, object]:
    original = _original(rows)
    gain, gain_trimmed = _gains(price, rows)
    of_chip = price.edap_mj_ms_mm2 is not None
    return {
        **asdict(price),
        "basis": "estimate" if of_chip else "measured",
        "edap_mj_ms_mm2": price.edap_mj_ms_mm2,
        "latency_ratio": price.latency_s / original.latency_s,
        "energy_ratio": _ratio(price.energy_j, original.energy_j),
        "area_ratio": _ratio(price.area_m2, original.area_m2),
        "edap_gain": gain if of_chip else None,
        "edap_gain_without_dead_rows": gain_trimmed if of_chip else None,
        **({} if of_chip else {"speedup": gain, "speedup_without_dead_rows": gain_trimmed}),
    }


def _ratio(value: float | None, original: float | None) -> float | None:
    return None if value is None or original is None else value / original


def text_table(rows: Sequence[Row]) -> list[str]:
    """At most 100 columns; `*` marks what keeps most, `e` the lowest EDAP within the limit."""
    best, cheapest = best_row(rows), _cheapest(rows)
    costs = ("energy", "area", "EDAP") if _of_chip(rows) else ("faster",)
    head: Cells = ("method", "lat.", *costs, "live", "Mpar", "GMAC", "top-1", "change", "publ.")
    body: list[Cells] = []
    headings: dict[int, str] = {}
    group: Group = "original"
    for row in rows:
        if row.group == "unpriced":
            continue
        if row.group != group:
            group = row.group
            headings[len(body)] = _HEADINGS[group]
        mark = "*" if row is best else "e" if row is cheapest else " "
        body.append((
            f"{mark} {_name(row)}", *_ratios(row, rows), *_measurement(row),
            "-" if row.published_top1 is None else f"{row.published_top1:.1f}",
        ))  # fmt: skip
    lines = _aligned(head, body)
    shown = lines[:2]
    for number, line in enumerate(lines[2:]):
        if number in headings:
            shown.append(f"{headings[number]}:")
        shown.append(line)
    return shown


def _aligned(head: Cells, body: Sequence[Cells]) -> list[str]:
    """A table; names are cut where it would be too wide."""
    others = aligned(head[1:], [row[1:] for row in body], left=())
    room = max(_LEAST_NAME, _WIDTH - len(others[1]) - 2)
    return aligned(head, [(_cut(row[0], room), *row[1:]) for row in body])


def legend(
    rows: Sequence[Row], accounting: str, data: str, spread: float | None = None
) -> list[str]:
    """What the columns are, who wins, and what each row's encoders and plans are.

    Args:
        rows: of the table.
        accounting: of their prices.
        data: what was measured on.
        spread: of a measured machine; None on a chip.
    """
    measured = next((row.measured for row in rows if row.measured), None)
    lines = [
        f"Estimates, {accounting} accounting: lat., energy, area as shares of the original's, "
        "EDAP how",
        "many times lower; live: EDAP against the original without dead rows, where it has any.",
    ]
    if spread is not None:
        lines = [
            "Predicted by the measured machine: lat. as a share of the original's, and how many "
            "times",
            "faster; live: than the original without dead rows, where it has any. Latencies "
            "closer than",
            f"its spread, {100 * spread:.1f} %, are not ranked. Energy and area: nobody measured "
            "them.",
        ]
    lines += [
        "Mpar, GMAC: millions of parameters, billions of multiply-accumulates.",
        "publ.: top-1 % on all of ImageNet as published, after training; never measured here.",
    ]
    if measured is not None:
        lines += [
            "Measured without training, unless said: top-1 %, and its change in points, paired",
            "with the original; ±: half of the 95 % interval. same: as the original, exactly.",
            f"{measured.n} images of {data}",
        ]
    lines += ["", *verdict(rows, spread)]
    details = [
        f"{_name(row)}: {row.encoders or row.plan}"
        for row in rows
        if (row.encoders or row.plan) and row.group != "original"
    ]
    notes = [f"{_name(row)}: {row.note}" for row in rows if row.note and row.note != BEYOND_LIMIT]
    for title, entries in (("encoders and plans:", details), ("notes:", notes)):
        lines += (
            ["", title, *(part for line in entries for part in _wrapped(line))] if entries else []
        )
    return lines


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent="  ", subsequent_indent="    ", break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def verdict(rows: Sequence[Row], spread: float | None = None) -> list[str]:
    """Who wins, in words; `spread`: of a measured machine."""
    best, cheapest = best_row(rows), _cheapest(rows)
    if cheapest is None:
        return ["no method is within the limit"]
    lines = []
    if best is not None and best.measured is not None:
        lines.append(
            f"* within the limit {_name(best)} keeps most: {percent(best.measured.top1)} %, "
            f"{points(best.measured.difference)} points."
        )
    assert cheapest.price is not None
    gain, _ = _gains(cheapest.price, rows)
    mark = "*" if cheapest is best else "e"
    if spread is None:
        lines.append(f"{mark} lowest EDAP within the limit: {_name(cheapest)}, {gain:.2f}x lower.")
        return lines
    lines.append(f"{mark} fastest within the limit: {_name(cheapest)}, {gain:.2f}x faster.")
    alike = [
        _name(row)
        for row in rows
        if row.group == "within" and row.price is not None and row is not cheapest
        and row.price.latency_s <= cheapest.price.latency_s * (1 + spread)
    ]  # fmt: skip
    if alike:
        lines += _wrapped(f"not told apart from it: {', '.join(alike)}")
    return lines


def table_rows(rows: Sequence[Row], accounting: str) -> tuple[Cells, list[Cells]]:
    """Head and rows for CSV, Markdown and LaTeX; every price in full."""
    original, of_chip = _original(rows), _of_chip(rows)
    by = f"(estimate, {accounting})" if of_chip else "(predicted by a measured machine)"
    gain_name = "EDAP gain" if of_chip else "speed-up"
    others = ("energy uJ", "area mm2", "EDAP mJ*ms*mm2") if of_chip else ()
    names = (
        "latency ms", "latency ratio", *others, gain_name,
        f"{gain_name} over the original without dead rows",
    )  # fmt: skip
    head = (
        "group", "method", "setting", "encoders or plan", *(f"{name} {by}" for name in names),
        "parameters M", "GMAC", "measured top-1 %", "measured change, points", "95 % low",
        "95 % high", "images", "published top-1 %", "source",
    )  # fmt: skip
    body: list[Cells] = []
    for row in rows:
        price, measured = row.price, row.measured
        prices: Cells = ("-",) * (len(names) + 2)
        if price is not None:
            prices = (
                significant(price.latency_s * 1e3), f"{price.latency_s / original.latency_s:.3f}",
                *(
                    significant(value * scale)
                    for value, scale in (
                        (price.energy_j, 1e6), (price.area_m2, 1e6), (price.edap_mj_ms_mm2, 1.0),
                    )
                    if value is not None
                ),
                *("-" if gain is None else f"{gain:.3f}" for gain in _gains(price, rows)),
                f"{price.parameters / 1e6:.2f}", f"{price.macs / 1e9:.3f}",
            )  # fmt: skip
        found: Cells = ("-",) * 5
        if measured is not None:
            low, high = measured.ci95
            found = (
                percent(measured.top1), points(measured.difference), points(low), points(high),
                str(measured.n),
            )  # fmt: skip
        trained = "-" if row.published_top1 is None else f"{row.published_top1:.1f}"
        body.append((
            _HEADINGS[row.group] or "original", row.title, row.setting or "-",
            row.encoders or row.plan or "-", *prices, *found, trained, row.source or "-",
        ))  # fmt: skip
    return head, body


def _cheapest(rows: Sequence[Row]) -> Row | None:
    """Of lowest EDAP, or latency, within the limit; the first of equals."""
    within = [row for row in rows if row.group == "within" and row.price is not None]
    return min(within, key=lambda row: row.price.overall if row.price else 0.0, default=None)


def _of_chip(rows: Sequence[Row]) -> bool:
    """Whether prices are a chip's; a measured machine's are latencies alone."""
    return _original(rows).edap_mj_ms_mm2 is not None


def _original(rows: Sequence[Row]) -> Price:
    """The original's price: it heads every table."""
    price = next(row.price for row in rows if row.group == "original")
    assert price is not None
    return price


def _gains(price: Price, rows: Sequence[Row]) -> tuple[float, float | None]:
    """How many times lower an EDAP is than the original's, and than that without dead rows.

    On a measured machine: a latency.
    """
    trimmed = next((row.without_dead_rows for row in rows if row.without_dead_rows), None)
    gain = _original(rows).overall / price.overall
    return gain, None if trimmed is None else trimmed.overall / price.overall


def _name(row: Row) -> str:
    tuned = ", fine-tuned" if row.finetuned else ""
    return f"{row.title}{tuned}" + (f", {row.setting}" if row.setting else "")


def _ratios(row: Row, rows: Sequence[Row]) -> Cells:
    original, price = _original(rows), row.price
    others = (
        ((price.energy_j, original.energy_j), (price.area_m2, original.area_m2))
        if price is not None and _of_chip(rows)
        else ()
    )
    if price is None:
        return ("-",) * (7 if _of_chip(rows) else 5)
    return (
        f"{price.latency_s / original.latency_s:.2f}",
        *(f"{value / of:.2f}" for value, of in others if value is not None and of),
        *("-" if gain is None else f"{gain:.2f}" for gain in _gains(price, rows)),
        f"{price.parameters / 1e6:.1f}",
        f"{price.macs / 1e9:.2f}",
    )


def _measurement(row: Row) -> Cells:
    measured = row.measured
    if measured is None:
        return "-", "same" if row.exact else "-"
    if row.group == "original":
        return percent(measured.top1), ""
    low, high = measured.ci95
    half = 50 * (high - low)
    return percent(measured.top1), f"{points(measured.difference)} ±{half:.1f}"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."
