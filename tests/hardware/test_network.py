"""Values on their way over a chip of tiles, by hand and by law."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hardware_models import DEIT_S, NETWORK, vit

from trex.architecture import Architecture, Operation
from trex.hardware import CostTable, load_chip, price, price_layers, workload
from trex.hardware.network import lay_out
from trex.hardware.schedule import at_once
from trex.hardware.system import Pricer
from trex.plan import Plan

BUS = load_chip("neurosim_sram_22nm")
CHIP = replace(BUS, network=NETWORK)
DEIT_T = vit("deit_tiny_patch16_224", depth=12, dim=192, heads=3, tokens=197, mlp=768)


def one(vectors=197, height=384, width=384, kind="static_matmul", groups=1, part="layer"):
    op = Operation(
        name="layer", kind=kind, part=part,
        vectors=vectors, in_features=height, out_features=width, groups=groups,
    )  # fmt: skip
    return workload(Architecture(model="one", body=(op,)))


def of(cost, component, field="energy_j"):
    return sum(getattr(s, field) for s in cost.shares if s.component == component)


def test_a_chip_twice_as_wide_has_longer_wires_and_more_channels():
    small, large = lay_out(NETWORK, 16.0, 16e-6), lay_out(NETWORK, 64.0, 64e-6)
    assert small.pitch_m == pytest.approx(1e-3)
    assert large.pitch_m == pytest.approx(small.pitch_m)
    assert (small.distance_m, large.distance_m) == pytest.approx((3e-3, 7e-3))
    assert large.bits_per_s == 2 * small.bits_per_s == 8 * NETWORK.channel_bits_per_s
    # what is not a square has a channel for each row of tiles that is begun
    assert lay_out(NETWORK, 17.0, 17e-6).bits_per_s == 5 * NETWORK.channel_bits_per_s


def test_one_tile_needs_no_wires():
    assert lay_out(NETWORK, 1.0, 1e-6).distance_m == 0


def test_the_way_of_one_layer_by_hand():
    """384 x 384 on 128x128: 72 arrays, twice, 16 a tile: 9 tiles, of which 4.5 take a vector."""
    links = Pricer.of(CHIP, "full", architecture=one().architecture).links
    assert links.tiles == 9
    cost = price(one(), CHIP, "full")
    vector, out = 384 * 8, 384 * 8
    held = 4.5 * vector  # every tile takes the whole vector
    assert of(cost, "tile_link") == pytest.approx(197 * (held + out) * 0.054e-12)
    wire_m = 197 * (vector + out) * links.distance_m + 197 * vector * 3.5 * links.pitch_m
    assert of(cost, "network") == pytest.approx(wire_m * 40.4e-12)
    assert of(cost, "buffer") == pytest.approx(197 * (vector + out) * 53.2e-15)
    assert of(cost, "network", "latency_s") == pytest.approx(197 * (vector + out) / (3 * 256e9))
    # the first vector's way; the others arrive while arrays read
    first_s = (vector + out / 4.5) / 256e9
    assert of(cost, "tile_link", "latency_s") == pytest.approx(first_s)
    assert "bus" not in cost.by_component()


def test_a_slow_link_is_waited_for():
    slow = replace(CHIP, network=replace(NETWORK, link_bits_per_s=1e9))
    link_s = (384 * 8 + 384 * 8 / 4.5) / 1e9
    each_s = CHIP.static_array.vector_latency_s
    cost = price(one(), slow, "full")
    # two copies take vectors in turn
    assert of(cost, "tile_link", "latency_s") == pytest.approx(
        link_s + 196 * (link_s / 2 - each_s)
    )


def test_the_input_of_q_k_and_v_is_fetched_once():
    cost = price(workload(DEIT_S), CHIP, "full")
    layers = {
        part: {s.component: s for s in cost.shares if s.layer == f"blocks.0.attn.{part}"}
        for part in "qkv"
    }
    out_j = 197 * 384 * 8 * 53.2e-15
    assert layers["q"]["buffer"].energy_j == pytest.approx(2 * out_j)
    for part in "kv":
        assert layers[part]["buffer"].energy_j == pytest.approx(out_j)
        assert layers[part]["network"].energy_j < layers["q"]["network"].energy_j
        assert layers[part]["tile_link"].energy_j == layers["q"]["tile_link"].energy_j


def test_class_rows_are_fetched_with_the_keys():
    """In the last encoder Q takes one vector, K and V all: what K fetches is what counts."""
    work = workload(DEIT_S, Plan.parse("11=class"))
    assert len(at_once([op for op in work if op.name.startswith("blocks.11.")])) == 3
    cost = price(work, CHIP, "full")
    joules = {
        part: sum(
            s.energy_j
            for s in cost.shares
            if s.layer == f"blocks.11.attn.{part}" and s.component == "buffer"
        )
        for part in "qk"
    }
    assert joules["q"] == pytest.approx(384 * 8 * 53.2e-15)
    assert joules["k"] == pytest.approx(2 * 197 * 384 * 8 * 53.2e-15)


def test_keys_travel_to_their_arrays():
    """One bus takes them for nothing: 605 kbit of K in DeiT-S are read and carried here."""
    work = one(height=64, width=197, kind="dynamic_matmul", groups=6, part="scores")
    cost, links = (
        price(work, CHIP, "full"),
        Pricer.of(CHIP, "full", architecture=work.architecture).links,
    )
    matrix = 6 * 64 * 197 * 8
    assert matrix == 605_184
    moved = 197 * 6 * (64 + 197) * 8
    assert of(cost, "buffer") == pytest.approx((moved + matrix) * 53.2e-15)
    seconds = (moved + matrix) / links.bits_per_s
    assert of(cost, "network", "latency_s") == pytest.approx(seconds)
    # 78 arrays, two copies: 10 tiles, whose buses bring rows more slowly than arrays write them
    assert of(cost, "array_write", "latency_s") == pytest.approx(2 * matrix / 10 / 256e9)
    assert CHIP.dynamic_array.write_latency_s < 2 * matrix / 10 / 256e9


@pytest.mark.parametrize("schedule", ["sequential", "parallel", "pipelined"])
def test_tables_price_what_prices_do(schedule):
    chip = replace(CHIP, options=replace(CHIP.options, schedule=schedule))
    table = CostTable(DEIT_T, chip, "full", schedule=schedule)
    plans = [Plan(), Plan.parse("3<-2 5~40 6=53 7=@6 11=class", "none")]
    costs = table.price_plans(table.arrays_of(plans))
    for i, plan in enumerate(plans):
        whole = price(workload(DEIT_T, plan), chip, "full", schedule=schedule)
        assert costs.energy_j[i] == pytest.approx(whole.energy_j)
        assert costs.latency_s[i] == pytest.approx(whole.latency_s)
        assert costs.interval_s[i] == pytest.approx(whole.interval_s)


def test_the_network_is_the_originals_whatever_plan_runs():
    work = workload(DEIT_T, Plan.parse("3<-2 5<-4 11=class", "none"))
    found = [Pricer.of(CHIP, "full", architecture=w.architecture).links for w in
             (work, workload(DEIT_T))]  # fmt: skip
    assert found[0] == found[1]
    assert Pricer.of(CHIP, "full", architecture=DEIT_S).links.tiles > found[0].tiles


def test_the_papers_equations_know_no_network():
    costs = [price(workload(DEIT_T), chip, "paper") for chip in (BUS, CHIP)]
    assert costs[0].shares == costs[1].shares


def test_layers_by_themselves_cost_what_one_layer_does():
    layers = price_layers(CHIP, vectors=[197, 50], in_features=[384, 64], out_features=[384, 1000])
    for i, (vectors, height, width) in enumerate([(197, 384, 384), (50, 64, 1000)]):
        cost = price(one(vectors, height, width), CHIP, "full")
        assert layers.latency_s[i] == pytest.approx(cost.latency_s)
        assert layers.energy_j[i] == pytest.approx(cost.energy_j - of(cost, "leakage"))


def test_the_bottleneck_is_named():
    sequential = price(workload(DEIT_S), BUS, "full")
    assert sequential.bottleneck.resource == "array_read"
    assert sequential.bottleneck.busy_s == pytest.approx(of(sequential, "array_read", "latency_s"))
    pipelined = price(workload(DEIT_S), BUS, "full", schedule="pipelined")
    assert pipelined.bottleneck == ("bus", pipelined.interval_s, 1.0)
    # a tree as wide as its tiles leaves the softmax, which the whole chip shares
    wide = price(workload(DEIT_S), CHIP, "full", schedule="pipelined")
    assert wide.bottleneck.resource == "softmax"
    assert wide.interval_s < pipelined.interval_s
    array = replace(CHIP.static_array, vector_latency_s=1e-5)
    slow = price(workload(DEIT_S), replace(CHIP, static_array=array), "full", schedule="pipelined")
    assert slow.bottleneck.resource == "arrays of blocks.0.mlp.fc2"
