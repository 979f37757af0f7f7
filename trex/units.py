"""The only place where SI values meet prefixes: reading `9ms`, printing `3.1 mJ`.

Everywhere else energy is in joules, time in seconds, area in square metres, and the field's
name says so (`energy_j`, `latency_s`, `area_m2`).
"""

from __future__ import annotations

import math
import re
from typing import Final

from trex.errors import UnitError

_PREFIXES: Final = {
    "f": 1e-15,
    "p": 1e-12,
    "n": 1e-9,
    "u": 1e-6,
    "µ": 1e-6,
    "m": 1e-3,
    "": 1.0,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
}

#: dimension -> unit symbol -> factor to SI
UNITS: Final[dict[str, dict[str, float]]] = {
    "time": {p + "s": f for p, f in _PREFIXES.items() if f <= 1},
    "energy": {p + "J": f for p, f in _PREFIXES.items() if f <= 1e3},
    "power": {p + "W": f for p, f in _PREFIXES.items() if f <= 1e3},
    "area": {p + u: f**2 for p, f in _PREFIXES.items() if f <= 1 for u in ("m2", "m²")},
    "frequency": {p + "Hz": f for p, f in _PREFIXES.items() if f >= 1},
    "edap": {"mJ*ms*mm2": 1e-12, "J*s*m2": 1.0},
    "count": {p: f for p, f in _PREFIXES.items() if f >= 1},
}

#: 1 J·s·m² in the unit the TReX paper's tables use.
EDAP_MJ_MS_MM2: Final = 1e12

#: Other ways to write the same unit: a product's dot, a space beside it, the Greek letter mu.
_SPELLINGS: Final = str.maketrans(
    {"·": "*", " ": "", "\N{GREEK SMALL LETTER MU}": "\N{MICRO SIGN}"}
)

_NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([^\s\d].*?)?\s*")


def parse_quantity(text: str, dimension: str) -> float:
    """The SI value of a number with a unit: `"9ms"` of dimension `time` is 0.009.

    Raises:
        UnitError: `text` is not a finite number followed by a unit of that dimension.
    """
    units = UNITS[dimension]
    known = ", ".join(u or "no unit" for u in units)
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise UnitError(
            f"{text!r} is not a number with a unit", hint=f"units of {dimension}: {known}"
        )
    unit = (match[2] or "").translate(_SPELLINGS)
    if unit not in units:
        what = f"has the unknown unit {unit!r}" if unit else "has no unit"
        raise UnitError(f"{text!r} {what}", hint=f"units of {dimension}: {known}")
    value = float(match[1]) * units[unit]
    if not math.isfinite(value):
        raise UnitError(f"{text!r} is not finite", hint="give an ordinary number")
    return value


def significant(value: float, digits: int = 4) -> str:
    """A number to so many digits, large ones without an exponent: `12345.6` is `12350`."""
    return f"{float(f'{value:.{digits}g}'):.12g}"


def format_quantity(value: float, unit: str, digits: int = 4) -> str:
    """An SI value with the prefix that leaves 1 to 999 before it: `0.0031, "J"` is `3.1 mJ`.

    Areas (`"m2"`) are always printed in mm², as the field does.
    """
    if unit == "m2":
        return f"{significant(value * 1e6, digits)} mm²"
    if value == 0 or not math.isfinite(value):
        return f"{value:g} {unit}"
    exponent = min(max(math.floor(math.log10(abs(value)) / 3) * 3, -15), 12)
    if abs(float(f"{value / 10.0**exponent:.{digits}g}")) >= 1000 and exponent < 12:
        exponent += 3
    prefix = {
        -15: "f",
        -12: "p",
        -9: "n",
        -6: "µ",
        -3: "m",
        0: "",
        3: "k",
        6: "M",
        9: "G",
        12: "T",
    }
    return f"{value / 10.0**exponent:.{digits}g} {prefix[exponent]}{unit}"


#: From the longest on: seconds, and what they are called.
_DURATIONS: Final = (
    (365.25 * 86400.0, "years"),
    (86400.0, "days"),
    (3600.0, "hours"),
    (60.0, "minutes"),
)


def duration(seconds: float) -> str:
    """`38 minutes`, `27 days`: in the largest unit of which there are two at least."""
    for each, name in _DURATIONS:
        if seconds >= 2 * each:
            return f"{significant(seconds / each, 2)} {name}"
    return f"{significant(seconds, 2)} seconds"
