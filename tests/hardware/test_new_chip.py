"""Writing a chip: every mistake at once, a start from another file, the schema, the tables."""

from __future__ import annotations

import json
import re

import pytest
from pydantic import BaseModel

from trex.cli import main
from trex.datafiles import data_folder, shipped
from trex.errors import ChipError
from trex.hardware import load_chip
from trex.hardware.component_array import ComponentArraySpec
from trex.hardware.constant_array import ConstantArraySpec, DeviceSpec, ErrorsSpec
from trex.hardware.corrections import CorrectionsSpec, NetworkSpec
from trex.hardware.schema import SCHEMA_FILE, schema_text
from trex.hardware.spec import ChipSpec, TrexChipSpec

SHIPPED = shipped("hw_models", "chip.yaml")
DOCS = (data_folder("hw_models") / "README.md").read_text(encoding="utf-8")


def wrong(tmp_path, name, *edits):
    """A shipped chip's file with mistakes, and the lines they are on, in their order."""
    text = SHIPPED[name].read_text()
    for old, new in edits:
        assert text.count(old) >= 1, old
        text = text.replace(old, new, 1)
    path = tmp_path / "chip.yaml"
    path.write_text(text)
    return path


def told(path):
    """(line, field) of everything that loading a chip complains about."""
    with pytest.raises(ChipError) as error:
        load_chip(path)
    found = re.findall(re.escape(str(path)) + r":(\d+): (?:([\w.]+): )?", str(error.value))
    return [(int(line), field) for line, field in found], str(error.value)


def test_every_mistake_of_a_file_is_told_with_its_line(tmp_path):
    path = wrong(
        tmp_path, "trex_fefet_32nm",
        ("write_energy_j: {value: 118.0e-12", "write_energy_j: {value: .nan"),
        ("write_latency_s: {value: 3.3e-6, source:", "write_latency_s: {value: 3.3e-6, sauce:"),
        ("area_m2:\n", "aera_m2:\n"),
        ("rows: {value: 64, source: \"TReX (arXiv 2408.12742v1), Table III\"}", "rows: 64"),
        ("shared: true", "shared: true\n  shared: false"),
        ("static_array: fefet", "static_array: fefett"),
        ("periphery: digital_32nm", "periphery: digital_23nm"),
    )  # fmt: skip
    places, text = told(path)
    fields = {
        "static_array", "arrays.fefet.rows", "arrays.fefet.write_energy_j.value",
        "arrays.fefet.write_latency_s.sauce", "arrays.fefet.aera_m2", "softmax.shared",
        "periphery",
    }  # fmt: skip
    assert {field for _, field in places} == fields
    assert [line for line, _ in places] == sorted(line for line, _ in places)
    lines = path.read_text().splitlines()
    for line, field in places:
        key = field.removesuffix(".value").rsplit(".", 1)[-1]
        assert key in lines[line - 1], (line, field)
    # each has its own hint, and a misspelt field is not also missing
    assert text.count("hint: ") == len(fields)
    assert "is missing" not in text


def test_what_fields_must_be_together_is_told_at_once(tmp_path):
    path = wrong(
        tmp_path, "neurosim_sram_22nm",
        ("cell: SRAM, size", "cell: RRAM, size"),
        ("        flash:\n", "        flish:\n"),
        ("column_mux: {value: 8", "column_mux: {value: 7"),
        ("bits_per_cell: {value: 1", "bits_per_cell: {value: 2"),
    )  # fmt: skip
    places, _ = told(path)
    assert [field.removeprefix("arrays.sram.") for _, field in places] == [
        "row.cell", "idle_fraction.adc", "column_mux.value", "device.bits_per_cell.value",
    ]  # fmt: skip


