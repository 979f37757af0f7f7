"""Pieces of a price as text and as plain values, for the commands that show one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trex.hardware import Cost, Sums


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


def _wrapped(text: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text, 97, initial_indent="  - ", subsequent_indent="    ")


def short(name: str, width: int) -> str:
    """The end of a name tells more than its beginning."""
    return name if len(name) <= width else "..." + name[3 - width :]


def plain(sums: Sums) -> dict[str, float]:
    """A sum's fields by name."""
    return {
        "energy_j": sums.energy_j,
        "latency_s": sums.latency_s,
        "area_m2": sums.area_m2,
    }
