"""Every shipped chip loads; every way to get a chip file wrong is an error with a place."""

from __future__ import annotations

import re

import pytest

from trex.datafiles import shipped
from trex.errors import ChipError
from trex.hardware import load_chip

SHIPPED = shipped("hw_models", "chip.yaml")


def written(folder, name="trex_hybrid_32nm", **edits):
    """A shipped chip's file with some text replaced, in a folder of its own."""
    text = SHIPPED[name].read_text()
    for old, new in edits.values():
        assert old in text
        text = text.replace(old, new, 1)
    path = folder / "chip.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_chip_loads_by_name_folder_and_file(name):
    by_name = load_chip(name)
    assert by_name.name == name
    assert load_chip(SHIPPED[name]) == load_chip(SHIPPED[name].parent) == by_name


def test_the_hybrid_is_made_of_the_other_chips_arrays():
    hybrid = load_chip("trex_hybrid_32nm")
    assert hybrid.static_array == load_chip("trex_fefet_32nm").static_array
    assert hybrid.dynamic_array == load_chip("trex_sram_32nm").dynamic_array


def test_assumptions_are_listed_with_their_values():
    lines = load_chip("trex_fefet_32nm").assumptions
    assert any(re.match(r"arrays\.fefet\.read_energy_j = 2\.5095e-11: fitted", s) for s in lines)
    assert any(s.startswith("digital_32nm.bus.") for s in lines)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("value: 118.0e-12", "value: -118.0e-12", r"arrays\.fefet\.write_energy_j\.value: -1.18"),
        ("value: 118.0e-12", "value: 118e-12", r"'118e-12' is text.*\n.*write 1\.18e-10"),
        ("value: 118.0e-12", "value: 118.0", r"write_energy_j\.value: 118\.0 is not allowed"),
        ("value: 118.0e-12", "value: .nan", r"write_energy_j\.value: \.nan is not a number"),
        ("value: 118.0e-12", "value: .inf", r"not a number"),
        ("value: 0.0296875e-6", "value: 0.0", r"area_m2\.value: 0\.0 is not allowed"),
        ("value: 0.0296875e-6", "value: 0.03", r"area_m2\.value: 0\.03 is not allowed"),
        ("write_energy_j: {", "write_energy_pj: {", r"write_energy_pj.*\n.*did you mean 'write_e"),
        ("rows: {value: 64", "rows: {value: 64000000", r"rows\.value: 64000000 is not allowed"),
        (
            "r_off_ohm: {value: 10.0e+6",
            "r_off_ohm: {value: 1.0e+3",
            r"r_off_ohm\.value: is not above",
        ),
        ("cell: FeFET", "cel: FeFET", r"arrays\.fefet\.cel: .*\n.*did you mean 'cell'"),
        ("cell: FeFET\n", "cell: FeFET\n    cell: SRAM\n", r"arrays\.fefet\.cell: is given twice"),
        ("    cell: FeFET\n", "", r"arrays\.fefet\.cell: is missing"),
        (
            "weight_slices:\n      value: 8",
            "weight_slices:\n      value: 2",
            r"weight_slices\.value: 2 cells of 1 bit cannot hold a weight of 8 bits\n.*at least 8",
        ),
        (
            "weight_slices:\n      value: 8",
            "weight_slices:\n      value: 9",
            r"weight_slices\.value: a weight of 8 bits does not fill 9 cells\n.*at most 8",
        ),
        ("static_array: fefet", "static_array: fefett", r"no array 'fefett'"),
        ("periphery: digital_32nm", "periphery: digital_23nm", r"did you mean 'digital_32nm'"),
        ("kind: trex", "kind: rex", r"kind: unknown kind 'rex'\n.*did you mean 'trex'"),
        ("kind: trex\n", "kind: [trex]\n", r"kind: unknown kind \['trex'\]"),
        ("kind: trex\n", "", r"kind is missing\n.*trex, component"),
        (
            "units: one a head",
            "units: 0",
            r"softmax\.units: 0 is no number of units\n.*one a head",
        ),
        (
            "units: one a head",
            "units: one per head",
            r"softmax\.units: 'one per head' is no number",
        ),
        ("units: one a head", "units: true", r"softmax\.units: True is no number"),
        ("value: 118.0e-12", "value: true", r"write_energy_j\.value: True is of the wrong type"),
        ("value: 118.0e-12", "value: nan", r"'nan' is text, not a number\n.*give a finite number"),
        ("value: 118.0e-12", "value: 118.0e-40", r"1\.18e-38 is not allowed\n.*at least 2\.9e-21"),
        ("value: 0.0296875e-6", "value: 0.0296875e-30", r"area_m2\.value: .*\n.*at least 1e-18"),
        (
            "value: 0.01914e-6",
            "value: 0.01914e-30",
            r"read_latency_s\.value: .*\n.*at least 1e-15",
        ),
        ("arrays_per_tile: {value: 64", "arrays_per_tile: {value: 1000000000", r"at most 1048576"),
        ("shared: true", "shared: 1", r"softmax\.shared: 1"),
    ],
)
def test_errors_name_file_line_and_field(tmp_path, old, new, message):
    path = written(tmp_path, edit=(old, new))
    with pytest.raises(ChipError, match=message) as error:
        load_chip(path)
    assert re.match(re.escape(str(path)) + r":\d+: ", str(error.value))


