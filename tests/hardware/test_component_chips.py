"""Chips from subarray tables: NeuroSim's results, other rows, measured densities, bad rows."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import pytest
import yaml
from hardware_models import DEIT_S, vit

from trex.architecture import Architecture, Operation
from trex.datafiles import data_folder, shipped
from trex.errors import ChipError
from trex.hardware import load_chip, price, workload

GOLDEN = Path(__file__).parents[1] / "golden"
SHAPES = {"qkv": (384, 1152), "proj": (384, 384), "fc1": (384, 1536)}
TABLE = data_folder("hw_models") / "tables" / "neurosim_22nm.csv"


def table_rows(path: Path) -> list[dict[str, str]]:
    lines = [line for line in path.read_text().splitlines() if line and line[0] != "#"]
    return list(csv.DictReader(lines))


def layer(in_features, out_features, vectors=197):
    op = Operation(
        name="layer", kind="static_matmul", part="layer",
        vectors=vectors, in_features=in_features, out_features=out_features,
    )  # fmt: skip
    return workload(Architecture(model="one layer", body=(op,)))


def array_and_adc_j(work, chip, **densities):
    parts = price(work, chip, "full", densities=densities or None).by_component()
    return parts["cells"].energy_j + parts["adc"].energy_j


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(r, id=f"{r['config']}-{r['layer']}")
        for r in table_rows(GOLDEN / "neurosim_deit_s_layers.csv")
    ],
)
def test_neurosims_layers(row):
    """The SAR configurations ship no chip: they are other rows of the same table."""
    technology, size, adc = row["config"].split("_")
    cell, kind, bits = technology[:4], adc[:-1], int(adc[-1])
    chip = load_chip(
        f"neurosim_{cell}_22nm",
        {
            f"arrays.{cell}.row.adc": kind,
            f"arrays.{cell}.row.size": int(size),
            f"arrays.{cell}.row.levels": 2**bits,
        },
    )
    work = layer(*SHAPES[row["layer"]])
    ours = array_and_adc_j(work, chip)
    assert ours == pytest.approx(float(row["energy_array_adc_uj"]) * 1e-6, rel=0.01)
    seconds = price(work, chip, "full").by_component()["array_read"].latency_s
    assert seconds == pytest.approx(float(row["latency_adc_us"]) * 1e-6, rel=0.01)


@pytest.mark.parametrize(("adc", "joules"), [("flash", 5.60e-6), ("sar", 8.12e-6)])
def test_density_follows_neurosims_trace(adc, joules):
    """fc1 on SRAM at an input density of 0.12; the idle fractions are fitted on these two."""
    chip = load_chip("neurosim_sram_22nm_5bit", {"arrays.sram.row.adc": adc})
    ours = array_and_adc_j(layer(384, 1536), chip, layer=[0.12] * 8)
    assert ours == pytest.approx(joules, rel=0.01)


def test_measured_densities_replace_the_assumed_one():
    chip, work = load_chip("neurosim_sram_22nm"), layer(384, 384)
    assumed = array_and_adc_j(work, chip)
    assert array_and_adc_j(work, chip, layer=[0.5] * 8) == pytest.approx(assumed)
    assert array_and_adc_j(work, chip, other=[0.1] * 8) == assumed
    sparse = array_and_adc_j(work, chip, layer=[0.5] * 4 + [0.0] * 4)
    assert 0.5 * assumed < sparse < assumed


@pytest.mark.parametrize("planes", [[0.5] * 7, [0.5] * 7 + [1.1], [float("nan")] * 8])
def test_densities_that_cannot_be(planes):
    with pytest.raises(ChipError, match="input bit densities"):
        array_and_adc_j(layer(8, 8), load_chip("neurosim_sram_22nm"), layer=planes)


@pytest.mark.parametrize("row", table_rows(TABLE), ids=lambda r: "-".join(list(r.values())[:5]))
def test_every_row_of_the_table_is_a_chip(row):
    """One read of one array is the row, whatever the row."""
    cell = row["cell"].lower()
    chip = load_chip(
        f"neurosim_{cell}_22nm",
        {
            f"arrays.{cell}.row.{key}": int(row[key]) if row[key].isdigit() else row[key]
            for key in ("size", "adc", "levels")
        },
    )
    array = chip.static_array
    assert array.rows == array.columns == int(row["size"])
    one_read = sum(term.at(0.5) for term in array.read)
    assert one_read * 1e12 == pytest.approx(float(row["total_energy_pj"]), rel=0.02)
    assert sum(array.area_m2.values()) * 1e12 == pytest.approx(float(row["total_area_um2"]))
    assert array.vector_latency_s == pytest.approx(float(row["clk_ns"]) * 1e-9 * 8 * 8 / 2)


def own_chip(folder, **cells):
    """A user's chip: a table of one invented row, and a copied chip file that names it."""
    row = dict(table_rows(TABLE)[0])
    row.update(
        technode_nm="28", cell="RRAM", size="256", adc="sar", levels="64", clk_ns="9.5",
        cells_energy_pj="20.0", wl_energy_pj="10.0", mux_energy_pj="0.5",
        adc_fj_per_conv="200.0", adc_total_energy_pj="51.2", shiftadd_energy_pj="5.0",
        total_energy_pj="87.0", total_area_um2="6000", leakage_uw="0.3",
    )  # fmt: skip
    row.update(cells)
    table = folder / "mine.csv"
    table.write_text("# mine\n" + ",".join(row) + "\n" + ",".join(row.values()) + "\n")
    data = yaml.safe_load(shipped("hw_models", "chip.yaml")["neurosim_rram_22nm"].read_text())
    data["name"] = "mine"
    array = data["arrays"]["rram"]
    array["table"] = "mine.csv"
    array["row"] = {"technode_nm": 28, "cell": "RRAM", "size": 256, "adc": "sar", "levels": 64}
    array["copies"]["value"] = 1
    path = folder / "chip.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def test_a_new_row_and_a_name_are_a_new_chip(tmp_path):
    """384×384 with 8 one-bit slices on 256×256: 2 by 12 arrays; 197 vectors of 8 bits."""
    chip = load_chip(own_chip(tmp_path))
    cost = price(layer(384, 384), chip, "full")
    parts, reads = cost.by_component(), 2 * 12 * 197 * 8
    assert parts["cells"].energy_j == pytest.approx(reads * 20e-12)
    assert parts["adc"].energy_j == pytest.approx(reads * 51.2e-12)
    assert parts["drivers"].energy_j == pytest.approx(reads * 10e-12)
    assert parts["array_read"].latency_s == pytest.approx(197 * 8 * 8 * 9.5e-9)
    areas = ("cells", "drivers", "mux", "adc", "shift_add", "array_other")
    assert sum(parts[p].area_m2 for p in areas) == pytest.approx(32 * 6000e-12)  # two tiles of 16
    # a converter of 52.8 um2 for every 8 of 256 columns; the parts leave the rest unnamed
    assert parts["adc"].area_m2 == pytest.approx(32 * 32 * 52.8e-12)
    assert price(workload(DEIT_S), chip, "full").energy_j > 0


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (
            {"technode_nm": "14"},
            r"chip\.yaml:\d+: arrays\.rram\.row\.technode_nm: mine\.csv has no .* 28\n.*: 14",
        ),
        ({"levels": "1"}, r"row\.levels: mine\.csv has no row with levels 64 and .*\n.*: 1"),
        ({"cells_energy_pj": "1e12"}, r"mine\.csv:3: cells_energy_pj: '1e12' is not allowed"),
        ({"cells_energy_pj": "-1"}, r"mine\.csv:3: cells_energy_pj: '-1' is not allowed"),
        ({"cells_energy_pj": "nan"}, r"mine\.csv:3: cells_energy_pj: 'nan'"),
        ({"cells_energy_pj": "much"}, r"mine\.csv:3: cells_energy_pj: 'much'"),
        ({"cells_area_um2": "0"}, r"mine\.csv:3: cells_area_um2: '0' is not allowed"),
        (
            {"total_energy_pj": "10"},
            r"mine\.csv:3: total_energy_pj 10 contradicts its parts, 86\.7",
        ),
        (
            {"total_energy_pj": "90"},
            r"total_energy_pj 90 contradicts its parts, 86\.7 .*adc 51\.2",
        ),
        ({"total_energy_pj": "867"}, r"total_energy_pj 867 contradicts its parts"),
        (
            {"total_area_um2": "600"},
            r"mine\.csv:3: total_area_um2 600 contradicts its parts, 3171",
        ),
        ({"total_area_um2": "60000"}, r"total_area_um2 60000 contradicts its parts, 3171"),
        ({"adc_unit_area_um2": "5280"}, r"total_area_um2 6000 contradicts .*\n.*column_mux"),
        ({"leakage_uw": "3e8"}, r"mine\.csv:3: leakage_uw: '3e8' is not allowed"),
        ({"adc_total_energy_pj": "9"}, r"is not adc_fj_per_conv for 256 columns"),
        ({"clk_ns": "0"}, r"mine\.csv:3: clk_ns"),
        ({"fudge": "1"}, r"mine\.csv:2: unknown column 'fudge'"),
    ],
)
def test_rows_that_cannot_be(tmp_path, cells, message):
    with pytest.raises(ChipError, match=message):
        load_chip(own_chip(tmp_path, **cells))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("leakage_uw", "leakage_nw", r"mine\.csv:2: unknown column 'leakage_nw'\n.*'leakage_uw'"),
        ("leakage_uw", "clk_ns", r"mine\.csv:2: column 'clk_ns' is given twice"),
        (",leakage_uw", "", r"mine\.csv:2: column 'leakage_uw' is missing"),
        ("28,RRAM", '"28,RRAM', r"mine\.csv:3: unexpected end of data"),
        ("28,RRAM", "28,RRAM,1", r"mine\.csv:3: 21 values for 20 columns"),
        ("28,RRAM", "22,RRAM", r"row\.technode_nm: mine\.csv has no row"),
    ],
)
def test_tables_that_cannot_be(tmp_path, old, new, message):
    chip, table = own_chip(tmp_path), tmp_path / "mine.csv"
    assert old in table.read_text()
    table.write_text(table.read_text().replace(old, new, 1))
    with pytest.raises(ChipError, match=message):
        load_chip(chip)


