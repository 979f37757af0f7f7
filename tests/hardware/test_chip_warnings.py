"""What a price tells of the chip beside its figures: wear, area, a buffer too small, old rows."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hardware_models import DEIT_S, vit

from trex.cli import main
from trex.errors import ChipError
from trex.hardware import load_chip, price, workload
from trex.hardware.chip import Options
from trex.hardware.cost import RETICLE_M2
from trex.hardware.live import fullest
from trex.hardware.system import Pricer
from trex.plan import Plan
from trex.units import duration

DEIT_T = vit("deit_tiny_patch16_224", depth=12, dim=192, heads=3, tokens=197, mlp=768)
RRAM = load_chip("neurosim_rram_22nm")
SRAM = load_chip("neurosim_sram_22nm")
COST = ["cost", "--model", "deit_tiny_patch16_224", "--accounting", "full"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3, "3 seconds"), (119, "120 seconds"), (2280, "38 minutes"), (11880, "3.3 hours"),
     (27 * 86400, "27 days"), (7e8, "22 years")],
)  # fmt: skip
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_cells_that_are_written_for_every_image_wear_out():
    cost = price(workload(DEIT_T), RRAM, "full")
    assert cost.lifetime is not None
    assert cost.lifetime.seconds == pytest.approx(1e6 * cost.latency_s)
    assert (cost.lifetime.cycles, cost.lifetime.cell) == (1e6, "RRAM")
    assert not any("endurance" in line for line in cost.not_modelled)
    # two sets are written in turn, and a pipeline takes images faster
    twice = replace(RRAM, options=Options(double_buffered_writes=True))
    other = price(workload(DEIT_T), twice, "full")
    assert other.lifetime.seconds == pytest.approx(2e6 * other.latency_s)
    piped = price(workload(DEIT_T), RRAM, "full", schedule="pipelined")
    assert piped.lifetime.seconds == pytest.approx(1e6 * piped.interval_s)


def test_nothing_is_told_of_cells_whose_endurance_nobody_gives():
    cost = price(workload(DEIT_T), SRAM, "full")
    assert cost.lifetime is None
    assert any(line.startswith("endurance of the cells") for line in cost.not_modelled)
    # and nothing wears where nothing is written
    plan = Plan.parse("0<-0:map/average 1<-1:map/average", "none")
    assert price(workload(vit(depth=2, tokens=17), plan), RRAM, "full").lifetime is not None


def test_a_chip_larger_than_a_reticle_warns():
    cost = price(workload(DEIT_S), load_chip("trex_sram_32nm"), "full")
    assert cost.area_m2 > RETICLE_M2 == pytest.approx(26e-3 * 33e-3)
    (warning,) = cost.warnings
    assert "858 mm2" in warning
    assert price(workload(DEIT_S), SRAM, "full").warnings == ()


def test_the_command_tells_bottleneck_wear_and_area(capsys):
    assert main([*COST, "--hw", "neurosim_rram_22nm", "--brief"]) == 0
    text = capsys.readouterr().out
    assert "bottleneck: array_read, " in text
    assert "(RRAM, 1e+06 writes) last 29 minutes of continuous use" in text
    assert main([*COST, "--hw", "trex_sram_32nm", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["bottleneck"]["resource"] == "softmax"
    assert result["lifetime"] is None
    assert "reticle" in result["warnings"][0]


def test_schedules_are_told_with_the_softmax_both_ways(capsys):
    flags = [*COST, "--hw", "neurosim_sram_22nm", "--plan", "5<-4 7<-6", "--schedules", "--json"]
    assert main(flags) == 0
    for row in json.loads(capsys.readouterr().out)["schedules"]:
        other = row["softmax_the_other_way"]
        assert (row["depth_first_softmax"], other["depth_first_softmax"]) == (False, True)
        turned = {"softmax.depth_first": True}
        chip = load_chip("neurosim_sram_22nm", turned)
        plan = Plan.parse("5<-4 7<-6")
        gain = 1.0
        for of, power in ((None, 1), (plan, -1)):
            cost = price(workload(DEIT_T, of), chip, "full", schedule=row["schedule"])
            gain *= cost.edap_j_s_m2**power
        assert other["edap_gain"] == pytest.approx(gain, rel=1e-3)
        assert other["edap_gain"] < row["edap_gain"]


def live(plan="", chip=SRAM, model=DEIT_T):
    work = workload(model, Plan.parse(plan, "none"))
    return fullest(work, Pricer.of(chip, "full", architecture=model))


def test_what_is_live_by_hand():
    """DeiT-T's GELU reads and puts out 768 values a token, and the stream waits."""
    scores, stream, hidden = 3 * 197 * 197, 197 * 192, 197 * 768
    assert live().bits == (2 * hidden + stream) * 8
    assert live().operation == "blocks.0.mlp.act"
    # an output waits from its source to its last consumer, and a map as well
    kept = live("5<-2")
    assert kept.bits == (2 * hidden + 2 * stream) * 8
    assert (kept.operation, kept.kept_for) == ("blocks.3.mlp.act", (5,))
    assert live("5<-2:map/none").bits == (2 * hidden + stream + scores) * 8
    # scores of six narrow heads are most, unless they never leave the arrays
    narrow = vit(depth=3, dim=48, heads=6, tokens=197, mlp=48)
    deep = replace(SRAM, softmax=replace(SRAM.softmax, depth_first=True))
    assert live("", SRAM, narrow).bits == (4 * scores + 197 * 48) * 8
    assert live("", deep, narrow).operation == "patch_embed.proj"
    # but a map that is reused lies in the buffer all the same
    assert live("2<-0:map/none", deep, narrow).bits > 2 * scores * 8