def test_a_file_of_mistakes_alone_stays_readable(tmp_path):
    path = wrong(tmp_path, "trex_fefet_32nm", ("arrays:\n", "arrays:\n  x: {}\n"))
    path.write_text(path.read_text() + "".join(f"unknown_{i}: 1\n" for i in range(50)))
    places, text = told(path)
    assert len(places) == 20
    assert re.search(r"\(and \d+ more problems\)$", text)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_new_chip_is_the_old_one_by_another_name(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["chip", "new", "my_chip", "--like", name]) == 0
    assert "trex check ./my_chip" in capsys.readouterr().out
    new, old = load_chip("./my_chip"), load_chip(name)
    assert (new.name, new.static_array, new.dynamic_array) == (
        "my_chip", old.static_array, old.dynamic_array
    )  # fmt: skip
    assert (tmp_path / "my_chip" / SCHEMA_FILE).read_text() == schema_text()
    first, *lines = (tmp_path / "my_chip" / "chip.yaml").read_text().splitlines()
    assert first == f"# yaml-language-server: $schema={SCHEMA_FILE}"
    assert not any("yaml-language-server" in line for line in lines)
    assert not (tmp_path / "my_chip" / "published.yaml").exists()
    assert main(["check", "./my_chip"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("verdict: ")


def test_a_new_chip_takes_the_tables_beside_the_old_one_along(tmp_path):
    old = tmp_path / "old"
    assert main(["chip", "new", str(old), "--like", "neurosim_sram_22nm"]) == 0
    (old / "mine.csv").write_text(
        (data_folder("hw_models") / "tables/neurosim_22nm.csv").read_text()
    )
    text = (old / "chip.yaml").read_text().replace("table: neurosim_22nm", "table: mine.csv")
    (old / "chip.yaml").write_text(text)
    assert main(["chip", "new", str(tmp_path / "new"), "--like", str(old)]) == 0
    assert load_chip(tmp_path / "new").static_array == load_chip(old).static_array


@pytest.mark.parametrize(
    ("name", "like", "message"),
    [
        ("trex_fefet_32nm", "trex_sram_32nm", "trex_fefet_32nm is shipped"),
        ("a b", "trex_sram_32nm", "'a b' cannot be a chip's name"),
        ("there", "trex_sram_32nm", "there is something already"),
        ("mine", "trex_sram_33nm", "did you mean 'trex_sram_32nm'"),
    ],
)
def test_a_new_chip_that_cannot_be(name, like, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    assert main(["chip", "new", name, "--like", like]) == 2
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there"]


def test_the_schemas_file_is_what_the_models_say(capsys):
    written = (data_folder("hw_models") / SCHEMA_FILE).read_text(encoding="utf-8")
    assert main(["chip", "schema"]) == 0
    assert capsys.readouterr().out == written, "trex chip schema --out hw_models/chip.schema.json"


def test_the_schema_knows_the_fields_and_their_limits():
    schema = json.loads(schema_text())
    array = schema["$defs"]["ConstantArraySpec"]
    assert array["additionalProperties"] is False
    assert set(array["properties"]) == set(ConstantArraySpec.model_fields)
    assert {"read_energy_j", "device"} <= set(array["required"])
    assert "weight_slices" not in array["required"]
    energy = schema["$defs"][array["properties"]["read_energy_j"]["$ref"].rsplit("/", 1)[-1]]
    assert energy["properties"]["value"] == {
        "maximum": 0.001,
        "minimum": 2.9e-21,
        "type": "number",
    }
    assert {"required": ["source"]} in energy["anyOf"]
    kinds = {schema["$defs"][one["$ref"].rsplit("/", 1)[-1]]["properties"]["kind"]["const"]
             for one in schema["oneOf"]}  # fmt: skip
    assert kinds == {"trex", "component"}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_chips_name_the_schema(name):
    first = SHIPPED[name].read_text().splitlines()[0]
    assert first == f"# yaml-language-server: $schema=../{SCHEMA_FILE}"
    assert (SHIPPED[name].parent / ".." / SCHEMA_FILE).is_file()


def fields_after(head):
    """Field -> its `needed` cell, of the table under a heading."""
    rows: dict[str, str] = {}
    for line in DOCS[DOCS.index(head) :].splitlines()[1:]:
        if line.startswith("#"):
            break
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        names = re.findall(r"`([\w.]+)`", cells[0]) if line.startswith("| `") else []
        for name in names:
            whole = f"{names[0].partition('.')[0]}{name}" if name.startswith(".") else name
            rows[whole] = cells[1]
    return rows


def needed_in(model: type[BaseModel], path: str = "") -> dict[str, bool]:
    """Field -> whether it must be given; of one-level parts of a chip by `part.field`."""
    found = {}
    for name, field in model.model_fields.items():
        kind = field.annotation
        inner = isinstance(kind, type) and issubclass(kind, BaseModel)
        if inner and name in ("softmax", "options"):
            found.update(needed_in(kind, f"{name}."))
        else:
            found[f"{path}{name}"] = field.is_required()
    return found


@pytest.mark.parametrize(
    ("head", "model"),
    [
        ("## `chip.yaml`, field by field", TrexChipSpec),
        ("### Arrays of `kind: trex`", ConstantArraySpec),
        ("### Arrays of `kind: component`", ComponentArraySpec),
        ("### `device`, the cell", DeviceSpec),
        ("### `errors`, beside the cell's variations", ErrorsSpec),
        ("### `corrections` of an array", CorrectionsSpec),
        ("### `network`, links of tiles", NetworkSpec),
    ],
)
def test_the_docs_tables_say_what_is_needed(head, model: type[ChipSpec]):
    rows, fields = fields_after(head), needed_in(model)
    assert set(rows) == set(fields)
    assert {name for name, cell in rows.items() if cell == "yes"} == {
        name for name, needed in fields.items() if needed
    }