def test_a_table_as_a_spreadsheet_writes_it(tmp_path):
    """A byte-order mark, quotes and the other line ends change nothing."""
    chip, table = own_chip(tmp_path), tmp_path / "mine.csv"
    plain = load_chip(chip)
    text = table.read_text().replace("28,RRAM", '"28","RRAM"').replace("\n", "\r\n")
    table.write_bytes(("\ufeff" + text).encode())
    assert load_chip(chip) == plain


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"row.technode_nm": 7},
            r"chip\.yaml:\d+: .*no row with technode_nm 7\n.*table: 22",
        ),
        ({"row.levels": 1}, r"row\.levels: 1 is not allowed"),
        ({"row.cell": "RRAM"}, r"arrays\.sram\.row\.cell: RRAM is not the array's cell SRAM"),
        ({"device.bits_per_cell": 2}, r"a cell of SRAM cannot hold 2 bits"),
        ({"cell": "SRAMM"}, r"unknown cell 'SRAMM'\n.*did you mean 'SRAM'"),
        ({"table": "neurosim_23nm"}, r"arrays\.sram\.table: no table.*\n.*'neurosim_22nm'"),
        ({"row.adc": "slope"}, r"nothing for a converter of kind 'slope'"),
        ({"table": None}, r"needs either a table"),
        ({"column_mux": 3}, r"chip\.yaml:\d+: arrays\.sram\.column_mux\.value: .* 128 columns"),
        ({"column_mux": 256}, r"arrays\.sram\.column_mux\.value: .* 128 columns"),
        ({"column_mux": 1}, r"neurosim_22nm\.csv:\d+: total_area_um2 9214 contradicts"),
    ],
)
def test_fields_that_cannot_be(overrides, message):
    fields = {f"arrays.sram.{name}": value for name, value in overrides.items()}
    with pytest.raises(ChipError, match=message):
        load_chip("neurosim_sram_22nm", fields)


