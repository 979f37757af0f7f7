"""Plans that share rows of attention: their workloads by hand, their prices by law."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hardware_models import SHIPPED, any_chips, architectures, joint_plans, vit
from hypothesis import given, settings
from hypothesis import strategies as st

from trex.architecture import Architecture, Operation
from trex.errors import PlanError
from trex.hardware import ACCOUNTINGS, SCHEDULES, CostTable, load_chip, price, workload
from trex.hardware.schedule import barriers
from trex.hardware.system import Pricer
from trex.models.registry import architecture
from trex.plan import Plan, Rows
from trex.reuse import merge
from trex.reuse.merge import Sharing

CHIP = SHIPPED["trex_fefet_32nm"]
SMALL = vit(depth=4, dim=16, heads=2, tokens=9, mlp=32)
GRID = {"tokens": 49, "width": 16, "vectors": 196, "windows": 4}


def operations(model: Architecture, plan: str, encoder: int) -> dict[str, Operation]:
    """An encoder's operations, by the ends of their names."""
    inside = workload(model, Plan.parse(plan)).body
    work = next(item for item in inside if getattr(item, "encoder", None) is not None
                and item.encoder.index == encoder)  # fmt: skip
    return {op.name.split(".", 2)[2]: op for op in work.operations}


def shape(op: Operation) -> tuple:
    """(vectors, in, out, groups, second operand)."""
    return op.vectors, op.in_features, op.out_features, op.groups, op.operand


def test_shared_rows_by_hand() -> None:
    """Nine tokens share four rows: four pairs become one, then one."""
    own, found = operations(SMALL, "", 1), operations(SMALL, "1=4", 1)
    assert {name: shape(op) for name, op in found.items() if name not in own} == {
        "matching.metric": (9, 2, 8, 1, None),
        "matching.norm": (9, 8, 1, 1, None),
        "matching.similarity": (5, 8, 4, 1, None),
        "matching.scaled": (5, 0, 4, 1, 4),
        "matching.best": (5, 4, 1, 1, None),
        "matching.cosine": (5, 0, 1, 1, 5),
        "matching.top": (1, 3, 5, 1, None),
        # five groups are left: at most six tokens are in the two that are multiplied by
        "matching.1.keys": (4, 0, 8, 1, None),
        "matching.1.norm": (5, 8, 1, 1, None),
        "matching.1.similarity": (3, 8, 6, 1, None),
        "matching.1.columns": (3, 0, 4, 1, 0),
        "matching.1.scaled": (3, 0, 2, 1, 2),
        "matching.1.best": (3, 2, 1, 1, None),
        "matching.1.cosine": (3, 0, 1, 1, 3),
        "matching.1.top": (1, 2, 3, 1, None),
        "sharing.sum": (5, 0, 16, 1, None),
        "sharing.mean": (4, 0, 16, 1, 4),
    }
    assert {name for name in own if found[name].vectors == 4} == {
        "attn.q", "attn.scores", "attn.softmax", "attn.context", "attn.proj",
    }  # fmt: skip
    assert shape(found["attn.scores"]) == (4, 8, 9, 2, None)
    assert shape(found["attn.context"]) == (4, 9, 8, 2, None)
    assert {found[name].vectors for name in ("norm1", "attn.k", "attn.v", "residual1")} == {9}
    places = list(found)
    order = [
        "attn.k",
        "attn.v",
        "matching.metric",
        "matching.1.keys",
        "sharing.sum",
        "attn.q",
        "attn.scores",
        "attn.proj",
    ]
    assert order == sorted(order, key=places.index)
    taken = operations(SMALL, "1=4 2=@1", 2)
    assert "matching.metric" not in taken
    assert {n: shape(o) for n, o in taken.items()} == {
        n: shape(o) for n, o in found.items() if n in taken
    }
    assert workload(SMALL, Plan.parse("1=4 2=@1 3=class")).rows == (9, 4, 4, 1)
    assert workload(SMALL, Plan.parse("1<-0 2<-0:map")).rows == (9, 0, 0, 9)


