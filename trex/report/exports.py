"""Tables for papers and programs: CSV, Markdown and LaTeX of the same rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from trex.files import write_atomic
from trex.hardware import Cost
from trex.report.costs import Priced
from trex.report.facts import Facts
from trex.report.tables import Row, percent
from trex.store.record import Estimate
from trex.units import significant

_LATEX: Final = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "²": r"\textsuperscript{2}",
})  # fmt: skip


#: what spreadsheets read as the beginning of a formula (OWASP, CSV injection)
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


class CostRows(NamedTuple):
    """The original beside the winner under one accounting; the last cells are EDAP gains."""

    accounting: str
    rows: tuple[Row, ...]


def candidate_rows(facts: Facts, positions: Iterable[int]) -> tuple[Row, list[Row]]:
    """Head and rows: the original, no measurement of which is needed, is not among them."""
    others = () if facts.on_machine else ("energy uJ", "area mm2", "EDAP mJ*ms*mm2")
    head = (
        "plan", "transform", "reusing encoders",
        *(f"{name} ({facts.by})" for name in ("latency ms", *others, facts.gain_name)),
        "predicted loss (nats)", "measured loss (nats)", "measured agreement %",
        "measured top-1 %", "original top-1 %", facts.unit, "best",
    )  # fmt: skip
    rows: list[Row] = []
    for candidate in (facts.candidates[i] for i in positions):
        chosen = candidate.selection
        predicted = candidate.predicted_loss
        rows.append((
            candidate.plan or "no reuse", candidate.transform, str(candidate.n_reuse),
            *costs(candidate.estimate), f"{facts.gain(candidate):.3f}",
            "-" if predicted is None else f"{predicted:.4f}", f"{chosen.loss:.4f}",
            percent(chosen.agreement, 2), percent(chosen.top1, 2),
            percent(chosen.baseline_top1, 2), str(chosen.n),
            "yes" if candidate is facts.best else "-",
        ))  # fmt: skip
    return head, rows


def shown_columns(facts: Facts) -> tuple[int, ...]:
    """Those of `candidate_rows` that a page has room for."""
    return (0, 2, 3, 4, 6, 7, 8) if facts.on_machine else (0, 2, 3, 4, 5, 7, 9, 10, 11)


def costs(estimate: Estimate | Cost) -> tuple[str, ...]:
    """Latency in ms, energy in µJ, area in mm², EDAP in mJ·ms·mm²; of these what is known."""
    scaled = (
        (estimate.latency_s, 1e3),
        (estimate.energy_j, 1e6),
        (estimate.area_m2, 1e6),
        (estimate.edap_mj_ms_mm2, 1.0),
    )
    return tuple(significant(value * by) for value, by in scaled if value is not None)


def cost_rows(pair: Priced) -> CostRows:
    """Totals of the original, with and without its dead rows, and of the winner."""
    rows = []
    for name, cost in (
        ("original", pair.before),
        ("original without dead rows", pair.trimmed),
        ("best plan", pair.after),
    ):
        if cost is None:
            continue
        gain = pair.before.edap_j_s_m2 / cost.edap_j_s_m2
        rows.append((name, *costs(cost), "1x" if cost is pair.before else f"{gain:.2f}x"))
    return CostRows(pair.accounting, tuple(rows))


def part_rows(pair: Priced) -> tuple[Row, list[Row]]:
    """Every stage's and component's share, before and after."""
    fields = (
        ("latency_s", 1e3, "latency ms"),
        ("energy_j", 1e6, "energy uJ"),
        ("area_m2", 1e6, "area mm2"),
    )
    head = (
        "by", "part",
        *(f"{unit}, {who} ({pair.accounting} estimate)"
          for _, _, unit in fields for who in ("original", "best plan")),
    )  # fmt: skip
    rows: list[Row] = []
    for by in ("stage", "component"):
        before, after = (
            cost.by_stage() if by == "stage" else cost.by_component()
            for cost in (pair.before, pair.after)
        )
        for name in dict.fromkeys([*before, *after]):
            sides = (before.get(name), after.get(name))
            rows.append((by, name, *(
                significant(getattr(side, field) * factor) if side else "0"
                for field, factor, _ in fields for side in sides
            )))  # fmt: skip
    return head, rows


def write_table(stem: Path, kinds: Sequence[str], head: Row, rows: Sequence[Row]) -> list[Path]:
    """Write one table in every kind: `csv`, `md`, `tex`.

    Raises:
        StorageError: a file cannot be written.
    """
    makers = {"csv": as_csv, "md": as_markdown, "tex": as_latex}
    files = []
    for kind in kinds:
        file = stem.with_name(f"{stem.name}.{kind}")
        write_atomic(file, makers[kind](head, rows))
        files.append(file)
    return files


def as_csv(head: Row, rows: Sequence[Row]) -> str:
    """Comma-separated; a dash where there is nothing becomes an empty field.

    What a spreadsheet would take for a formula begins with an apostrophe, but for numbers.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(map(_text, head))
    writer.writerows(["" if cell == "-" else _text(cell) for cell in row] for row in rows)
    return buffer.getvalue()


def _text(cell: str) -> str:
    if not cell.startswith(_FORMULA) and not cell.lstrip().startswith(_FORMULA):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def as_markdown(head: Row, rows: Sequence[Row]) -> str:
    """A pipe table; HTML and pipes in names are escaped."""

    def line(cells: Iterable[str]) -> str:
        escaped = (c.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|") for c in cells)
        return "| " + " | ".join(escaped) + " |\n"

    return line(head) + "|" + "---|" * len(head) + "\n" + "".join(map(line, rows))


def as_latex(head: Row, rows: Sequence[Row]) -> str:
    """A tabular with booktabs' rules."""

    def line(cells: Iterable[str]) -> str:
        return " & ".join(cell.translate(_LATEX) for cell in cells) + r" \\" + "\n"

    return (
        f"\\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}\n\\toprule\n{line(head)}\\midrule\n"
        f"{''.join(map(line, rows))}\\bottomrule\n\\end{{tabular}}\n"
    )