BITS = [
    ("neurosim_sram_22nm", "arrays.sram.weight_bits", [1, 2, 4, 8, 12]),
    ("neurosim_sram_22nm", "arrays.sram.input_bits", [1, 2, 4, 8, 12]),
    ("neurosim_sram_22nm", "arrays.sram.row.levels", [16, 32, 64, 128]),
    ("trex_fefet_32nm", "arrays.fefet.weight_bits", [2, 4, 8, 12]),
    ("trex_fefet_32nm", "arrays.fefet.input_bits", [8, 12, 16, 24]),
    ("trex_hybrid_32nm", ("arrays.sram.weight_bits", "arrays.sram.weight_slices"), [2, 4, 8]),
    ("neurosim_rram_22nm", "arrays.rram.row.levels", [16, 32, 64, 128]),
    ("isaac_32nm", "arrays.rram.weight_bits", [2, 4, 8, 12]),
    ("isaac_32nm", "arrays.rram.input_bits", [1, 2, 4, 8, 12]),
]


@pytest.mark.parametrize(("name", "fields", "values"), BITS)
def test_more_bits_never_cost_less(name, fields, values):
    work = workload(vit(depth=2, dim=96, tokens=50))
    fields = (fields,) if isinstance(fields, str) else fields
    chips = [load_chip(name, dict.fromkeys(fields, value)) for value in values]
    costs = [price(work, chip, "full") for chip in chips]
    for less, more in itertools.pairwise(costs):
        for quantity in ("energy_j", "latency_s", "area_m2"):
            assert getattr(less, quantity) <= getattr(more, quantity) * (1 + 1e-12)
        assert less.edap_j_s_m2 < more.edap_j_s_m2
