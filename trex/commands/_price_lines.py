"""Pieces of a price as text and as plain values, for the commands that show one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trex.units import duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trex.hardware import Cost, Sums
    from trex.hardware.accuracy import AccuracyFigure


def caveats(cost: Cost) -> list[str]:
    """What the price leaves out and rests on."""
    lines = []
    for title, items in (
        ("not modelled", cost.not_modelled),
        ("assumptions", cost.assumptions),
        ("notes", cost.notes),
    ):
        if items:
            lines += ["", f"{title}:", *(line for item in items for line in _wrapped(item))]
    return lines


def accuracy_lines(figures: Sequence[AccuracyFigure]) -> list[str]:
    """What is known of the accuracy that a chip leaves the original."""
    if not figures:
        return _filled(
            "accuracy on this chip: not measured; trex check CHIP --model MODEL --weights FILE "
            "--data IMAGES measures it",
            "  ",
        )
    return [
        line
        for of in figures
        for line in _filled(
            f"accuracy on this chip{'' if of.keeps else f', {of.grade}'}: {of}", "  "
        )
    ]


def bottleneck_text(cost: Cost) -> str:
    """`bus, 0.97 ms of every image's 0.99 ms`, and for how much of the time."""
    found = cost.bottleneck
    whole = "the interval" if cost.schedule == "pipelined" else "the latency"
    return f"{found.resource}, {found.busy_s * 1e3:.4g} ms, {found.share:.0%} of {whole}"


def bottleneck_json(cost: Cost) -> dict[str, object]:
    """The same as plain values."""
    return dict(cost.bottleneck._asdict())


def wear_lines(cost: Cost) -> list[str]:
    """How long the cells last that K and V are written to, and what speaks against the chip."""
    lines = [f"warning: {text}" for text in cost.warnings]
    if cost.lifetime is not None:
        of = cost.lifetime
        lines.append(
            f"cells that K and V are written to ({of.cell}, {of.cycles:.0e} writes) last "
            f"{duration(of.seconds)} of continuous use"
        )
    return [line for text in lines for line in _filled(text, "  ")]


def _wrapped(text: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text, 97, initial_indent="  - ", subsequent_indent="    ")


def short(name: str, width: int) -> str:
    """The end of a name tells more than its beginning."""
    return name if len(name) <= width else "..." + name[3 - width :]


def plan_lines(cost: Cost) -> list[str]:
    """The plan, and the encoders' tokens and rows where it changes them."""
    reuse = f" ({cost.n_reuse} of the encoders reuse, transform {cost.transform})"
    plan = f"plan: {cost.plan or 'none, the original'}{reuse if cost.n_reuse else ''}"
    texts = [plan, f"tokens in attention/MLP: {_tokens(cost.tokens)}"]
    changed = len({tokens for pair in cost.tokens for tokens in pair}) > 1
    shown = texts if cost.plan and changed else texts[:1]
    if rows := _rows(cost):
        shown = [*shown, f"rows of attention computed: {rows}"]
    return [line for text in shown for line in _filled(text, "  ")]


def _tokens(tokens: Sequence[tuple[int, int]]) -> str:
    """`0-2 197/197, 3 197/157`: encoders, tokens in their attention and in their MLP."""
    return ", ".join(_runs([f"{attention}/{mlp}" for attention, mlp in tokens]))


def _rows(cost: Cost) -> str:
    """`6-7 53, 11 1`: of encoders that compute some of their rows, but not all."""
    partial = [
        str(rows) if 0 < rows < tokens else ""
        for rows, (tokens, _) in zip(cost.rows, cost.tokens, strict=True)
    ]
    return ", ".join(run for run in _runs(partial) if not run.endswith(" "))


def _runs(texts: Sequence[str]) -> list[str]:
    """`0-2 text`: encoders of one text that stand together."""
    from itertools import groupby

    runs = [list(run) for _, run in groupby(enumerate(texts), key=lambda item: item[1])]
    return [f"{run[0][0]}{f'-{run[-1][0]}' if len(run) > 1 else ''} {run[0][1]}" for run in runs]


def _filled(text: str, indent: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text, 97, subsequent_indent=indent, break_on_hyphens=False)


def figures(cost: Cost) -> dict[str, float]:
    """A price's four figures, as plain values."""
    return {
        "latency_s": cost.latency_s,
        "energy_j": cost.energy_j,
        "area_m2": cost.area_m2,
        "edap_mj_ms_mm2": cost.edap_mj_ms_mm2,
    }


def plain(sums: Sums) -> dict[str, float]:
    """A sum's fields by name."""
    return {
        "energy_j": sums.energy_j,
        "latency_s": sums.latency_s,
        "area_m2": sums.area_m2,
    }
