"""Plans with fewer tokens and rows: their workloads by hand, their prices by law."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hardware_models import SHIPPED, any_chips, architectures, joint_plans, vit
from hypothesis import given, settings
from hypothesis import strategies as st

from trex.architecture import Architecture, Encoder, vit_encoder
from trex.errors import PlanError
from trex.hardware import (
    ACCOUNTINGS,
    CostTable,
    PlanArrays,
    load_chip,
    price,
    without_dead_rows,
    workload,
)
from trex.plan import Layout, Merge, Plan

CHIP = SHIPPED["trex_fefet_32nm"]
DEIT_T = vit("deit_tiny_patch16_224", depth=12, dim=192, heads=3, tokens=197, mlp=768)
#: DeiT-T's tokens in attention and MLP under the plan below
COUNTS = [(197, 197)] * 3 + [(197, 157)] + [(157, 157)] * 2 + [(157, 117)]
COUNTS += [(117, 117)] * 2 + [(117, 77), (77, 77), (77, 1)]
JOINT = "3~40 6~40 9~40 11=class"


def operations(model: Architecture, plan: str, encoder: int) -> dict[str, tuple]:
    """(vectors, in, out, groups, second operand) of an encoder's operations."""
    work = workload(model, Plan.parse(plan))
    prefix = f"blocks.{encoder}."
    return {
        op.name.removeprefix(prefix): (
            op.vectors, op.in_features, op.out_features, op.groups, op.operand
        )
        for op in work
        if op.name.startswith(prefix)
    }  # fmt: skip


def test_macs_by_hand() -> None:
    work = workload(DEIT_T, Plan.parse(JOINT))
    assert list(work.tokens) == COUNTS
    d, hidden = 192, 768
    macs = 196 * 768 * d + d * 1000  # stem and head
    for attention, mlp in COUNTS[:-1]:
        macs += attention * 4 * d * d + 2 * attention * attention * d + mlp * 2 * d * hidden
    # the last encoder: keys and values of 77 tokens, all else of the class token
    macs += 77 * 2 * d * d + 2 * d * d + 2 * 77 * d + 2 * d * hidden
    # similarities: of 197, 157 and 117 tokens, 64 wide
    macs += 64 * (99 * 98 + 79 * 78 + 59 * 58)
    assert work.macs == macs
    assert DEIT_T.macs == workload(DEIT_T).macs


def test_matching_and_merging_by_hand() -> None:
    """Nine tokens of two heads of 8, three pairs merged: halves of five and four."""
    model = vit(depth=3, dim=16, heads=2, tokens=9, mlp=32)
    own = operations(model, "", 1)
    found = operations(model, "1~3", 1)
    assert {name: found[name] for name in found if "." in name and name not in own} == {
        "matching.metric": (9, 2, 8, 1, None),
        "matching.norm": (9, 8, 1, 1, None),
        "matching.similarity": (5, 8, 4, 1, None),
        "matching.scaled": (5, 0, 4, 1, 4),
        "matching.best": (5, 4, 1, 1, None),
        "matching.cosine": (5, 0, 1, 1, 5),
        "matching.top": (1, 3, 5, 1, None),  # 5·⌈log2 5⌉ comparisons
        "merging.weighted": (6, 0, 16, 1, 6),
        "merging.sum": (3, 0, 16, 1, None),
        "merging.mean": (3, 0, 16, 1, 3),
        "merging.new_sizes": (1, 0, 3, 1, None),
    }
    before = {"attn.q", "attn.k", "attn.v", "attn.scores", "attn.proj", "residual1", "norm1"}
    assert all(found[name] == own[name] for name in before)
    behind = {"norm2", "mlp.fc1", "mlp.act", "mlp.fc2", "residual2"}
    assert {found[name][0] for name in behind} == {6}
    order = [name for name in found if name.partition(".")[0] in ("matching", "merging")]
    places = list(found)
    assert places.index("attn.v") < places.index(order[0]) < places.index("attn.scores")
    assert places.index("residual1") < places.index("merging.weighted") < places.index("norm2")

    later = operations(model, "1~3", 2)
    assert later["attn.scores"] == (6, 8, 6, 2, None)
    assert later["attn.context"] == (6, 6, 8, 2, None)
    assert later["attn.log_sizes"] == (1, 0, 6, 1, None)
    assert later["attn.proportional"] == (6, 0, 6, 2, 6)  # a value for every key
    assert not {"attn.log_sizes", "attn.proportional"} & found.keys()
    assert "attn.proportional" not in operations(model, "2<-1 1~3", 2)