def test_rows_on_merged_tokens_weigh_by_size() -> None:
    """Six tokens are left of nine, and share two rows: three pairs, then one."""
    found = operations(SMALL, "0~3 1=2", 1)
    assert shape(found["matching.similarity"]) == (3, 8, 3, 1, None)
    assert shape(found["matching.1.weighted"]) == (6, 0, 8, 1, 6)
    # 6 - 2 = 4, then 4 - 1 = 3 (half of three is one), then 2
    assert shape(found["matching.1.by_size"]) == (2, 0, 4, 1, 4)
    assert shape(found["matching.1.columns"]) == (2, 0, 2, 1, 0)
    assert "matching.2.weighted" not in found
    assert shape(found["sharing.weighted"]) == (6, 0, 16, 1, 6)
    assert shape(found["sharing.sum"]) == (4, 0, 16, 1, None)
    assert shape(found["sharing.mean"]) == (2, 0, 16, 1, 2)
    assert shape(found["attn.proportional"]) == (2, 0, 6, 2, 6)


@st.composite
def sharings(draw: st.DrawFn) -> tuple[int, int]:
    tokens = draw(st.integers(2, 90))
    return tokens, draw(st.integers(2, tokens))


@given(sharings())
@settings(max_examples=60, deadline=None)
def test_rounds_are_those_of_the_executor(of: tuple[int, int]) -> None:
    tokens, rows = of
    rounds: list[tuple[int, int]] = []
    match = merge.match

    def counted(keys, pairs, **others):
        rounds.append((keys.shape[1], pairs))
        return match(keys, pairs, **others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merge, "match", counted)
        Sharing(0, rows, 1, None).groups(torch.randn(1, tokens, 4))
    model = vit(depth=1, dim=8, heads=1, tokens=tokens, mlp=8)
    found = workload(model, Plan(rows=(Rows(0, rows),)))
    matching = [op for op in found if op.part == "matching"]
    assert [op.vectors for op in matching if op.name.endswith(".norm")] == [n for n, _ in rounds]
    joined = [op.vectors for op in matching if op.name.endswith(".keys")]
    assert joined == [pairs for _, pairs in rounds[:-1]]


def test_one_matching_serves_merging_and_the_first_round() -> None:
    """Both match the same keys; who merges is the beginning of one order."""
    keys = torch.randn(2, 21, 8)
    few, many = (merge.match(keys, n, protected=1, sizes_BN=None) for n in (3, 10))
    gone = [of.target[:, 2::2] >= 1 + 10 - n for of, n in ((few, 3), (many, 10))]
    assert (gone[0] <= gone[1]).all(), "whoever merges among few merges among many"
    both, shared = operations(SMALL, "1~2 1=4", 1), operations(SMALL, "1=4", 1)
    for name, op in shared.items():
        if op.part in ("matching", "sharing"):
            assert both[name] == op
    assert sum(name.endswith("similarity") for name in both) == 2
    # taken groups say nothing of who is merged
    assert "matching.similarity" in operations(SMALL, "1=4 2=@1 2~2", 2)


