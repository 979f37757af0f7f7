"""What a chip file may correct in full prices: each by hand, and nothing where it is left out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hardware_models import DEIT_S, vit

from trex.architecture import Architecture, Operation
from trex.hardware import CostTable, load_chip, price, workload
from trex.hardware.chip import NOT_CORRECTED, ArrayCorrections, Options
from trex.hardware.mapping import map_matmul
from trex.plan import Plan

CHIP = load_chip("neurosim_sram_22nm")
RRAM = load_chip("neurosim_rram_22nm")
DEIT_T = vit("deit_tiny_patch16_224", depth=12, dim=192, heads=3, tokens=197, mlp=768)


def with_(chip, **changes):
    """The chip with corrections on both of its arrays."""
    static, dynamic = (
        replace(array, corrections=replace(array.corrections, **changes))
        for array in (chip.static_array, chip.dynamic_array)
    )
    return replace(chip, static_array=static, dynamic_array=dynamic)


def one(vectors=197, height=384, width=384, kind="static_matmul", groups=1, part="layer"):
    op = Operation(
        name="layer", kind=kind, part=part,
        vectors=vectors, in_features=height, out_features=width, groups=groups,
    )  # fmt: skip
    return workload(Architecture(model="one", body=(op,)))


def of(cost, component, field="energy_j"):
    return sum(getattr(s, field) for s in cost.shares if s.component == component)


def test_what_is_left_out_changes_nothing():
    assert ArrayCorrections() == NOT_CORRECTED
    for chip in (CHIP, RRAM):
        assert (chip.static_array.corrections, chip.network) == (NOT_CORRECTED, None)


@pytest.mark.parametrize(
    "change",
    [
        {"column_write": False},
        {"unused_rows_idle": True},
        {"partial_sum_j_per_bit": 1e-15},
        {"tile_other_m2": 1e-7},
        {"signs": "pair of columns"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_corrections_change_the_fingerprint_and_no_paper_price(change):
    changed = with_(CHIP, **change)
    assert changed.fingerprint != CHIP.fingerprint
    # what errs is the same, so the stored accuracy holds
    assert changed.errors_key == CHIP.errors_key
    work = workload(DEIT_T, Plan.parse("3<-2 11=class", "none"))
    assert price(work, changed, "paper").shares == price(work, CHIP, "paper").shares


def test_rows_that_hold_nothing_take_no_energy():
    """64 rows of scores in arrays of 128: half of cells and drivers, all of the converters."""
    work = one(height=64, width=197, kind="dynamic_matmul", groups=6, part="scores")
    before, after = (
        price(work, chip, "full") for chip in (CHIP, with_(CHIP, unused_rows_idle=True))
    )
    for part, share in (("cells", 0.5), ("drivers", 0.5), ("adc", 1.0), ("mux", 1.0)):
        assert of(after, part) == pytest.approx(share * of(before, part))
    full = [price(one(), c, "full") for c in (CHIP, with_(CHIP, unused_rows_idle=True))]
    assert full[0].energy_j == full[1].energy_j


@pytest.mark.parametrize(
    ("height", "groups", "share"), [(384, 1, 1.0), (400, 1, 400 / 512), (9, 384, None)]
)
def test_the_share_of_rows_in_use(height, groups, share):
    width = 1 if groups > 1 else 384
    (op,) = one(height=height, width=width, groups=groups)
    mapping = map_matmul(op, CHIP.static_array, packed_heads=False)
    # fourteen kernels of nine rows along the diagonal of 128
    expected = 384 * 9 / (28 * 128) if share is None else share
    assert mapping.used_rows == pytest.approx(expected)


@pytest.mark.parametrize(("height", "blocks"), [(128, 1), (256, 2), (384, 3), (640, 5)])
def test_partial_sums_follow_slices_passes_and_width(height, blocks):
    each_j = 3.62e-15
    cost = price(one(height=height), with_(CHIP, partial_sum_j_per_bit=each_j), "full")
    width = 7 + {1: 0, 2: 1, 3: 2, 5: 3}[blocks]
    by_hand = (blocks - 1) * 197 * 384 * 8 * 8 * width * each_j
    assert of(cost, "accumulate") == pytest.approx(by_hand)


def test_partial_sums_come_near_what_neurosim_accumulates():
    """Not fitted: 17.1 fJ a 16-bit adder and 2.55 fJ a flip-flop; proj takes 0.2389 uJ there."""
    chip = with_(
        load_chip("neurosim_sram_22nm_5bit"), partial_sum_j_per_bit=17.1e-15 / 16 + 2.55e-15
    )
    assert of(price(one(), chip, "full"), "accumulate") == pytest.approx(0.2389e-6, rel=0.03)


def test_tiles_have_more_than_arrays():
    changed = with_(CHIP, tile_other_m2=2e-7)
    before, after = (price(one(), chip, "full") for chip in (CHIP, changed))
    assert of(after, "tile_other", "area_m2") == pytest.approx(9 * 2e-7)
    assert of(after, "tile_buffer", "area_m2") == 0  # it lies in the tile's own area
    assert of(after, "tile_buffer") == of(before, "tile_buffer")


def test_pairs_of_columns_double_cells_but_not_converters():
    before, after = (
        price(one(), chip, "full") for chip in (RRAM, with_(RRAM, signs="pair of columns"))
    )
    for part, times in (("cells", 2), ("drivers", 2), ("adc", 1), ("mux", 1), ("shift_add", 1)):
        assert of(after, part) == pytest.approx(times * of(before, part)), part
        assert of(after, part, "area_m2") == pytest.approx(times * of(before, part, "area_m2"))
    assert any("second columns" in line for line in before.not_modelled)
    assert not any("second columns" in line for line in after.not_modelled)


def test_writes_of_keys_hide_only_where_columns_are_written():
    """Rows of an array with Kᵀ span all tokens, so none is whole before the last token comes."""
    doubled = replace(CHIP, options=Options(double_buffered_writes=True))
    latencies = {
        column: price(workload(DEIT_S), with_(doubled, column_write=column), "full")
        for column in (None, True, False)
    }
    writes_s = {c: of(cost, "array_write", "latency_s") for c, cost in latencies.items()}
    assert writes_s[None] == writes_s[True] == 0
    assert writes_s[False] == pytest.approx(12 * CHIP.dynamic_array.write_latency_s)
    single = price(workload(DEIT_S), CHIP, "full")
    assert of(single, "array_write", "latency_s") == pytest.approx(2 * writes_s[False])


@pytest.mark.parametrize("schedule", ["parallel", "pipelined"])
def test_neither_do_they_hide_in_other_schedules(schedule):
    doubled = replace(CHIP, options=Options(double_buffered_writes=True, schedule=schedule))
    hidden, shown = (
        price(workload(DEIT_S), with_(doubled, column_write=c), "full") for c in (True, False)
    )
    assert of(hidden, "array_write", "latency_s") == 0
    write_s = 12 * CHIP.dynamic_array.write_latency_s
    assert of(shown, "array_write", "latency_s") == pytest.approx(write_s)


def test_a_pipeline_may_leak_over_its_interval():
    chips = [
        replace(CHIP, options=Options(schedule="pipelined", leakage_over=over))
        for over in ("latency", "interval")
    ]
    costs = [price(workload(DEIT_S), chip, "full") for chip in chips]
    assert of(costs[1], "leakage") / of(costs[0], "leakage") == pytest.approx(
        costs[0].interval_s / costs[0].latency_s
    )
    assert costs[0].interval_s < costs[0].latency_s
    # several images in a row leak for as long as they run, but for the way of the first
    seconds, joules = costs[1].of_images(1000)
    powers = [of(cost, "leakage") / cost.interval_s for cost in costs]
    assert powers[1] * seconds / (1000 * of(costs[1], "leakage")) == pytest.approx(1, rel=1e-3)
    assert joules == pytest.approx(1000 * costs[1].energy_j)
    # and where nothing overlaps the two are one
    for over in ("latency", "interval"):
        chip = replace(CHIP, options=Options(leakage_over=over))
        assert price(workload(DEIT_S), chip, "full").energy_j == pytest.approx(
            price(workload(DEIT_S), CHIP, "full").energy_j
        )


def test_sums_of_a_pipeline_that_leaks_over_its_interval_are_a_lower_bound():
    chip = replace(CHIP, options=Options(schedule="pipelined", leakage_over="interval"))
    table = CostTable(DEIT_T, chip, "full")
    import numpy as np

    nothing = np.zeros(1, dtype=int)
    sums = sum(
        table.encoder(i, nothing, nothing, nothing, nothing, nothing) for i in range(12)
    ) + table.outside(np.array([197]))
    assert sums[2] == 0
    whole = price(workload(DEIT_T), chip, "full")
    assert sums[0] < whole.energy_j
    assert table.price_plans(table.arrays_of([Plan()])).energy_j[0] == pytest.approx(
        whole.energy_j
    )
