"""Maps that consumers make themselves, and own class rows: by hand, and by law."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hardware_models import SHIPPED, any_chips, vit
from hypothesis import given, settings
from hypothesis import strategies as st

from trex.architecture import Architecture, Operation
from trex.hardware import ACCOUNTINGS, CostTable, load_chip, price, workload
from trex.plan import Plan

CHIP = SHIPPED["trex_fefet_32nm"]
SMALL = vit(depth=4, dim=16, heads=2, tokens=9, mlp=32)
DEIT_T = vit("deit_tiny_patch16_224", depth=12, dim=192, heads=3, tokens=197, mlp=768)


def operations(plan: str, encoder: int, model: Architecture = SMALL) -> dict[str, Operation]:
    """An encoder's operations by name."""
    prefix = f"blocks.{encoder}."
    work = workload(model, Plan.parse(plan))
    return {op.name.removeprefix(prefix): op for op in work if op.name.startswith(prefix)}


def shape(op: Operation) -> tuple:
    """(vectors, in, out, groups, second operand)."""
    return op.vectors, op.in_features, op.out_features, op.groups, op.operand


def added(plan: str, to: str, encoder: int = 2) -> dict[str, tuple]:
    """What one plan's encoder does beside another's."""
    before = operations(to, encoder)
    return {n: shape(op) for n, op in operations(plan, encoder).items() if n not in before}


def test_mixed_and_average_maps_by_hand() -> None:
    """Two heads of nine tokens: constants of 9 by 9, four weights."""
    plain = "2<-0:map/none"
    assert added("2<-0:map/mixed", plain) == {
        "mixing.constants": (9, 0, 9, 2, None),
        "mixing.heads": (9, 2, 9, 2, 2 * 9 * 9 + 4),
    }
    assert added("2:map/average", plain) == {"mixing.constants": (9, 0, 9, 2, None)}
    found = operations("2<-0:map/mixed", 2)
    assert found["mixing.constants"].stored == 2 * 9 * 9
    assert not {"attn.q", "attn.k", "attn.scores", "attn.softmax"} & found.keys()
    assert list(found).index("attn.v") < list(found).index("mixing.heads")
    assert list(found)[list(found).index("mixing.heads") + 1] == "attn.context"


def test_constants_follow_merged_tokens() -> None:
    """Three of nine tokens are gone before the source, two more behind it."""
    found = added("0~3 2<-1:map/mixed 1~2", "0~3 2<-1:map/none 1~2")
    assert found == {
        "mixing.constants": (9, 0, 9, 2, None),
        "mixing.columns": (9, 0, 5, 2, None),
        "mixing.sum": (5, 0, 4, 2, None),
        "mixing.mean": (4, 0, 4, 2, 4),
        "mixing.heads": (4, 2, 4, 2, 2 * 4 * 4 + 4),
    }
    reused = operations("0~3 2<-1:map/mixed 1~2", 2)
    assert shape(reused["reused.columns"]) == (6, 0, 2, 2, None)
    average = operations("0~3 2:map/average 1~2", 2)
    assert not any(name.startswith("reused") for name in average)
    # every constant is fetched once
    fetched = 2 * (9 * 5 + 5 * 4 + 4 * 4)
    assert fetched == 2 * 9 * 9


def test_own_class_rows_by_hand() -> None:
    """One query of two heads; eight of nine rows of the map are reused."""
    assert added("2<-0:map/none 2=class", "2<-0:map/none") == {
        "attn.q": (1, 16, 16, 1, None),
        "attn.class_keys": (1, 8, 16, 2, None),
        "attn.class_scores": (9, 16, 2, 1, 9 * 16),
        "attn.softmax": (1, 0, 9, 2, None),
    }
    mixed = operations("2<-0:map/mixed 2=class", 2)
    assert shape(mixed["mixing.heads"]) == (8, 2, 9, 2, 2 * 8 * 9 + 4)
    assert shape(mixed["attn.context"]) == (9, 9, 8, 2, None)
    merged = operations("0~3 2<-0:map/mixed 1~2 2=class", 2)
    assert shape(merged["attn.class_scores"]) == (4, 16, 2, 1, 4 * 16)
    assert shape(merged["attn.log_sizes"]) == (1, 0, 4, 1, None)
    assert shape(merged["attn.proportional"]) == (1, 0, 4, 2, 4)
    assert shape(merged["mixing.columns"]) == (8, 0, 5, 2, None)
    assert shape(merged["mixing.heads"]) == (3, 2, 4, 2, 2 * 3 * 4 + 4)
    assert shape(merged["reused.columns"]) == (8, 0, 5, 2, None)
    work = workload(SMALL, Plan.parse("1<-0:map 2<-0:map/mixed 2=class 3=class"))
    assert work.rows == (9, 0, 1, 1)
    two = replace(SMALL, layout=replace(SMALL.layout, class_tokens=2, protected=2, class_rows=2))
    assert shape(operations("2:map/average 2=class", 2, two)["attn.class_scores"]) == (
        9, 16, 4, 1, 9 * 16,
    )  # fmt: skip