def test_keys_are_matched_where_they_lie() -> None:
    """Nothing is written for it and no array is added: every head's Kᵀ is read."""
    chip = load_chip("trex_fefet_32nm")
    model = vit(depth=2, dim=128, heads=2, tokens=65, mlp=64)
    cost = price(workload(model, Plan.parse("0~8")), chip, "full")
    shares = [s for s in cost.shares if s.layer == "blocks.0.matching.similarity"]
    assert "array_write" not in {s.component for s in shares}
    assert sum(s.area_m2 for s in shares) == 0
    read = next(s for s in shares if s.component == "array_read")
    # 33 vectors through two heads' 64×32 keys, an array for each of a weight's four slices
    assert read.energy_j == pytest.approx(33 * 2 * 4 * 25.095e-12)
    # a consumer's stream lies nowhere yet
    wide = price(workload(model, Plan.parse("1<-0 1~8")), chip, "full")
    written = [s for s in wide.shares if s.layer == "blocks.1.matching.similarity"]
    assert "array_write" in {s.component for s in written}
    assert sum(s.area_m2 for s in written) > 0


def test_a_consumer_matches_by_what_enters_it() -> None:
    model = vit(depth=3, dim=16, heads=2, tokens=9, mlp=32)
    for form in ("", ":map"):
        found = operations(model, f"1<-0{form} 1~3", 1)
        assert "matching.metric" not in found
        assert found["matching.norm"] == (9, 16, 1, 1, None)
        assert found["matching.similarity"] == (5, 16, 4, 1, None)
        assert not any(name.startswith("reused") for name in found)


def test_a_reused_tensor_follows_the_tokens() -> None:
    """Source 0 attends over nine tokens, consumer 2 over six: three rows, or columns, are gone."""
    model = vit(depth=4, dim=16, heads=2, tokens=9, mlp=32)
    outputs = operations(model, "2<-0:output/block 0~1 1~2", 2)
    assert outputs["reused.weighted"] == (6, 0, 16, 1, 6)
    assert outputs["reused.sum"] == (3, 0, 16, 1, None)
    assert outputs["reused.mean"] == (3, 0, 16, 1, 3)
    assert outputs["transform.linear"] == (6, 16, 16, 1, None)
    assert list(outputs).index("reused.mean") < list(outputs).index("transform.norm")
    maps = operations(model, "2<-0:map 0~1 1~2", 2)
    assert maps["reused.columns"] == (9, 0, 3, 2, None)
    assert maps["reused.weighted"] == (6, 0, 6, 2, 6)
    assert maps["reused.sum"] == (3, 0, 6, 2, None)
    assert maps["attn.context"] == (6, 6, 8, 2, None)
    assert list(maps).index("reused.mean") < list(maps).index("attn.context")
    # class tokens never merge, so their rows of an output are as they were
    class_rows = operations(model, "3<-0 0~1 1~2 3=class", 3)
    assert not any(name.startswith("reused") for name in class_rows)


def test_class_rows_by_hand() -> None:
    model = vit(depth=2, dim=16, heads=2, tokens=9, mlp=32)
    found = operations(model, "1=class", 1)
    assert {name: op[0] for name, op in found.items() if op[0] == 9} == {
        "norm1": 9, "attn.k": 9, "attn.v": 9,
    }  # fmt: skip
    assert found["attn.scores"] == (1, 8, 9, 2, None)
    assert found["attn.softmax"] == (1, 0, 9, 2, None)
    assert found["attn.context"] == (1, 9, 8, 2, None)
    outside = {op.name: op.vectors for op in workload(model, Plan.parse("1=class"))}
    assert (outside["patch_embed.proj"], outside["norm"], outside["head"]) == (8, 1, 1)
    own = operations(model, "1<-0:output/linear_own 1=class", 1)
    assert {op[0] for op in own.values()} == {1}  # no key is left that would need all tokens
    assert str(without_dead_rows(model)) == "1=class"
    assert without_dead_rows(vit(class_rows=0)) is None


def test_a_head_of_class_tokens_reads_what_is_left() -> None:
    for class_rows, norm in ((1, 13), (0, 17)):
        work = workload(vit(depth=2, class_rows=class_rows), Plan.parse("1~4"))
        (op,) = [op for op in work if op.name == "norm"]
        assert op.vectors == norm


