"""Tables of subarray figures, one row an array: CSV files whose column names carry the units."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trex.config import FieldProblem, did_you_mean
from trex.errors import ChipError

#: What tells one row from another.
KEYS: Final = ("technode_nm", "cell", "size", "adc", "levels")

_COLUMNS: Final = (
    *KEYS,
    "clk_ns",
    "cells_area_um2",
    "cells_energy_pj",
    "wl_area_um2",
    "wl_energy_pj",
    "mux_area_um2",
    "mux_energy_pj",
    "adc_unit_area_um2",
    "adc_fj_per_conv",
    "adc_total_energy_pj",
    "shiftadd_area_um2",
    "shiftadd_energy_pj",
    "total_area_um2",
    "total_energy_pj",
    "leakage_uw",
)

#: A row of energies only leaves all of these empty.
_AREAS: Final = tuple(name for name in _COLUMNS if name.endswith("_area_um2"))

#: Rounding in a table's last digits; more is a mistake in the row.
_ROUNDING: Final = 0.02

#: Least share of a total area that the listed parts must make up. Decoders, level shifters and
#: padding, which no column lists, leave 0.37 to 0.88 to the parts in NeuroSim's rows at 22 nm.
_LEAST_AREA_LISTED: Final = 0.25

#: In pJ, um2 or ns: far above any array, far below a forgotten prefix. A watt of leakage is, too.
_MOST: Final = 1e9
_MOST_LEAKAGE_UW: Final = 1e6


@dataclass(frozen=True, kw_only=True, slots=True)
class Circuit:
    """One square array with its drivers and converters; no areas where the row leaves them empty.

    Energies are of one pass (one input bit of every row, all columns converted) at an input-bit
    density of one half. `clock_s` is the time of one conversion. `array_other` is what a total
    holds beyond the parts that have columns of their own.
    """

    size: int
    levels: int
    clock_s: float
    energy_j: Mapping[str, float]
    area_m2: Mapping[str, float] | None
    leakage_w: float


def find_row(path: Path, wanted: Mapping[str, str | int], column_mux: int) -> Circuit:
    """The table's row with the `wanted` keys, a converter for every `column_mux` columns.

    Raises:
        FieldProblem: no row has these keys.
        ChipError: the file is not such a table, or the row's numbers cannot be.
    """
    rows = _rows(path)
    fitting = list(rows)
    for key, value in wanted.items():
        offered = sorted({row[key] for _, row in fitting}, key=_natural)
        fitting = [(line, row) for line, row in fitting if row[key] == str(value)]
        if not fitting:
            before = _before(wanted, key)
            raise FieldProblem(
                ("row", key),
                f"{path.name} has no row with {key} {value}{f' and {before}' if before else ''}",
                f"{key} in the table: {', '.join(offered)}",
            )
    if len(fitting) > 1:
        raise ChipError(
            f"{path}:{fitting[1][0]}: a second row with {_before(wanted, '')}",
            hint="keep one row for each array",
        )
    return _circuit(path, *fitting[0], column_mux)


def _before(wanted: Mapping[str, str | int], key: str) -> str:
    named = []
    for name, value in wanted.items():
        if name == key:
            break
        named.append(f"{name} {value}")
    return ", ".join(named)


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Every row with its line, after checking the head."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as cause:
        reason = getattr(cause, "strerror", None) or "not UTF-8 text"
        raise ChipError(f"{path}: cannot be read: {reason}", hint="check the path") from None
    lines = [
        (number, line)
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip() and not line.startswith("#")
    ]
    if not lines:
        raise ChipError(f"{path}: is empty", hint=f"columns: {','.join(_COLUMNS)}")
    (top, first), *others = [(number, _cells(path, number, line)) for number, line in lines]
    for i, name in enumerate(first):
        if name not in _COLUMNS:
            raise ChipError(
                f"{path}:{top}: unknown column {name!r}", hint=did_you_mean(name, list(_COLUMNS))
            )
        if name in first[:i]:
            raise ChipError(
                f"{path}:{top}: column {name!r} is given twice", hint="keep one of them"
            )
    for name in _COLUMNS:
        if name not in first:
            raise ChipError(
                f"{path}:{top}: column {name!r} is missing",
                hint=f"columns: {','.join(_COLUMNS)}",
            )
    rows = []
    for number, cells in others:
        if len(cells) != len(first):
            raise ChipError(
                f"{path}:{number}: {len(cells)} values for {len(first)} columns",
                hint="one value for each column",
            )
        rows.append((number, dict(zip(first, cells, strict=True))))
    return rows


def _cells(path: Path, number: int, line: str) -> list[str]:
    try:
        (cells,) = csv.reader([line], strict=True)
    except csv.Error as cause:
        raise ChipError(f"{path}:{number}: {cause}", hint="write plain values") from None
    return [cell.strip() for cell in cells]


def _circuit(path: Path, line: int, row: Mapping[str, str], column_mux: int) -> Circuit:
    def number(name: str, least: float = 0.0, most: float = _MOST) -> float:
        try:
            value = float(row[name])
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise ChipError(
                f"{path}:{line}: {name}: {row[name]!r} is not allowed",
                hint=f"a number from {least:g} to {most:g}",
            )
        return value

    def whole(name: str, least: int) -> int:
        value = number(name, least)
        if value != int(value):
            raise ChipError(
                f"{path}:{line}: {name}: {row[name]!r} is not a whole number",
                hint=f"a whole number of at least {least}",
            )
        return int(value)

    size, levels = whole("size", 1), whole("levels", 2)
    parts = {
        "cells": number("cells_energy_pj", 1e-9),
        "drivers": number("wl_energy_pj"),
        "mux": number("mux_energy_pj"),
        "adc": number("adc_total_energy_pj", 1e-9),
        "shift_add": number("shiftadd_energy_pj"),
    }
    converted_pj = number("adc_fj_per_conv", 1e-9) * size / 1e3
    if abs(converted_pj / parts["adc"] - 1) > _ROUNDING:
        raise ChipError(
            f"{path}:{line}: adc_total_energy_pj {parts['adc']:g} is not adc_fj_per_conv for "
            f"{size} columns ({converted_pj:.4g} pJ)",
            hint="each column is converted once a read",
        )
    parts["array_other"] = _rest(path, line, "total_energy_pj", number, parts, 1 - _ROUNDING)
    areas = {}
    if any(row[name] for name in _AREAS):
        areas = {
            "cells": number("cells_area_um2", 1e-9),
            "drivers": number("wl_area_um2"),
            "mux": number("mux_area_um2"),
            "adc": number("adc_unit_area_um2", 1e-9) * size / column_mux,
            "shift_add": number("shiftadd_area_um2"),
        }
        rest = _rest(path, line, "total_area_um2", number, areas, _LEAST_AREA_LISTED)
        areas["array_other"] = rest
    return Circuit(
        size=size,
        levels=levels,
        clock_s=number("clk_ns", 1e-9) * 1e-9,
        energy_j={name: pj * 1e-12 for name, pj in parts.items()},
        area_m2={name: um2 * 1e-12 for name, um2 in areas.items()} or None,
        leakage_w=number("leakage_uw", most=_MOST_LEAKAGE_UW) * 1e-6,
    )


def _rest(
    path: Path,
    line: int,
    name: str,
    number: Callable[[str, float], float],
    parts: Mapping[str, float],
    least_listed: float,
) -> float:
    """What a total holds beyond its parts; the parts must make up `least_listed` of it."""
    total, listed = number(name, 1e-9), sum(parts.values())
    if listed > (1 + _ROUNDING) * total or listed < least_listed * total:
        shown = ", ".join(f"{part} {value:.4g}" for part, value in parts.items())
        mux = ", or column_mux if the source's is another" if "area" in name else ""
        raise ChipError(
            f"{path}:{line}: {name} {total:g} contradicts its parts, {listed:.4g} ({shown})",
            hint=f"{listed:.4g} to {listed / least_listed:.4g} would fit; correct the row{mux}",
        )
    return max(total - listed, 0.0)


def _natural(text: str) -> tuple[int, float, str]:
    try:
        return 0, float(text), text
    except ValueError:
        return 1, 0.0, text