def test_no_key_is_computed_nor_written() -> None:
    cost = price(workload(DEIT_T, Plan.parse("5<-4:map/mixed 5=class")), CHIP, "full")
    own = [s for s in cost.shares if s.layer.startswith("blocks.5.")]
    written = {s.layer for s in own if s.component == "array_write"}
    assert written == {"blocks.5.attn.context"}
    reads = {s.layer: s for s in own if s.component == "array_read"}
    # one vector a head through arrays as large as those of the keys
    assert reads["blocks.5.attn.class_keys"].latency_s < 1e-6
    original = price(workload(DEIT_T), CHIP, "full").by_layer()
    layers = cost.by_layer()
    assert layers["blocks.5.attn.q"].area_m2 == original["blocks.5.attn.q"].area_m2
    assert layers["blocks.5.attn.class_keys"].area_m2 >= original["blocks.5.attn.k"].area_m2
    fused = load_chip("trex_fefet_32nm", {"options.fused_qk": True})
    layers = price(workload(DEIT_T, Plan.parse("5<-4:map/mixed 5=class 5~9")), fused, "full")
    assert "blocks.5.attn.class_keys" not in layers.by_layer()
    (query,) = [op for op in layers.operations if op.name == "blocks.5.attn.q"]
    assert query.out_features == 3 * 192  # W_q W_kᵀ of every head


def test_constants_take_memory_and_are_read_once() -> None:
    shares = price(workload(DEIT_T, Plan.parse("5<-4:map/mixed 5=class")), CHIP, "full").shares
    around, values = CHIP.periphery, 3 * 197 * 197
    (area,) = [s.area_m2 for s in shares if s.layer == "blocks.5.mixing.constants" and s.area_m2]
    assert area == pytest.approx(values * 8 * around.buffer_area_m2 / around.buffer_bits)
    moved = {s.layer: s.energy_j for s in shares if s.component == "bus"}
    bit_j, rows = around.bus_energy_j_per_bit, 3 * 196 * 197
    assert moved["blocks.5.mixing.heads"] == pytest.approx((rows + 9) * 8 * bit_j)
    unit = {s.layer: s.energy_j for s in shares if s.component == "vector_unit"}
    step_j = sum(around.function_energy_j[name] for name in ("multiply", "add"))
    assert unit["blocks.5.mixing.heads"] == pytest.approx(rows * 3 * step_j)
    assert unit["blocks.5.attn.class_scores"] == pytest.approx(197 * 3 * 192 * step_j)


@pytest.mark.parametrize("form", ["<-4:map/none", "<-4:map/mixed", ":map/average"])
def test_a_depth_first_product_reads_what_no_softmax_hands_it(form: str) -> None:
    chip = load_chip("trex_fefet_32nm", {"softmax.depth_first": True})
    bit_j, whole = chip.periphery.bus_energy_j_per_bit, 3 * 197 * 197
    for own, rows in (("", 197), (" 5=class", 196)):
        shares = price(workload(DEIT_T, Plan.parse(f"5{form}{own}")), chip, "full").shares
        moved = {s.layer: s.energy_j for s in shares if s.component == "bus"}
        written = 0 if "average" in form else whole
        bits = (3 * rows * 197 + written + 197 * 192) * 8
        assert moved["blocks.5.attn.context"] == pytest.approx(bits * bit_j)


def test_what_has_no_term_or_needs_keys_is_named() -> None:
    plan = Plan.parse("1<-0:map/mixed 1=class")
    (line,) = [
        text
        for text in price(workload(SMALL, plan), CHIP, "paper").not_modelled
        if text.startswith("mixing maps and scores of own class rows")
    ]
    assert "blocks.1.attn.class_scores" in line
    normed = replace(SMALL, uncounted=("attn.k_norm in every encoder (LayerNorm), no products",))
    for accounting in ACCOUNTINGS:
        lines = price(workload(normed, plan), CHIP, accounting).not_modelled
        assert any(text.startswith("keys of encoders 1: ") for text in lines)
        plain = price(workload(SMALL, plan), CHIP, accounting).not_modelled
        assert not any(text.startswith("keys of encoders") for text in plain)


@given(any_chips(), st.sampled_from(ACCOUNTINGS), st.booleans())
@settings(max_examples=60, deadline=None)
def test_what_a_map_needs_costs_in_this_order(chip, accounting, own) -> None:
    """As it is, average in its place, mixed; own class rows cost more than none."""
    model, rows = vit(depth=3, tokens=21), " 2=class" if own else ""
    model = replace(model, layout=replace(model.layout, class_rows=0))
    chip = replace(chip, softmax=replace(chip.softmax, depth_first=False))
    costs = [
        price(workload(model, Plan.parse(plan)), chip, accounting)
        for plan in (f"2<-1:map/none{rows}", f"2:map/average{rows}", f"2<-1:map/mixed{rows}")
    ]
    for field in ("energy_j", "latency_s", "area_m2"):
        plain, average, mixed = (getattr(cost, field) for cost in costs)
        assert plain <= average * (1 + 1e-12)
        assert average <= mixed * (1 + 1e-12)
        without = getattr(
            price(workload(model, Plan.parse("2<-1:map/none")), chip, accounting), field
        )
        assert without <= plain * (1 + 1e-12)


def test_a_table_tells_consumers_with_own_rows_apart() -> None:
    forms = [("map", "linear"), ("map", "mixed"), ("map", "average")]
    table = CostTable(SMALL, CHIP, "full", forms)
    plans = [
        Plan.parse(text)
        for text in (
            "1<-0:map",
            "1<-0:map 1=class",
            "1<-0:map/mixed 2:map/average 2=class 3=class",
        )
    ]
    arrays = table.arrays_of(plans)
    assert arrays.shared is None
    assert arrays.own_class.tolist() == [[0] * 4, [0, 1, 0, 0], [0, 0, 1, 0]]
    assert arrays.class_rows.tolist() == [False, False, True]
    costs = table.price_plans(arrays)
    for row, plan in enumerate(plans):
        alone = price(workload(SMALL, plan), CHIP, "full")
        for field in ("energy_j", "latency_s", "area_m2"):
            assert getattr(costs, field)[row] == pytest.approx(getattr(alone, field), rel=1e-12)