def test_norms_behind_the_residuals() -> None:
    """Text encoders have a norm behind the attention and one behind the MLP."""

    def encoder(index: int) -> Encoder:
        plain = vit_encoder(index, tokens=9, dim=16, heads=2, mlp_hidden=32)
        first, *others = plain.operations
        last = replace(first, name=f"blocks.{index}.norm3", part="norm")
        return replace(plain, operations=(*others, last))

    layout = Layout(stages=(0, 0), tokens=9, protected=1, class_rows=1)
    model = Architecture(model="text", body=(encoder(0), encoder(1)), layout=layout)
    found = operations(model, "0~3 1=class", 0)
    assert (found["norm2"][0], found["norm3"][0]) == (6, 6)
    found = operations(model, "0~3 1=class", 1)
    assert (found["attn.k"][0], found["norm2"][0], found["norm3"][0]) == (6, 1, 1)


def test_an_encoder_at_its_own_tokens_is_itself() -> None:
    encoder = DEIT_T.encoders[0]
    assert encoder.at(197, 197) is encoder
    assert DEIT_T.leaving(197) is DEIT_T
    assert encoder.at(99, 50, 1).at(197, 197) == encoder


@pytest.mark.parametrize("accounting", ACCOUNTINGS)
def test_merging_nothing_costs_what_the_original_costs(accounting: str) -> None:
    original = price(workload(DEIT_T), CHIP, accounting)
    for plan in (Plan(), Plan(merges=(Merge(3, 0),)), Plan.parse("0~0 5~0")):
        assert price(workload(DEIT_T, plan), CHIP, accounting) == original


@st.composite
def merging(draw: st.DrawFn) -> tuple[Architecture, Plan, Plan]:
    """A model, a plan, and the same with one encoder that merges one pair less."""
    model = draw(architectures())
    plan = draw(joint_plans(model.layout).filter(lambda plan: plan.merges))
    fewer = list(plan.merges)
    chosen = draw(st.integers(0, len(fewer) - 1))
    fewer[chosen] = Merge(fewer[chosen].encoder, fewer[chosen].pairs - 1)
    return model, plan, replace(plan, merges=tuple(fewer))


def without_matching(model: Architecture, plan: Plan) -> int:
    return sum(op.macs for op in workload(model, plan) if op.part != "matching")


@given(merging())
@settings(max_examples=100, deadline=None)
def test_more_merging_never_multiplies_more(case) -> None:
    model, plan, less = case
    assert without_matching(model, plan) < without_matching(model, less)
    if len(less.merges) == len(plan.merges):  # as many matchings
        assert workload(model, plan).macs < workload(model, less).macs


@given(merging(), any_chips())
@settings(max_examples=60, deadline=None)
def test_more_merging_never_costs_more_under_paper(case, chip) -> None:
    model, plan, less = case
    more, before = (price(workload(model, p), chip) for p in (plan, less))
    for field in ("energy_j", "latency_s", "area_m2"):
        assert getattr(more, field) <= getattr(before, field) * (1 + 1e-12)


@given(architectures().filter(lambda model: model.layout.class_rows), any_chips(), st.data())
@settings(max_examples=60, deadline=None)
def test_class_rows_only_ever_save(model, chip, data) -> None:
    drawn = data.draw(joint_plans(model.layout))
    last = len(model.encoders) - 1
    kept = tuple(m for m in drawn.merges if m.encoder < last)
    reuses = tuple(r for r in drawn.reuses if r.consumer < last)
    all_rows = Plan(reuses, kept)
    class_rows = replace(all_rows, rows=without_dead_rows(model).rows)
    for accounting in ACCOUNTINGS:
        less, more = (price(workload(model, p), chip, accounting) for p in (class_rows, all_rows))
        assert less.macs < more.macs
        for field in ("energy_j", "latency_s", "interval_s", "area_m2"):
            assert getattr(less, field) <= getattr(more, field) * (1 + 1e-12)


def test_attention_by_size_fetches_a_value_a_key() -> None:
    """197 - 40 keys, one byte each; an addition of rows fetches whole rows."""
    shares = price(workload(DEIT_T, Plan.parse("3~40")), CHIP, "full").shares
    moved = {s.layer: s.energy_j for s in shares if s.component == "bus"}
    bit_j = CHIP.periphery.bus_energy_j_per_bit
    assert moved["blocks.4.attn.proportional"] == pytest.approx(157 * 8 * bit_j)
    assert moved["blocks.3.merging.weighted"] == pytest.approx(80 * 8 * bit_j)
    assert moved["blocks.3.merging.sum"] == pytest.approx(40 * 192 * 8 * bit_j)
    assert moved["blocks.3.merging.mean"] == pytest.approx(40 * 8 * bit_j)


