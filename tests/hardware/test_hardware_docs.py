"""The documentation's numbers, recomputed."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from trex.architecture import Architecture, Operation, vit_encoder
from trex.datafiles import data_folder, shipped
from trex.hardware import compare_schedules, load_chip, price, without_dead_rows, workload
from trex.hardware.subarray_table import find_row
from trex.plan import Plan

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "hardware.md").read_text()
AGREEMENT = (DOCS / "hardware-agreement.md").read_text()


def table_after(text, head):
    """The rows of the Markdown table that has `head` in its first line."""
    lines = text[text.index(head) :].splitlines()
    rows = []
    for line in lines[2:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().strip("`") for cell in line.strip("|").split("|")])
    return rows


def layer(in_features, out_features):
    op = Operation(
        name="layer", kind="static_matmul", part="layer",
        vectors=197, in_features=in_features, out_features=out_features,
    )  # fmt: skip
    return workload(Architecture(model="one layer", body=(op,)))


def test_the_layer_by_hand():
    cost = price(layer(384, 384), load_chip("neurosim_sram_22nm"), "full")
    sums = {
        component: [s for s in cost.shares if s.layer == "layer" and s.component == component]
        for component in cost.by_component()
    }
    known: dict[str, float] = {}
    rows = table_after(PAGE, "| quantity | how | value |")
    for quantity, how, value in rows:
        by_hand = eval(how, {"ceil": math.ceil}, known)
        assert float(value) == pytest.approx(by_hand, rel=1e-4), quantity
        name, _, unit = quantity.partition(", ")
        if not unit:
            known[name] = by_hand
            continue
        field = {"J": "energy_j", "s": "latency_s", "m2": "area_m2"}[unit]
        assert sum(getattr(s, field) for s in sums[name]) == pytest.approx(by_hand), quantity
    arrays = ("cells", "drivers", "mux", "adc", "shift_add", "array_other")
    assert sum(s.area_m2 for name in arrays for s in sums[name]) == pytest.approx(
        known["arrays_m2"]
    )
    by_hand_j = [name for name, _, unit in (q.partition(", ") for q, *_ in rows) if unit == "J"]
    spent = {s.component for s in cost.shares if s.layer == "layer" and s.energy_j}
    assert spent == {*by_hand_j, "leakage"}


def test_the_schedules_table():
    architecture = pytest.importorskip("trex.models.registry").architecture
    model = architecture("deit_small_patch16_224")
    plan = Plan.parse("3<-2 5<-4 7<-6 9<-8 11<-10")
    rows = table_after(PAGE, "| chip | schedule |")
    compared = {
        (chip, c.schedule): c
        for chip in {row[0] for row in rows}
        for c in compare_schedules(workload(model, plan), load_chip(chip))
    }
    for chip, schedule, latency, ratio, interval, interval_ratio, gain, stages in rows:
        ours = compared[chip, schedule]
        assert float(latency) == pytest.approx(ours.cost.latency_s * 1e3, abs=0.006)
        assert float(interval) == pytest.approx(ours.cost.interval_s * 1e3, abs=0.006)
        assert float(ratio.rstrip("×")) == pytest.approx(ours.latency_ratio, abs=0.006)
        assert float(interval_ratio.rstrip("×")) == pytest.approx(ours.interval_ratio, abs=0.006)
        assert float(gain.rstrip("×")) == pytest.approx(ours.edap_gain, abs=0.006)
        assert stages == ", ".join(f"{n} {s:.0%}" for n, s in ours.largest_stages())


@pytest.mark.parametrize("head", ["| chip | plan | latency |", "| chip | plan of rows and maps |"])
def test_the_tables_of_joint_plans(head):
    model = pytest.importorskip("trex.models.registry").architecture("deit_tiny_patch16_224")
    merging = {"matching", "merging", "proportional", "sharing", "mixing", "own_rows"}
    rows = table_after(PAGE, head)
    assert len(rows) > 8
    for name, plan, latency, energy, area, gain, live_gain, share in rows:
        chip = load_chip(name)
        original, live, cost = (
            price(workload(model, p), chip, "full")
            for p in (None, without_dead_rows(model), Plan.parse(plan.strip("`")))
        )
        printed = [float(text.rstrip("×")) for text in (latency, energy, area)]
        ours = [
            getattr(cost, f) / getattr(original, f) for f in ("latency_s", "energy_j", "area_m2")
        ]
        assert printed == pytest.approx(ours, abs=6e-4)
        gains = [of.edap_j_s_m2 / cost.edap_j_s_m2 for of in (original, live)]
        assert [float(g.rstrip("×")) for g in (gain, live_gain)] == pytest.approx(gains, abs=6e-3)
        layers = {op.name for op in cost.operations if op.part in merging}
        spent = sum(s.latency_s for s in cost.shares if s.layer in layers) / cost.latency_s
        assert float(share.rstrip(" %")) == pytest.approx(spent * 100, abs=0.06)


def test_femtojoules_a_mac():
    macs = 197 * 384 * 1536
    rows = table_after(AGREEMENT, "| chip of ours |")
    assert {row[0] for row in rows} == set(shipped("hw_models", "chip.yaml"))
    arrays = ("array_read", "cells", "drivers", "mux", "adc", "shift_add", "array_other")
    for name, converted, in_arrays, everything in rows:
        cost = price(layer(384, 1536), load_chip(name), "full")
        parts = cost.by_component()

        def total(*names, parts=parts):
            return sum(parts[n].energy_j for n in names if n in parts) / macs * 1e15

        assert float(converted) == pytest.approx(total("array_read", "cells", "adc"), rel=0.01)
        assert float(in_arrays) == pytest.approx(total(*arrays, "accumulate"), rel=0.01)
        assert float(everything) == pytest.approx(cost.energy_j / macs * 1e15, rel=0.01)


def test_areas_of_arrays_beside_neurosims():
    rows = table_after(AGREEMENT, "| array | TReX, Table III |")
    table = data_folder("hw_models") / "tables" / "neurosim_22nm.csv"
    chips = {"RRAM": "trex_fefet_32nm", "SRAM": "trex_sram_32nm"}
    assert len(rows) == len(chips)
    for cell, (_, papers, scaled, ratio) in zip(chips, rows, strict=True):
        wanted = {"technode_nm": 22, "cell": cell, "size": 64, "adc": "flash", "levels": 64}
        area_m2 = sum(find_row(table, wanted, 8).area_m2.values()) * (32 / 22) ** 2
        ours_m2 = load_chip(chips[cell]).static_array.area_m2["array"]
        assert float(papers) == pytest.approx(ours_m2 * 1e6, abs=5e-5)
        assert float(scaled) == pytest.approx(area_m2 * 1e6, abs=5e-5)
        assert float(ratio) == pytest.approx(ours_m2 / area_m2, abs=0.06)
    deit_t = pytest.importorskip("trex.models.registry").architecture("deit_tiny_patch16_224")
    area = price(workload(deit_t), load_chip("trex_sram_32nm"), "full").area_m2
    assert f"takes {area * 1e6:.0f} mm²" in AGREEMENT


def test_gains_on_every_chip():
    model = pytest.importorskip("trex.models.registry").architecture("deit_small_patch16_224")
    rows = table_after(AGREEMENT, "| chip | schedule | consumers, off |")
    shown = {(row[0], row[1]): row[2:] for row in rows}
    plans = [
        Plan.parse(text)
        for text in re.findall(r"\(`(3[^`]*)`\)", AGREEMENT.partition("| consumers, off |")[0])
    ]
    assert {name for name, _ in shown} == set(shipped("hw_models", "chip.yaml"))
    assert len(plans) == 2
    for name in {name for name, _ in shown}:
        compared = [
            compare_schedules(workload(model, plan), load_chip(name), ("sequential", "pipelined"))
            for plan in plans
        ]
        for of_plans in zip(*compared, strict=True):
            *gains, told = shown[name, of_plans[0].schedule]
            ours = [gain for c in of_plans for gain in (c.edap_gain, c.other.edap_gain)]
            assert [float(g.rstrip("×")) for g in gains] == pytest.approx(ours, abs=6e-3)
            found = of_plans[0].original.bottleneck
            assert told == f"{found.resource}, {found.share:.0%}"


def test_one_encoder_beside_micsim():
    encoder = vit_encoder(0, tokens=197, dim=384, heads=6, mlp_hidden=1536)
    cost = price(
        workload(Architecture(model="encoder", body=(encoder,))),
        load_chip("hybrid_rram_sram_22nm"),
        "full",
    )
    layers = {name.removeprefix("blocks.0."): sums for name, sums in cost.by_layer().items()}
    names = {
        "Q, K or V": "attn.q",
        "projection": "attn.proj",
        "fc1": "mlp.fc1",
        "fc2": "mlp.fc2",
        "scores, write included": "attn.scores",
        "context, write included": "attn.context",
    }
    rows = table_after(AGREEMENT, "| | ours | MICSim |")
    assert len(rows) == len(names) + 1
    for name, ours, _ in rows:
        sums = layers[names[name]] if name in names else cost
        microjoules, microseconds = map(float, re.findall(r"[\d.]+", ours))
        assert microjoules == pytest.approx(sums.energy_j * 1e6, abs=0.06)
        assert microseconds == pytest.approx(sums.latency_s * 1e6, abs=0.6)


def test_all_linear_layers_beside_neurosim():
    model = pytest.importorskip("trex.models.registry").architecture("deit_small_patch16_224")
    cost = price(workload(model), load_chip("neurosim_sram_22nm_5bit"), "full")
    linear = {op.name for op in cost.operations if op.kind == "static_matmul"}
    shares = [s for s in cost.shares if s.layer in linear]
    rows = {name: ours for name, ours, _ in table_after(AGREEMENT, "| part | difference |")}
    energy_j = sum(s.energy_j for s in shares if s.component != "leakage")
    ours = re.match(r"(\d+) µJ", rows["DeiT-S, all linear layers, SRAM"])
    assert float(ours[1]) == pytest.approx(energy_j * 1e6, abs=0.6)
    ours = re.match(r"(\d+) mm²", rows["the same, area"])
    assert float(ours[1]) == pytest.approx(sum(s.area_m2 for s in shares) * 1e6, abs=0.6)


def test_the_readme_names_every_chip_and_field():
    readme = (data_folder("hw_models") / "README.md").read_text()
    for name, path in shipped("hw_models", "chip.yaml").items():
        assert f"`{name}`" in readme
        for field in re.findall(r"^(?:    )?(\w+):", path.read_text(), flags=re.MULTILINE):
            assert field in readme, field
