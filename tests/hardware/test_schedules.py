"""Schedules and a chip's options, by hand and by law."""

from __future__ import annotations

import pytest
from hardware_models import DEIT_S, vit

from trex.architecture import Operation
from trex.hardware import SCHEDULES, load_chip, price, workload
from trex.hardware.prices import Busy, OperationPrice
from trex.hardware.schedule import barriers, exposed_times, flow, pipelined_times
from trex.plan import Plan


def step(part, seconds, kind="static_matmul", vectors=3, write_s=0.0, resource=""):
    """An operation that takes `seconds` a vector."""
    operation = Operation(
        name=part, kind=kind, part=part, vectors=vectors, in_features=1, out_features=1
    )
    busy = Busy(
        component="array_read", total_s=vectors * seconds, fill_s=seconds, resource=resource
    )
    return OperationPrice(operation=operation, busy=(busy,), write_s=write_s)


PRODUCER = (
    step("q", 2.0),
    step("k", 1.0),
    step("scores", 1.0, "dynamic_matmul", write_s=5.0),
    step("context", 1.0, "dynamic_matmul", write_s=4.0),
    step("proj", 4.0),
)
CONSUMER = (step("proj", 4.0), step("fc1", 6.0))


def total(times):
    return sum(seconds for time in times for _, seconds in time)


@pytest.mark.parametrize(
    ("schedule", "doubled", "seconds"),
    [
        ("sequential", False, 3 * (2 + 1 + 1 + 1 + 4) + 9),
        # Q and K read for 9 s; the writes of 9 s hide behind them
        ("sequential", True, 3 * (2 + 1 + 1 + 1 + 4)),
        # K behind Q, the shorter write behind the longer
        ("parallel", False, 3 * (2 + 1 + 1 + 4) + 5),
        # Q alone covers 6 s of the 5 s write
        ("parallel", True, 3 * (2 + 1 + 1 + 4)),
    ],
)
def test_one_encoder_by_hand(schedule, doubled, seconds):
    times = exposed_times(PRODUCER, schedule, double_buffered=doubled)
    assert total(times) == pytest.approx(seconds)


def test_a_pipeline_by_hand():
    """q and k, then both writes, then scores, context and projection of one vector after another.

    The first chain: 2 + 1 for a vector through q and k, 2 more vectors at q's pace of 2. The
    second: 1 + 1 + 4, 2 more at the projection's 4.
    """
    times = pipelined_times([PRODUCER], [False], double_buffered=False)
    assert total(times) == pytest.approx((3 + 4) + 9 + (6 + 8))
    # 7 s of the 9 s of writes hide behind q and k
    assert total(pipelined_times([PRODUCER], [False], double_buffered=True)) == pytest.approx(
        (3 + 4) + (9 - 7) + (6 + 8)
    )
    assert flow(PRODUCER, double_buffered=True).within_s == pytest.approx(2)


def test_a_consumer_continues_its_predecessors_chain():
    """1 + 1 + 4 and 4 + 6 to fill, then two vectors at the slowest step, 6."""
    times = pipelined_times([PRODUCER, CONSUMER], [False, True], double_buffered=False)
    assert total(times) == pytest.approx((3 + 4) + 9 + (6 + 10 + 12))
    apart = pipelined_times([PRODUCER, CONSUMER], [False, False], double_buffered=False)
    assert total(apart) == pytest.approx((3 + 4) + 9 + (6 + 8) + (10 + 12))


def test_merging_waits_for_all_tokens():
    """Chains: q and k; matching beside attention; what is merged, and on."""
    matched = (
        *PRODUCER[:2],
        step("matching", 1.0, "dynamic_matmul", write_s=2.0),
        step("scores", 1.0, "dynamic_matmul", write_s=5.0),
        step("proj", 4.0),
    )
    behind = (step("merging", 0.5, "elementwise"), step("fc1", 6.0))
    merging = (*matched, *behind)
    assert barriers(merging) == [2, 5]
    by_hand = [(3 + 4), 7, (6 + 8), (6.5 + 12)]
    times = pipelined_times([merging], [False], double_buffered=False)
    assert total(times) == pytest.approx(sum(by_hand))
    parts = flow(merging, double_buffered=False)
    assert parts.within_s == pytest.approx(by_hand[1] + by_hand[2])
    assert (parts.before.fill_s, parts.after.fill_s) == (3, 6.5)
    # what comes next streams on
    times = pipelined_times([merging, CONSUMER], [False, True], double_buffered=False)
    assert total(times) == pytest.approx(sum(by_hand[:3]) + (6.5 + 10 + 12))
    # a reused tensor is merged where it lies; nothing waits for it
    assert barriers((step("merging", 1.0, "elementwise"), *CONSUMER)) == []


