"""Token counts and what they cost, against what the methods' papers print."""

from __future__ import annotations

from dataclasses import replace

import pytest

from trex.architecture import Architecture, Operation, vit_encoder
from trex.compare import tokens
from trex.compare.methods import DynamicVit, EvitPruning
from trex.compare.planned import TomeMerging
from trex.hardware import load_chip, price
from trex.models.registry import architecture


@pytest.fixture(scope="module")
def deit_s() -> Architecture:
    return architecture("deit_small_patch16_224")


def test_evit_counts_by_hand() -> None:
    # 197 tokens: ceil(0.7 * 196) = 138 and a fused one; ceil(0.7 * 139) = 98; ceil(0.7 * 99) = 70
    counts = tokens.evit_counts(12, 197, 0.7)
    assert counts[2:5] == [(197, 197), (197, 140), (140, 140)]
    assert counts[6] == (140, 100)
    assert counts[9] == (100, 72)
    assert counts[-1] == (72, 72)


def test_dynamicvit_counts_by_hand() -> None:
    counts = tokens.dynamicvit_counts(12, 197, 0.7)
    assert [counts[i][0] for i in (0, 3, 6, 9)] == [197, 138, 97, 68]


@pytest.mark.parametrize("counts", [
    tokens.evit_counts(12, 197, 1.0), tokens.dynamicvit_counts(12, 197, 1.0),
])  # fmt: skip
def test_keeping_all_tokens_is_the_original(deit_s: Architecture, counts: tokens.Counts) -> None:
    assert tokens.with_tokens(deit_s, counts) == deit_s


@pytest.mark.parametrize(
    ("keep", "gmac"), [(0.9, 4.0), (0.8, 3.5), (0.7, 3.0), (0.6, 2.6), (0.5, 2.3)]
)
def test_evit_has_its_papers_operations(deit_s: Architecture, keep: float, gmac: float) -> None:
    assert EvitPruning().work(deit_s, keep).macs / 1e9 == pytest.approx(gmac, abs=0.05)


def test_dynamicvit_has_its_papers_operations(deit_s: Architecture) -> None:
    counts = tokens.dynamicvit_counts(12, 197, 0.7)
    assert tokens.with_tokens(deit_s, counts).macs / 1e9 == pytest.approx(2.9, abs=0.05)
    predictors = DynamicVit().work(deit_s, 0.7).macs - tokens.with_tokens(deit_s, counts).macs
    per_patch = 384 * 384 + 384 * 192 + 192 * 96 + 96 * 2
    assert predictors == per_patch * (196 + 137 + 96)


def test_fewer_tokens_by_hand() -> None:
    encoder = vit_encoder(0, tokens=10, dim=8, heads=2, mlp_hidden=32)
    model = Architecture(model="one", body=(encoder,))
    (pruned,) = tokens.with_tokens(model, [(6, 4)]).encoders
    by_part = {op.part: op for op in pruned.operations}
    assert pruned.tokens == 6
    assert by_part["q"].macs == 6 * 8 * 8
    assert by_part["scores"].macs == by_part["context"].macs == 6 * 6 * 8
    assert by_part["softmax"].elements == 2 * 6 * 6
    assert by_part["fc1"].macs == 4 * 8 * 32
    assert by_part["residual1"].vectors == 6
    assert by_part["residual2"].vectors == 4


def test_what_follows_the_encoders_works_on_what_is_left() -> None:
    model = architecture("lvvit_s")
    pruned = tokens.with_tokens(model, tokens.evit_counts(16, 197, 0.5))
    left = {op.name: op for op in pruned.operations}
    assert left["norm"].vectors == 28
    assert left["aux_head"].vectors == 27
    assert left["max"].in_features == 27
    assert left["patch_embed.proj"].vectors == 196


@pytest.mark.parametrize("method", [EvitPruning(), TomeMerging(), DynamicVit()])
@pytest.mark.parametrize("accounting", ["paper", "full"])
def test_later_settings_are_never_slower(deit_s: Architecture, method, accounting) -> None:
    chip = load_chip("trex_fefet_32nm")
    latencies = [
        price(method.work(deit_s, setting), chip, accounting).latency_s
        for setting in list(method.settings(deit_s))[::9]
    ]
    assert latencies == sorted(latencies, reverse=True)


@pytest.mark.parametrize("method", [EvitPruning(), DynamicVit()])
def test_what_chooses_tokens_is_priced_under_full_alone(deit_s: Architecture, method) -> None:
    chip, work = load_chip("trex_fefet_32nm"), method.work(deit_s, 0.7)
    bare = replace(work, body=tuple(op for op in work.body if not chooses(op)))
    for accounting, dearer in (("paper", False), ("full", True)):
        ours, theirs = (price(of, chip, accounting) for of in (work, bare))
        assert (ours.latency_s > theirs.latency_s) is dearer


def chooses(item: object) -> bool:
    return isinstance(item, Operation) and item.part == "token_choice"