@pytest.mark.parametrize("accounting", ACCOUNTINGS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_as_many_rows_as_tokens_cost_what_the_original_costs(accounting, schedule) -> None:
    if accounting != "full" and schedule != "sequential":
        return
    original = price(workload(SMALL), CHIP, accounting, schedule=schedule)
    for plan in ("1=9", "0=9 1=@0", "2=9 3=@2"):
        assert price(workload(SMALL, Plan.parse(plan)), CHIP, accounting,
                     schedule=schedule).shares == original.shares  # fmt: skip


def test_keys_are_matched_where_they_lie_in_every_round() -> None:
    model = vit(depth=2, dim=128, heads=2, tokens=65, mlp=64)
    cost = price(workload(model, Plan.parse("0=9")), CHIP, "full")
    rounds = {s.layer for s in cost.shares if s.layer.endswith("similarity")}
    assert len(rounds) == 3
    shares = [s for s in cost.shares if s.layer in rounds]
    assert "array_write" not in {s.component for s in shares}
    assert sum(s.area_m2 for s in shares) == 0
    read = {s.layer: s.energy_j for s in shares if s.component == "array_read"}
    # 33 and 17 vectors; a half, and at most 48 columns of two heads' keys, four slices a weight
    assert read["blocks.0.matching.similarity"] == pytest.approx(33 * 2 * 4 * 25.095e-12)
    assert read["blocks.0.matching.1.similarity"] == pytest.approx(17 * 2 * 4 * 25.095e-12)
    fused = load_chip("trex_fefet_32nm", {"options.fused_qk": True})
    layers = price(workload(model, Plan.parse("0=9 1=@0")), fused, "full")
    assert "blocks.0.attn.k" in layers.by_layer()
    assert "blocks.1.attn.k" not in layers.by_layer()
    assert any(s.layer in rounds and s.component == "array_write" for s in layers.shares)


def test_a_pipeline_waits_for_groups_and_for_their_rows() -> None:
    pricer = Pricer.of(CHIP, "full", "pipelined")

    def waiting(plan: str, encoder: int) -> list[str]:
        items = [i for i in workload(SMALL, Plan.parse(plan)).body if hasattr(i, "encoder")]
        prices = pricer.encoder(items[encoder])
        names = [prices[i].operation.name for i in barriers(prices)]
        return [name.removeprefix(f"blocks.{encoder}.") for name in names]

    rounds = ["matching.similarity", "matching.1.keys"]
    assert waiting("1=4", 1) == [*rounds, "sharing.sum", "residual1"]
    assert waiting("1=4 2=@1", 2) == ["sharing.sum", "residual1"]
    assert waiting("1=4 1~2", 1) == [*rounds, "sharing.sum", "residual1", "merging.weighted"]
    assert waiting("", 1) == ["attn.scores"]


def test_queries_that_wait_for_their_groups_are_not_read_beside_keys() -> None:
    cost = price(workload(SMALL, Plan.parse("1=4")), CHIP, "full", schedule="parallel")
    seconds = {
        (s.layer, s.component): s.latency_s for s in cost.shares if s.component == "array_read"
    }
    assert seconds["blocks.1.attn.q", "array_read"] > 0
    reads = [seconds.get((f"blocks.0.attn.{part}", "array_read"), 0) > 0 for part in "qkv"]
    assert sum(reads) == 1


def test_grids_share_rows_in_every_window() -> None:
    """UniForm's first encoder: four windows of 49 tokens, one map for all heads."""
    model = architecture("uniform_t")
    own, found = (operations(model, plan, 0) for plan in ("", "0=20"))
    prefix = "blocks.0."
    for name, op in own.items():
        now, part = found[name], op.part
        if part in ("scores", "softmax", "context"):
            assert (now.vectors, now.groups) == (20, 4)
        elif name == f"{prefix}mixer.m.attn.add":  # biases join scores
            assert now.vectors == 80
        else:
            assert replace(now, waits=False) == op
    added = {name: op for name, op in found.items() if name not in own}
    assert shape(added["matching.similarity"]) == (25, 16, 24, 4, None)
    assert added["matching.similarity"].resident_groups == 4
    assert shape(added["matching.1.similarity"]) == (13, 16, 36, 4, None)
    assert shape(added["sharing.sum"]) == (29, 0, 16, 4, None)
    assert shape(added["sharing.mean"]) == (20, 0, 16, 4, 80)
    assert shape(added["sharing.add.sum"]) == (29, 0, 49, 4, None)
    assert shape(added["sharing.add.mean"]) == (20, 0, 49, 4, 80)
    work = workload(model, Plan.parse("0=20 1=20 2=@1"))
    assert work.rows == (80, 20, 20, 16, 16)
    assert [a for a, _ in work.tokens] == [196, 49, 49, 16, 16]
    chip, plan = load_chip("neurosim_sram_22nm"), Plan.parse("1=49 2=@1")
    assert price(workload(model, plan), chip, "full").shares == (
        price(workload(model), chip, "full").shares
    )
    plans = [Plan.parse(text) for text in ("0=20 1=20 2=@1", "3=5", "", "1=49")]
    for schedule in SCHEDULES:
        table = CostTable(model, chip, "full", schedule=schedule)
        costs = table.price_plans(table.arrays_of(plans))
        for row, each in enumerate(plans):
            alone = price(workload(model, each), chip, "full", schedule=schedule)
            for field in ("latency_s", "energy_j", "area_m2", "interval_s"):
                assert getattr(costs, field)[row] == pytest.approx(getattr(alone, field))


def test_the_other_grid_scales_scores_of_its_rows() -> None:
    model = architecture("shvit_s1")
    own, found = (operations(model, plan, 1) for plan in ("", "1=9"))
    names = {op.name for op in found.values() if op.vectors == 9 and op.part not in
             ("matching", "sharing")}  # fmt: skip
    assert {name.rpartition(".")[2] for name in names} == {"scores", "scale", "softmax", "context"}
    assert found["blocks.1.mixer.m.qkv.c.q"] == own["blocks.1.mixer.m.qkv.c.q"]
    assert not any(name.startswith("add.") for name in found)


@st.composite
def shared(draw: st.DrawFn) -> tuple[Architecture, Plan, Plan]:
    """A model, a plan, and the same with one row less in one encoder and its followers."""
    model = draw(architectures())
    plan = draw(joint_plans(model.layout).filter(lambda p: any(_can_lose(r) for r in p.rows)))
    chosen = draw(st.sampled_from([r for r in plan.rows if _can_lose(r)]))
    fewer = replace(chosen, rows=chosen.rows - 1)
    return model, plan, replace(plan, rows=tuple(fewer if r == chosen else r for r in plan.rows))


def _can_lose(rows: Rows) -> bool:
    return rows.rows != "class" and rows.source is None and rows.rows > 2


@given(shared(), any_chips())
@settings(max_examples=60, deadline=None)
def test_fewer_rows_never_cost_more_under_paper(case, chip) -> None:
    model, plan, less = case
    fewer, before = (price(workload(model, p), chip) for p in (less, plan))
    for field in ("energy_j", "latency_s"):
        assert getattr(fewer, field) < getattr(before, field)
    assert fewer.area_m2 == before.area_m2, "Kᵀ, V and all weights lie where they lay"


def test_taken_groups_save_the_matching() -> None:
    model = vit(depth=4, tokens=41)
    for schedule in SCHEDULES:
        own, taken = (
            price(workload(model, Plan.parse(p)), CHIP, "full", schedule=schedule)
            for p in ("1=9 2=9", "1=9 2=@1")
        )
        assert taken.latency_s < own.latency_s
        assert taken.energy_j < own.energy_j


def test_what_moves_or_has_no_term_is_named() -> None:
    plan = Plan.parse("1=4 2=@1")
    full, paper = (price(workload(SMALL, plan), CHIP, a).not_modelled for a in ("full", "paper"))
    assert "copying shared rows to all their tokens" in full
    assert "copying shared rows to all their tokens" in paper
    (line,) = [text for text in paper if text.startswith("means of inputs that share rows")]
    assert "blocks.1.sharing.sum" in line
    assert not any(text.startswith("means of inputs") for text in full)


def test_too_many_or_too_few_rows_are_found_out() -> None:
    table = CostTable(SMALL, CHIP)
    good = table.arrays_of([Plan.parse("1=4 2=@1")])
    assert good.own_class is None
    merging = torch.tensor([0, 1, 0, 0]).numpy()
    for rows in ([[0, 1, 0, 0]], [[0, 0, 9, 0]]):
        plans = replace(good, shared=torch.tensor(rows).numpy(), pairs=good.pairs + merging)
        with pytest.raises(PlanError, match=r"encoder \d shares \d rows among"):
            table.price_plans(plans)
    with pytest.raises(ValueError, match="shared rows run from 0 to 9"):
        table.price_plans(replace(good, shared=good.shared * 3))
