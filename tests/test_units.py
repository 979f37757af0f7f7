from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trex.errors import UnitError
from trex.units import EDAP_MJ_MS_MM2, UNITS, format_quantity, parse_quantity

#: dimension -> the SI unit it is printed in, and the range whose prefixes it can be read back in
PRINTED = {"time": ("s", 1e-15, 1.0), "energy": ("J", 1e-15, 1e5), "power": ("W", 1e-15, 1e5)}


@pytest.mark.parametrize(
    ("text", "dimension", "value"),
    [
        ("9ms", "time", 9e-3),
        ("9 ms", "time", 9e-3),
        ("  9\tms ", "time", 9e-3),
        ("2s", "time", 2.0),
        ("1.5e-3s", "time", 1.5e-3),
        (".5us", "time", 5e-7),
        ("5.us", "time", 5e-6),
        ("+3ns", "time", 3e-9),
        ("-3ns", "time", -3e-9),
        ("3.1 mJ", "energy", 3.1e-3),
        ("2pJ", "energy", 2e-12),
        ("4kW", "power", 4e3),
        ("600mm2", "area", 600e-6),
        ("600 mm²", "area", 600e-6),
        ("1 um2", "area", 1e-12),
        ("2m²", "area", 2.0),
        ("1.2GHz", "frequency", 1.2e9),
        ("484mJ*ms*mm2", "edap", 484e-12),
        ("484 mJ·ms·mm2", "edap", 484e-12),
        ("484 mJ * ms * mm2", "edap", 484e-12),
        ("1J*s*m2", "edap", 1.0),
        ("1000", "count", 1e3),
        ("2k", "count", 2e3),
    ],
)
def test_reading_by_hand(text: str, dimension: str, value: float) -> None:
    assert parse_quantity(text, dimension) == pytest.approx(value, rel=1e-12)


def test_both_micro_signs_are_micro() -> None:
    micro_sign, greek_mu = "\N{MICRO SIGN}", "\N{GREEK SMALL LETTER MU}"
    assert parse_quantity(f"9{micro_sign}s", "time") == pytest.approx(9e-6)
    assert parse_quantity(f"9{greek_mu}s", "time") == pytest.approx(9e-6)


@pytest.mark.parametrize(
    ("text", "dimension", "message"),
    [
        ("9", "time", "has no unit"),
        ("9 ", "time", "has no unit"),
        ("9lightyears", "time", "unknown unit 'lightyears'"),
        ("9mJ", "time", "unknown unit 'mJ'"),
        ("9MS", "time", "unknown unit 'MS'"),
        ("9ks", "time", "unknown unit 'ks'"),
        ("9mm", "area", "unknown unit 'mm'"),
        ("600mm3", "area", "unknown unit 'mm3'"),
        ("9mHz", "frequency", "unknown unit 'mHz'"),
        ("9ms 3us", "time", "unknown unit"),
        ("", "time", "is not a number with a unit"),
        ("ms", "time", "is not a number with a unit"),
        ("nan ms", "time", "is not a number with a unit"),
        ("nanms", "time", "is not a number with a unit"),
        ("inf", "time", "is not a number with a unit"),
        ("-infs", "time", "is not a number with a unit"),
        ("1e400s", "time", "is not finite"),
        ("--9ms", "time", "is not a number with a unit"),
        ("9,5ms", "time", "unknown unit ',5ms'"),
        ("0x9ms", "time", "unknown unit 'x9ms'"),
    ],
)
def test_bad_quantities_are_refused_with_the_units_that_exist(
    text: str, dimension: str, message: str
) -> None:
    with pytest.raises(UnitError) as caught:
        parse_quantity(text, dimension)
    assert message in caught.value.message
    assert repr(text) in caught.value.message
    assert caught.value.hint


@given(st.data(), st.sampled_from(sorted(UNITS)), st.floats(1e-6, 1e6))
def test_every_unit_is_its_factor(data: st.DataObject, dimension: str, number: float) -> None:
    unit = data.draw(st.sampled_from(sorted(UNITS[dimension])))
    read = parse_quantity(f"{number!r}{unit}", dimension)
    assert read == pytest.approx(number * UNITS[dimension][unit], rel=1e-12)


def test_area_prefixes_are_squared() -> None:
    for prefix in ("", "m", "u", "n"):
        length = parse_quantity(f"1{prefix}s", "time")
        assert parse_quantity(f"1{prefix}m2", "area") == pytest.approx(length**2, rel=1e-12)


def test_edap_is_the_product_of_its_units() -> None:
    product = (parse_quantity("3mJ", "energy") * parse_quantity("5ms", "time")) * parse_quantity(
        "7mm2", "area"
    )
    assert parse_quantity("105mJ*ms*mm2", "edap") == pytest.approx(product, rel=1e-12)
    assert product * EDAP_MJ_MS_MM2 == pytest.approx(105, rel=1e-12)


@given(st.sampled_from(sorted(PRINTED)), st.floats(0, 1), st.integers(3, 9))
def test_what_is_printed_can_be_read(dimension: str, place: float, digits: int) -> None:
    unit, low, high = PRINTED[dimension]
    value = low * (high / low) ** place
    text = format_quantity(value, unit, digits)
    assert parse_quantity(text, dimension) == pytest.approx(value, rel=10.0 ** (1 - digits))


@given(st.floats(1e-9, 10.0))
def test_printed_areas_can_be_read(value: float) -> None:
    assert parse_quantity(format_quantity(value, "m2"), "area") == pytest.approx(value, rel=1e-3)


@given(st.floats(1e-14, 1e14), st.sampled_from("sJW"), st.integers(3, 6))
def test_one_to_three_digits_stand_before_the_point(value: float, unit: str, digits: int) -> None:
    number, _ = format_quantity(value, unit, digits).split(" ")
    assert "e" not in number
    assert 1 <= float(number) < 1000


@given(st.floats(1e-14, 1e14))
def test_a_minus_sign_changes_nothing_else(value: float) -> None:
    assert format_quantity(-value, "J") == "-" + format_quantity(value, "J")


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0031, "J", "3.1 mJ"),
        (0.009, "s", "9 ms"),
        (1.0, "s", "1 s"),
        (0.0, "s", "0 s"),
        (999.96e-6, "s", "1 ms"),
        (12e-6, "J", "12 µJ"),
        (600.4e-6, "m2", "600.4 mm²"),
        (0.0123456, "m2", "12350 mm²"),
        (3.2e-17, "J", "0.032 fJ"),
        (math.inf, "s", "inf s"),
    ],
)
def test_printing_by_hand(value: float, unit: str, text: str) -> None:
    assert format_quantity(value, unit) == text
