"""The TReX paper's Tables IV and V, and what it says of single encoders."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from hardware_models import DEIT_S, LVVIT_S

from trex.cli import main
from trex.hardware import Cost, load_chip, price, workload
from trex.plan import Plan

GOLDEN = Path(__file__).parents[1] / "golden"


def rows(file: str) -> list[dict[str, str]]:
    lines = [line for line in (GOLDEN / file).read_text().splitlines() if line[0] != "#"]
    return list(csv.DictReader(lines))


CASES = [
    pytest.param(model, row, id=row["name"])
    for model, file in ((DEIT_S, "deit_s_fefet.csv"), (LVVIT_S, "lvvit_s_fefet.csv"))
    for row in rows(file)
]


def cost_of(model, row, accounting="paper", transform="none") -> Cost:
    plan = Plan.nearest(range(1, int(row["n_reuse"]) + 1), transform=transform)
    return price(workload(model, plan), load_chip("trex_fefet_32nm"), accounting)


def last_digit(text: str) -> float:
    return 10.0 ** -len(text.partition(".")[2])


@pytest.mark.parametrize(("model", "row"), CASES)
def test_published_row(model, row):
    cost = cost_of(model, row)
    assert cost.area_m2 * 1e6 == pytest.approx(float(row["area_mm2"]), rel=1e-3)
    assert cost.latency_s * 1e3 == pytest.approx(float(row["delay_ms"]), rel=1.5e-3)
    assert cost.edap_mj_ms_mm2 == pytest.approx(float(row["edap_mj_ms_mm2"]), rel=1e-3)
    for ours, printed in (
        (cost.tops_per_w, row["tops_per_w"]),
        (cost.tops_per_mm2, row["tops_per_mm2"]),
    ):
        assert abs(ours - float(printed)) <= last_digit(printed)


@pytest.mark.parametrize(
    ("model", "file", "gains"),
    [
        (DEIT_S, "deit_s_fefet.csv", [1, 1.51, 2.09, 3.08, 5.0]),
        (LVVIT_S, "lvvit_s_fefet.csv", [1, 1.55, 2.0, 2.29, 3.11, 4.46]),
    ],
)
def test_gains_once_the_transforms_crossbars_count(model, file, gains):
    costs = [cost_of(model, row, "paper_transform", "block") for row in rows(file)]
    ours = [costs[0].edap_j_s_m2 / cost.edap_j_s_m2 for cost in costs]
    assert ours == pytest.approx(gains, rel=0.01)


@pytest.mark.parametrize(
    ("chip", "slices", "edap"),
    [
        ("trex_sram_32nm", 8, 9483),
        ("trex_sram_32nm", 4, 2766),
        ("trex_hybrid_32nm", 8, 1510),
        ("trex_hybrid_32nm", 4, 1227),
    ],
)
def test_other_chips_follow_the_same_equations(chip, slices, edap):
    """Worked out from the paper's equations apart from this code; its tables have FeFET only.

    Four one-bit cells hold four bits of a weight; the equations ask for the slices alone.
    """
    fields = ("arrays.sram.weight_slices", "arrays.sram.weight_bits")
    chip = load_chip(chip, dict.fromkeys(fields, slices))
    assert price(workload(DEIT_S), chip).edap_mj_ms_mm2 == pytest.approx(edap, rel=5e-3)


def test_one_encoder_by_hand():
    """DeiT-S, Table II: 144 crossbars a d×d layer, 96 for Kᵀ or V; 3 and 2 tiles of 1.9 mm²."""
    cost = price(workload(DEIT_S), load_chip("trex_fefet_32nm"))
    layers = cost.by_layer()
    read_s = 197 * 0.01914e-6 * 8
    assert layers["blocks.0.attn.q"].energy_j == pytest.approx(197 * 144 * 25.095e-12)
    assert layers["blocks.0.attn.q"].latency_s == pytest.approx(read_s)
    assert layers["blocks.0.attn.q"].area_m2 == pytest.approx(3 * 1.9e-6)
    scores = layers["blocks.0.attn.scores"]
    assert scores.energy_j == pytest.approx(197 * 96 * 25.095e-12 + 96 * 118e-12)
    assert scores.latency_s == pytest.approx(read_s + 8 * 3.3e-6)
    assert scores.area_m2 == pytest.approx(2 * 1.9e-6)
    softmax = layers["blocks.0.attn.softmax"]
    assert softmax.energy_j == pytest.approx(6 * 197**2 * 6.305e-12)
    assert softmax.latency_s == pytest.approx(197**2 * 15.87e-9)
    assert layers["blocks.0.mlp.fc1"].area_m2 == pytest.approx(9 * 1.9e-6)
    assert "blocks.0.norm1" not in layers
    assert "head" not in layers


@pytest.mark.parametrize(
    ("model", "file"),
    [("deit_small_patch16_224", "deit_s_fefet.csv"), ("lvvit_s", "lvvit_s_fefet.csv")],
)
def test_published_rows_from_the_command_line(capsys, model, file):
    pytest.importorskip("trex.models.registry")
    for row in rows(file):
        plan = str(Plan.nearest(range(1, int(row["n_reuse"]) + 1)))
        flags = ["--model", model, "--hw", "trex_fefet_32nm", "--plan", plan, "--json"]
        assert main(["cost", *flags]) == 0
        result = json.loads(capsys.readouterr().out)
        assert result["area_m2"] * 1e6 == pytest.approx(float(row["area_mm2"]), rel=1e-3)
        assert result["latency_s"] * 1e3 == pytest.approx(float(row["delay_ms"]), rel=1.5e-3)
        edap = float(row["edap_mj_ms_mm2"])
        assert result["edap_mj_ms_mm2"] == pytest.approx(edap, rel=3.5e-3)
        for key in ("tops_per_w", "tops_per_mm2"):
            assert abs(result[key] - float(row[key])) <= last_digit(row[key])