def test_a_kept_map_is_written_as_large_as_its_source_put_it_out() -> None:
    chip = load_chip("trex_fefet_32nm", {"softmax.depth_first": True})
    shares = price(workload(DEIT_T, Plan.parse("5<-2:map 3~40")), chip, "full").shares
    moved = {s.layer: s.energy_j for s in shares if s.component == "bus"}
    read, written, outputs = 3 * 157 * 157, 3 * 197 * 197, 157 * 192
    bit_j = chip.periphery.bus_energy_j_per_bit
    assert moved["blocks.5.attn.context"] == pytest.approx((read + written + outputs) * 8 * bit_j)
    # what merging fetches and what the product reads are the source's map, once
    fetched = sum(moved[f"blocks.5.reused.{name}"] for name in ("columns", "sum"))
    assert fetched == pytest.approx((written - read) * 8 * bit_j)


def test_fused_scores_leave_no_keys_to_match_by() -> None:
    chip = load_chip("trex_fefet_32nm", {"options.fused_qk": True})
    layers = price(workload(DEIT_T, Plan.parse("3~40")), chip, "full").by_layer()
    assert "blocks.3.attn.k" in layers
    assert "blocks.4.attn.k" not in layers


def test_measured_densities_tell_encoders_apart() -> None:
    chip = SHIPPED["neurosim_sram_22nm"]
    planes = {"blocks.2.mlp.fc1": (0.1,) * 8, "blocks.1.matching.similarity": (0.9,) * 8}
    plans = [Plan.parse(text) for text in ("1~4", "2~4", "1~2 2~2", "")]
    model = vit(depth=3)
    table = CostTable(model, chip, "full", densities=planes)
    costs = table.price_plans(table.arrays_of(plans))
    alone = [price(workload(model, plan), chip, "full", densities=planes) for plan in plans]
    assert costs.energy_j == pytest.approx([cost.energy_j for cost in alone], rel=1e-12)


@pytest.mark.parametrize("schedule", ["sequential", "pipelined"])
def test_many_joint_plans_are_priced_in_pieces(monkeypatch, schedule: str) -> None:
    model = vit(depth=4, tokens=41)
    table = CostTable(model, CHIP, "full", [("output", "linear")], schedule=schedule)
    random = np.random.default_rng(0)
    forms = np.zeros((83, 4), dtype=np.int8)
    forms[:, 2] = random.integers(0, 2, 83)
    sources = np.tile(np.arange(4), (83, 1))
    sources[forms > 0] = random.integers(0, 2, int(forms.sum()))
    plans = PlanArrays(
        forms=forms,
        sources=sources,
        pairs=np.where([True, True, True, False], random.integers(0, 5, (83, 4)), 0),
        class_rows=random.random(83) < 0.5,
    )
    whole = table.price_plans(plans)
    monkeypatch.setattr("trex.hardware.table._CHUNK", 10)
    pieces = table.price_plans(plans)
    for field in ("latency_s", "energy_j", "area_m2", "interval_s", "macs"):
        assert np.array_equal(getattr(whole, field), getattr(pieces, field))
    assert table.price_plans(plans.some(slice(0, 0))).macs.shape == (0,)


def test_arrays_that_are_no_plans_are_refused() -> None:
    table = CostTable(vit(depth=3), CHIP)
    good = table.arrays_of([Plan.parse("1~4")])
    for field, value, message in (
        ("forms", [[0, 0]], "plans × 3"),
        ("forms", [[0, 0, 2]], "form numbers run from 0 to 1"),
        ("sources", [[0, 1, 3]], "sources run from 0 to 2"),
        ("pairs", [[0, 0, 9]], "pairs run from 0 to 8"),
    ):
        with pytest.raises(ValueError, match=message):
            table.price_plans(replace(good, **{field: np.array(value)}))
    with pytest.raises(PlanError, match="encoder 2 merges 8 pairs of 13 tokens; at most 6"):
        table.price_plans(replace(good, pairs=np.array([[0, 4, 8]])))
    pooled = CostTable(vit(depth=3, class_rows=0), CHIP)
    with pytest.raises(ValueError, match="pools the patches"):
        pooled.price_plans(replace(good, class_rows=np.array([True])))
