"""What holds for every model, plan and chip."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hardware_models import (
    DEIT_S,
    FORMS,
    SHIPPED,
    any_chips,
    architectures,
    joint_plans,
    plans,
    vit,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from trex.architecture import Operation
from trex.errors import ChipError
from trex.hardware import ACCOUNTINGS, SCHEDULES, CostTable, load_chip, price, workload
from trex.plan import Plan

chips = any_chips()
accountings = st.sampled_from(
    [(a, s) for a in ACCOUNTINGS for s in SCHEDULES if a == "full" or s == "sequential"]
)


@st.composite
def works(draw):
    model = draw(architectures())
    return workload(model, draw(plans(len(model.encoders))))


@st.composite
def joint_works(draw):
    model = draw(architectures())
    return workload(model, draw(joint_plans(model.layout)))


@given(joint_works(), chips, accountings)
@settings(max_examples=60, deadline=None)
def test_totals_are_the_sums_of_every_grouping(work, chip, accounting):
    cost = price(work, chip, accounting[0], schedule=accounting[1])
    for groups in (cost.by_layer(), cost.by_component(), cost.by_stage()):
        for field in ("energy_j", "latency_s", "area_m2"):
            total = math.fsum(getattr(s, field) for s in groups.values())
            assert total == pytest.approx(getattr(cost, field), rel=1e-12)


COSTS = ("energy_j", "latency_s", "area_m2", "interval_s", "edap_j_s_m2")


@st.composite
def joint_tasks(draw):
    model = draw(architectures())
    return model, draw(st.lists(joint_plans(model.layout), min_size=1, max_size=4))


@given(joint_tasks(), chips, accountings)
@settings(max_examples=100, deadline=None)
def test_the_table_agrees_with_the_single_price(task, chip, accounting):
    model, plans = task
    table = CostTable(model, chip, accounting[0], FORMS, schedule=accounting[1])
    costs = table.price_plans(table.arrays_of(plans))
    for row, plan in enumerate(plans):
        work = workload(model, plan)
        cost = price(work, chip, accounting[0], schedule=accounting[1])
        assert costs.macs[row] == work.macs
        for field in COSTS:
            assert getattr(costs, field)[row] == pytest.approx(getattr(cost, field), rel=1e-9)


@given(works(), chips, accountings)
@settings(max_examples=30, deadline=None)
def test_plans_of_reuse_alone_are_rows_of_forms(work, chip, accounting):
    table = CostTable(work.architecture, chip, accounting[0], FORMS, schedule=accounting[1])
    arrays = table.arrays_of([work.plan])
    by_forms, whole = table.price(arrays.forms), table.price_plans(arrays)
    for field in (*COSTS, "macs"):
        assert getattr(by_forms, field) == getattr(whole, field)


@given(works(), chips)
@settings(max_examples=60, deadline=None)
def test_more_reuse_never_costs_more_under_paper(work, chip):
    original = price(workload(work.architecture), chip)
    cost = price(work, chip)
    for consumer in work.plan.consumers:
        fewer = Plan(tuple(r for r in work.plan.reuses if r.consumer != consumer))
        before = price(workload(work.architecture, fewer), chip)
        for field in ("energy_j", "latency_s", "area_m2"):
            assert getattr(cost, field) < getattr(before, field)
            assert getattr(before, field) <= getattr(original, field)


@given(joint_works(), chips, accountings, st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_twice_the_images_twice_the_energy(work, chip, accounting, images):
    cost = price(work, chip, accounting[0], schedule=accounting[1])
    seconds, joules = cost.of_images(images)
    twice_s, twice_j = cost.of_images(2 * images)
    assert twice_j == pytest.approx(2 * joules)
    assert seconds < twice_s <= 2 * seconds * (1 + 1e-12)


@given(joint_works(), chips)
@settings(max_examples=30, deadline=None)
def test_schedules_only_ever_help(work, chip):
    sequential, parallel, pipelined = (
        price(work, chip, "full", schedule=schedule) for schedule in SCHEDULES
    )
    assert parallel.latency_s <= sequential.latency_s * (1 + 1e-12)
    assert pipelined.latency_s <= sequential.latency_s * (1 + 1e-12)
    assert pipelined.interval_s <= pipelined.latency_s * (1 + 1e-12)


@pytest.mark.parametrize("transform", ["none", "linear"])
def test_folded_transforms_cost_nothing(transform):
    chip = SHIPPED["trex_fefet_32nm"]
    plan = Plan.parse("5<-4 7<-6:map", transform)
    assert price(workload(DEIT_S, plan), chip, "full").shares == (
        price(workload(DEIT_S, plan.with_transforms("none")), chip, "full").shares
    )


def test_a_plan_is_priced_by_its_forms_not_by_its_sources():
    near, far = Plan.parse("3<-2 4<-2"), Plan.parse("3<-0 4<-1")
    chip = SHIPPED["trex_hybrid_32nm"]
    assert price(workload(DEIT_S, near), chip).edap_j_s_m2 == pytest.approx(
        price(workload(DEIT_S, far), chip).edap_j_s_m2
    )


def test_the_table_refuses_what_is_no_plan():
    table = CostTable(vit(depth=3), SHIPPED["trex_fefet_32nm"])
    with pytest.raises(ValueError, match="plans × 3"):
        table.price(np.zeros((4, 2), dtype=int))
    with pytest.raises(ValueError, match="from 0 to 1"):
        table.price([[0, 1, 2]])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_many_plans_are_priced_in_pieces(monkeypatch, schedule):
    model = vit(depth=5)
    table = CostTable(model, SHIPPED["trex_fefet_32nm"], "full", FORMS, schedule=schedule)
    random = np.random.default_rng(0)
    rows = random.integers(0, len(FORMS) + 1, (97, 5))
    rows[:, 0] = 0
    whole = table.price(rows)
    monkeypatch.setattr("trex.hardware.table._CHUNK", 10)
    pieces = table.price(rows)
    assert np.array_equal(whole.latency_s, pieces.latency_s)
    assert np.array_equal(whole.energy_j, pieces.energy_j)
    assert table.price(np.zeros((0, 5), dtype=int)).area_m2.shape == (0,)


def test_a_buffer_too_small_is_said():
    chip = load_chip("trex_fefet_32nm")
    large = vit(depth=1, dim=64, heads=16, tokens=400)
    assert any("spilling" in line for line in price(workload(large), chip, "full").not_modelled)
    small = price(workload(DEIT_S), chip, "full").not_modelled
    assert not any("spilling" in line for line in small)


def test_what_the_tracer_could_not_count_is_listed():
    model = replace(DEIT_S, uncounted=("some operator",))
    for accounting in ACCOUNTINGS:
        cost = price(workload(model), SHIPPED["trex_fefet_32nm"], accounting)
        assert "some operator" in cost.not_modelled


def test_an_unknown_function_is_named_and_costs_nothing():
    op = Operation(
        name="odd",
        kind="elementwise",
        part="odd",
        vectors=3,
        out_features=4,
        function="frobnicate",
    )
    model = replace(DEIT_S, body=(*DEIT_S.body, op))
    chip = SHIPPED["trex_fefet_32nm"]
    cost = price(workload(model), chip, "full")
    assert any("'frobnicate' (odd)" in line for line in cost.not_modelled)
    assert cost.energy_j == price(workload(DEIT_S), chip, "full").energy_j


def test_paper_accounting_needs_encoders():
    stem_only = replace(DEIT_S, body=DEIT_S.body[:1])
    with pytest.raises(ChipError, match=r"no encoder.*\n.*full accounting"):
        price(workload(stem_only), SHIPPED["trex_fefet_32nm"])
    with pytest.raises(ChipError, match="no encoders"):
        CostTable(stem_only, SHIPPED["trex_fefet_32nm"])


def test_the_second_columns_of_signed_weights_are_named_where_they_are_not_priced():
    for name, accounting in (("trex_fefet_32nm", "paper"), ("trex_hybrid_32nm", "full")):
        missing = price(workload(DEIT_S), load_chip(name), accounting).not_modelled
        assert any(line.startswith("second columns for signs on fefet:") for line in missing)
    for name in ("trex_sram_32nm", "neurosim_sram_22nm"):
        missing = price(workload(DEIT_S), load_chip(name), "full").not_modelled
        assert not any("second columns" in line for line in missing)


def test_listed_assumptions_are_those_that_enter_the_numbers():
    """What an accounting leaves out, and what moves no price of this chip, is not listed."""
    work = workload(vit(depth=2, dim=96, heads=3, tokens=50))

    def listed(chip, accounting, **fields):
        changed = {f"arrays.{name.replace('__', '.')}": value for name, value in fields.items()}
        lines = price(work, load_chip(chip, changed), accounting).assumptions
        return {line.partition(" = ")[0].partition(": ")[0] for line in lines}

    paper, full = (listed("neurosim_sram_22nm", a) for a in ("paper", "full"))
    assert full > paper
    assert "arrays.sram.accumulate_energy_j" in full - paper
    assert not any("idle_fraction" in field for field in full)  # at a density of one half
    sparse = listed("neurosim_sram_22nm", "full", sram__input_bit_density=0.3)
    assert "arrays.sram.idle_fraction.cells" in sparse
    assert "arrays.rram.input_bit_density" not in listed("isaac_32nm", "full")
    assert "arrays.rram.circuit.leakage_w" in listed("isaac_32nm", "full")
    assert "arrays.rram.circuit.leakage_w" not in listed("isaac_32nm", "paper")
    assert "arrays.rram.write_energy_j_per_bit" not in listed("hybrid_rram_sram_22nm", "full")
    wider = listed("neurosim_rram_22nm", "full", rram__device__bits_per_cell=2)
    assert "arrays.rram.device.bits_per_cell" in wider
