"""Text tables for people, at most 100 columns wide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trex.units import format_quantity

Row = Sequence[str]


def aligned(head: Row, rows: Sequence[Row], left: int = 1) -> list[str]:
    """Lines of a table; the first `left` columns stand left, the others right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]

    def line(row: Row) -> str:
        cells = [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return [line(head), "-" * (sum(widths) + 2 * (len(widths) - 1)), *map(line, rows)]


def percent(fraction: float | None, digits: int = 1) -> str:
    """A fraction in percent; a dash where there is none."""
    return "-" if fraction is None else f"{100 * fraction:.{digits}f}"


def points(fraction: float) -> str:
    """A difference of fractions in percentage points."""
    return f"{100 * fraction:+.1f}"


def search_table(result: dict[str, Any]) -> list[str]:
    """The answer of a search."""
    baseline, best = result["baseline"], result["best"]
    counts = result["candidates"]
    lines = [
        f"{result['model']} on {result['chip']}, {result['accounting']} accounting, "
        f"budget {result['budget']}",
        f"{counts['space']:,} plans costed, {counts['feasible']:,} within the budget, "
        f"{counts['evaluated']} fitted and measured",
        "",
    ]
    shown = result["pareto"]
    if best["plan"] not in [record["plan"] for record in shown]:
        shown = [*shown, best]
    head = (
        "plan", "reuse", "latency", "energy", "area", "EDAP ratio",
        "loss (nats)", "agreement %", "top-1 %",
    )  # fmt: skip
    rows = [_plan_row(record, baseline, record["plan"] == best["plan"]) for record in shown]
    selection = best["selection"]
    original = (
        "original", "0", *_costs(baseline), "1.00", "0", "100.0",
        percent(selection["baseline_top1"]),
    )  # fmt: skip
    lines += aligned(head, [original, *rows])
    lines += [
        "",
        f"* the winner. Costs are estimates ({baseline['accounting']} accounting). Loss,",
        f"  agreement and top-1 are measured on {selection['n']} images not fitted on,",
        "  without any training.",
    ]
    if best["evaluation"] is not None:
        lines += ["", *evaluation_lines(best["plan"], best["evaluation"])]
    return [*lines, "", f"run folder: {result['run']} (the winner is in {result['run']}/best)"]


def evaluation_lines(plan: str, measured: dict[str, Any]) -> list[str]:
    """A paired measurement in words."""
    low, high = measured["ci95"]
    skipped = f", {measured['skipped']} unreadable ones left out" if measured["skipped"] else ""
    rows = [
        (
            name,
            percent(measured[prefix + "top1"]),
            percent(measured[prefix + "top5"]),
            f"{measured[prefix + 'images_per_second']:.1f}",
        )
        for name, prefix in (("original", "baseline_"), ("variant", ""))
    ]
    return [
        f"measured on {measured['n']} images of {measured['data']}{skipped}: {plan or 'no reuse'}",
        *aligned(("", "top-1 %", "top-5 %", "images/s"), rows),
        f"difference {points(measured['difference'])} points, 95 % interval {points(low)} to "
        f"{points(high)} (paired bootstrap), McNemar p = {measured['p_value']:.2g}",
    ]


def _plan_row(record: dict[str, Any], baseline: dict[str, Any], winner: bool) -> Row:
    selection, estimate = record["selection"], record["estimate"]
    gain = baseline["edap_mj_ms_mm2"] / estimate["edap_mj_ms_mm2"]
    return (
        ("* " if winner else "  ") + (record["plan"] or "no reuse"),
        str(record["n_reuse"]),
        *_costs(estimate),
        f"{gain:.2f}",
        f"{selection['loss']:.4f}",
        percent(selection["agreement"]),
        percent(selection["top1"]),
    )


def _costs(estimate: dict[str, Any]) -> tuple[str, str, str]:
    return (
        format_quantity(estimate["latency_s"], "s", 3),
        format_quantity(estimate["energy_j"], "J", 3),
        format_quantity(estimate["area_m2"], "m2", 4),
    )