def test_the_line_is_the_values_own(tmp_path):
    path = written(tmp_path, edit=("value: 118.0e-12", "value: 118e-12"))
    line = 1 + next(i for i, s in enumerate(path.read_text().splitlines()) if "118e-12" in s)
    with pytest.raises(ChipError, match=f"chip.yaml:{line}: "):
        load_chip(path)


def test_a_value_needs_a_source(tmp_path):
    bare = 'write_energy_j: {value: 118.0e-12, source: "TReX (arXiv 2408.12742v1), Table III"}'
    path = written(tmp_path, edit=(bare, "write_energy_j: {value: 118.0e-12}"))
    with pytest.raises(ChipError, match=r"write_energy_j: has no source\n.*add `source"):
        load_chip(path)
    path = written(tmp_path, edit=(bare, "write_energy_j: 118.0e-12"))
    with pytest.raises(ChipError, match=r"1\.18e-10 has no source\n.*write `\{value: 1\.18e-10"):
        load_chip(path)


def test_a_misspelt_field_of_a_tables_row_is_compared_with_the_rows_fields(tmp_path):
    path = written(tmp_path, "neurosim_sram_22nm", edit=("levels: 128}", "level: 128}"))
    with pytest.raises(ChipError, match=r"sram\.row\.level: .*\n.*did you mean 'levels'"):
        load_chip(path)


@pytest.mark.parametrize("empty", ['""', '"  "'])
def test_a_source_says_something(tmp_path, empty):
    old = 'write_energy_j: {value: 118.0e-12, source: "TReX (arXiv 2408.12742v1), Table III"}'
    path = written(tmp_path, edit=(old, f"write_energy_j: {{value: 118.0e-12, source: {empty}}}"))
    with pytest.raises(ChipError, match=r"chip\.yaml:\d+: .*write_energy_j\.source: says nothing"):
        load_chip(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("trex_fefet_32", "did you mean 'trex_fefet_32nm'"),
        ("./nowhere", "no such file"),
        ("nowhere.yaml", "no such file"),
    ],
)
def test_an_unknown_chip(name, message):
    with pytest.raises(ChipError, match=message):
        load_chip(name)


def test_a_callers_value_is_an_assumption_however_its_field_is_named():
    short, long = (
        load_chip("neurosim_sram_22nm", {f"arrays.sram.{field}": 3})
        for field in ("copies", "copies.value")
    )
    assert short == long
    assert "arrays.sram.copies = 3: set by the caller; the file says 2" in short.assumptions
    with pytest.raises(ChipError, match="not one value"):
        load_chip("neurosim_sram_22nm", {"arrays.sram.copies.source": "me"})