def test_a_buffer_that_reused_tensors_overflow_is_told():
    bits = live().bits
    small = replace(SRAM, periphery=replace(SRAM.periphery, buffer_bits=bits))
    for plan, spills in (("", False), ("5<-2", True)):
        lines = price(workload(DEIT_T, Plan.parse(plan, "none")), small, "full").not_modelled
        told = [line for line in lines if line.startswith("spilling")]
        assert bool(told) is spills
        if spills:
            assert "what encoders 5 reuse" in told[0]


def test_every_image_in_flight_takes_its_room():
    small = replace(SRAM, periphery=replace(SRAM.periphery, buffer_bits=live().bits))
    cost = price(workload(DEIT_T), small, "full", schedule="pipelined")
    assert 1 < cost.latency_s / cost.interval_s < 2
    assert any("2 images in flight" in line for line in cost.not_modelled)


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        ({"row.size": 64}, "write_energy_j_per_bit, write_latency_s_per_row, accumulate_energy_j"),
        ({"row.levels": 32}, "accumulate_energy_j"),
        ({"row.levels": 32, "accumulate_energy_j": 1e-12}, ""),
        ({"row.levels": 32, "accumulate_energy_j.value": 1e-12}, ""),
        ({"copies": 4}, ""),
    ],
)
def test_a_changed_row_names_what_follows_it(changes, left):
    chip = load_chip("neurosim_sram_22nm", {f"arrays.sram.{k}": v for k, v in changes.items()})
    assert len(chip.warnings) == bool(left)
    if left:
        assert f"and {left} " in chip.warnings[0]


def test_pricing_with_a_changed_row_warns(caplog, capsys):
    flags = [*COST, "--hw", "neurosim_sram_22nm", "--brief", "--set", "arrays.sram.row.levels=64"]
    assert main(flags) == 0
    assert "takes another row of its table" in caplog.text + capsys.readouterr().err


@pytest.fixture
def bare(tmp_path):
    """A chip with a row of energies only."""
    assert main(["chip", "new", str(tmp_path / "bare"), "--like", "neurosim_sram_22nm"]) == 0
    row = "22,SRAM,128,mine,128,2.919,,7.323,,2.529,,0.381,,450.9,57.715,,2.543,,70.514,0.2"
    head = (
        "technode_nm,cell,size,adc,levels,clk_ns,cells_area_um2,cells_energy_pj,wl_area_um2,"
        "wl_energy_pj,mux_area_um2,mux_energy_pj,adc_unit_area_um2,adc_fj_per_conv,"
        "adc_total_energy_pj,shiftadd_area_um2,shiftadd_energy_pj,total_area_um2,"
        "total_energy_pj,leakage_uw"
    )
    (tmp_path / "bare" / "mine.csv").write_text(f"{head}\n{row}\n")
    path = tmp_path / "bare" / "chip.yaml"
    text = path.read_text().replace("table: neurosim_22nm", "table: mine.csv")
    text = text.replace("adc: flash, levels", "adc: mine, levels")
    text = text.replace("        flash:\n", "        mine:\n", 1)
    path.write_text(text)
    return path


def test_a_row_of_energies_only_needs_an_area(bare):
    with pytest.raises(ChipError, match="gives energies and no areas") as caught:
        load_chip(bare)
    assert "area_m2" in (caught.value.hint or "")
    area = "    area_m2: {value: 9.214e-9, source: mine}\n    column_mux:"
    bare.write_text(bare.read_text().replace("    column_mux:", area, 1))
    chip = load_chip(bare)
    assert chip.static_array.area_m2 == {"array": 9.214e-9}
    assert price(workload(DEIT_T), chip, "full").energy_j == pytest.approx(
        price(workload(DEIT_T), SRAM, "full").energy_j, rel=2e-3
    )


def test_a_row_with_areas_takes_no_other(tmp_path):
    assert main(["chip", "new", str(tmp_path / "two"), "--like", "neurosim_sram_22nm"]) == 0
    path = tmp_path / "two" / "chip.yaml"
    area = "    area_m2: {value: 9.214e-9, source: mine}\n    column_mux:"
    path.write_text(path.read_text().replace("    column_mux:", area, 1))
    with pytest.raises(ChipError, match="stands beside the areas"):
        load_chip(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("cell: SRAM", "cell: RRAM", "cells of RRAM are analogue"),
        ("{value: none,", "{value: 0,", "adc_bits"),
        ("column_write: {value: false,", "column_write: {value: maybe,", "column_write"),
        ("      column_write:", "      unused_rows_idle: true\n      column_write:",
         "no energy of rows"),
        ("value: 40.4e-12", "value: 40.4e-15", "wire_energy_j_per_bit_m"),
        ("leakage_over: interval", "leakage_over: night", "leakage_over"),
    ],
)  # fmt: skip
def test_what_a_corrected_chip_cannot_say(old, new, message, tmp_path):
    assert main(["chip", "new", str(tmp_path / "mine"), "--like", "digital_sram_12nm"]) == 0
    path = tmp_path / "mine" / "chip.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ChipError, match=message):
        load_chip(path)