def test_a_shared_unit_takes_turns():
    shared = (step("a", 2.0, resource="bus"), step("b", 2.0, resource="bus"), step("c", 3.0))
    assert total(pipelined_times([shared], [False], double_buffered=False)) == 7 + 2 * 4
    assert flow(shared, double_buffered=False).shared_s == (0, 0, 12)


def test_the_interval_is_the_busiest_resources_time():
    """Arrays that are written and then read hold an image for both, unless there are two sets."""
    assert flow(PRODUCER, double_buffered=False).occupied_s == 12  # the projection
    slow_write = (step("scores", 1.0, "dynamic_matmul", write_s=11.0),)
    assert flow(slow_write, double_buffered=False).occupied_s == 14
    assert flow(slow_write, double_buffered=True).occupied_s == 11


PLAN = Plan.parse("3<-2 5<-4 6<-4")


def cost_with(schedule="sequential", model=DEIT_S, accounting="full", **fields):
    chip = load_chip("trex_fefet_32nm", {k.replace("__", "."): v for k, v in fields.items()})
    return price(workload(model, PLAN if model is DEIT_S else None), chip, accounting,
                 schedule=schedule)  # fmt: skip


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_more_softmax_units_take_less_time_and_more_area(schedule):
    costs = [cost_with(schedule, softmax__units=units) for units in (1, 3, 6, 12, 48)]
    assert [c.latency_s for c in costs] == sorted((c.latency_s for c in costs), reverse=True)
    assert [c.interval_s for c in costs] == sorted((c.interval_s for c in costs), reverse=True)
    assert [c.area_m2 for c in costs] == sorted(c.area_m2 for c in costs)
    assert costs[2].latency_s == pytest.approx(cost_with(schedule).latency_s)  # one a head: six


def test_units_of_each_encoders_own_let_images_overlap():
    shared, own = (cost_with("pipelined", softmax__shared=shared) for shared in (True, False))
    assert own.interval_s < shared.interval_s / 5
    assert own.area_m2 > shared.area_m2
    assert own.latency_s <= shared.latency_s


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_depth_first_softmax_moves_less(schedule):
    buffered, direct = (cost_with(schedule, softmax__depth_first=f) for f in (False, True))
    for component in ("buffer", "bus"):
        before, after = (c.by_component()[component].energy_j for c in (buffered, direct))
        assert after < before
    assert direct.latency_s <= buffered.latency_s
    assert direct.area_m2 == buffered.area_m2


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_double_buffered_writes_trade_area_for_time(schedule):
    single, double = (
        cost_with(schedule, options__double_buffered_writes=f) for f in (False, True)
    )
    assert double.latency_s < single.latency_s
    assert double.interval_s <= single.interval_s
    assert double.area_m2 > single.area_m2


def test_fused_qk_saves_a_product_with_one_head_only():
    one, many = (vit(depth=2, dim=256, heads=h) for h in (1, 4))
    for model, saves in ((one, True), (many, False)):
        apart, fused = (cost_with(model=model, options__fused_qk=f) for f in (False, True))
        assert (fused.energy_j < apart.energy_j) is saves
        assert (fused.area_m2 < apart.area_m2) is saves
        assert not any(layer.endswith("attn.k") for layer in fused.by_layer())


def test_options_do_not_touch_the_papers_equations():
    plain = cost_with(accounting="paper", schedule=None)
    changed = cost_with(
        accounting="paper",
        schedule=None,
        softmax__units=48,
        softmax__shared=False,
        softmax__depth_first=True,
        options__double_buffered_writes=True,
        options__fused_qk=True,
        options__schedule="pipelined",
    )
    assert changed.shares == plain.shares


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_reuse_saves_under_every_schedule(schedule):
    chip = load_chip("trex_fefet_32nm")
    original = price(workload(DEIT_S), chip, "full", schedule=schedule)
    reused = price(
        workload(DEIT_S, PLAN.with_transforms("block")), chip, "full", schedule=schedule
    )
    for quantity in ("latency_s", "interval_s", "energy_j", "area_m2"):
        assert getattr(reused, quantity) < getattr(original, quantity)


def test_a_map_kept_for_a_consumer_is_written_and_read():
    """Depth-first softmax leaves no map behind; keeping one costs the consumer a write."""
    chip = load_chip("trex_fefet_32nm", {"softmax.depth_first": True})
    plan = Plan.parse("3<-2:map")
    layers = price(workload(DEIT_S, plan), chip, "full").shares
    moved = {
        s.layer: s.energy_j for s in layers if s.component == "bus" and s.layer.endswith("context")
    }
    output_bits, map_bits = 197 * 384 * 8, 6 * 197 * 197 * 8
    assert moved["blocks.2.attn.context"] == pytest.approx(output_bits * 0.054e-12)
    assert moved["blocks.3.attn.context"] == pytest.approx(
        (output_bits + 2 * map_bits) * 0.054e-12
    )
