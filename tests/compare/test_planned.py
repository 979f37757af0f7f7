"""Methods that are plans: the counts their papers print, and ToMe as ToMe's code has it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_models import KINDS, VIT_KINDS, Kind, logits_of
from torch import Tensor, nn

from trex.architecture import Architecture, vit_encoder
from trex.compare.comparison import summary
from trex.compare.methods import MixedMapReuse
from trex.compare.planned import ClassRows, DiffRate, SharedRows, TomeMerging
from trex.compare.variants import running
from trex.hardware import EncoderWork, Workload, load_chip, price
from trex.models.registry import LoadedModel, adapter_of, architecture, architecture_of
from trex.plan import Layout, Plan

PUBLISHED = {
    ("deit_tiny_patch16_224", 0.8): "197 196 190 172 154 125 107 96 84 78 70 3",
    ("deit_tiny_patch16_224", 0.6): "197 187 167 139 114 90 76 66 57 45 37 3",
    ("deit_small_patch16_224", 2.9): "197 194 176 156 141 133 121 107 88 64 56 3",
}


@pytest.fixture(scope="module")
def deit_t() -> Architecture:
    return architecture("deit_tiny_patch16_224")


def loaded_of(model: nn.Module) -> LoadedModel:
    return LoadedModel(
        name="tiny", arguments={}, model=model, adapter=adapter_of(model), weights_source="random",
        weights_sha256="", report=None,
    )  # fmt: skip


def three_encoders(layout: Layout) -> Architecture:
    encoders = (
        vit_encoder(i, tokens=layout.tokens, dim=8, heads=2, mlp_hidden=32) for i in range(3)
    )
    return Architecture(model="three", body=tuple(encoders), layout=layout)


@pytest.mark.parametrize(
    ("r", "protected", "counts"),
    [
        (3, 1, ((10, 7), (7, 4), (4, 3))),  # of 4 tokens 3 can merge: one pair
        (100, 1, ((10, 6), (6, 4), (4, 3))),
        (3, 2, ((10, 7), (7, 5), (5, 4))),
    ],
)
def test_tome_counts_by_hand(r: int, protected: int, counts: object) -> None:
    layout = Layout(stages=(0,) * 3, tokens=10, protected=protected, class_rows=protected)
    assert TomeMerging().plan(three_encoders(layout), r).tokens(layout) == counts


def test_tome_of_no_pairs_is_the_original(deit_t: Architecture) -> None:
    assert TomeMerging().plan(deit_t, 0) == Plan()


@pytest.mark.parametrize(("of", "counts"), PUBLISHED.items())
def test_diffrate_has_its_papers_counts(of: tuple[str, float], counts: str) -> None:
    model, gmac = architecture(of[0]), of[1]
    behind = [after for _, after in DiffRate().plan(model, gmac).tokens(model.layout)]
    *but_last, three = map(int, counts.split())
    assert behind == [*but_last, model.layout.class_rows]
    assert three == 3
    assert DiffRate().work(model, gmac).macs / 1e9 == pytest.approx(gmac, abs=0.06)


def test_diffrate_without_class_rows_merges_what_it_can(deit_t: Architecture) -> None:
    layout = replace(deit_t.layout, class_rows=0, no_class_rows="the head pools the patches")
    pooled = replace(deit_t, layout=layout)
    plan = DiffRate().plan(pooled, 0.8)
    assert plan.tokens(layout)[-1] == (70, 70 - 34)
    assert not plan.rows
    assert "merges what it can" in DiffRate().note(pooled)
    assert "class row" in DiffRate().note(deit_t)


def test_diffrate_names_the_models_it_has_counts_for(deit_t: Architecture) -> None:
    method = DiffRate()
    assert method.refusal(deit_t) == ""
    assert list(method.settings(deit_t)) == [0.8, 0.6]
    other = architecture("deit_base_patch16_224")
    assert method.refusal(other) == "no published counts for deit_base_patch16_224"
    larger = architecture("deit_tiny_patch16_224", img_size=384)
    assert method.refusal(larger).endswith("for deit_tiny_patch16_224 of 577 tokens")


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        ("", "nothing done"),
        ("5<-4 3~40 11=class", "1 reuse, 1 merge, class rows"),
        ("5<-4:map/mixed 5=class 6=53 7=@6", "1 reuse, 2 share rows, own class rows"),
    ],
)
def test_a_plan_in_a_few_words(plan: str, told: str) -> None:
    assert summary(Plan.parse(plan)) == told


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_merging_and_class_rows_are_questions_to_the_layout(kind: Kind) -> None:
    model = architecture_of(kind.build(), "tiny")
    assert (not TomeMerging().refusal(model)) is kind.merges
    assert (not ClassRows().refusal(model)) is kind.reads_class


def test_shared_rows_by_hand(deit_t: Architecture) -> None:
    method = SharedRows()
    plan = method.plan(deit_t, 53 / 197)
    assert str(plan) == "3=53 4=@3 5=53 6=@5 7=53 8=@7 9=53 10=@9 11=class"
    assert method.label(53 / 197) == "rows 0.27"
    settings = method.settings(deit_t)
    assert (settings[0], settings[-1]) == (196 / 197, 2 / 197)
    pooled = replace(deit_t, layout=replace(deit_t.layout, class_rows=0, no_class_rows="it pools"))
    assert str(method.plan(pooled, 0.5)).endswith("9=98 10=@9 11=98")
    assert method.refusal(architecture("shvit_s1")).startswith("shvit_s1 attends in windows")


def test_mixed_maps_keep_class_rows_where_there_are_any(deit_t: Architecture) -> None:
    method, layout = MixedMapReuse(), deit_t.layout
    assert method.free(layout) == range(1, 11)
    plan = method.plan((4, 5), layout)
    assert str(plan) == "4<-3:map/mixed 5<-3:map/mixed 4=class 5=class"
    plan.validate(layout)
    assert len(method.settings(deit_t)) == 10
    pooled = replace(layout, class_tokens=0, class_rows=0, no_class_rows="it pools")
    assert method.free(pooled) == range(1, 12)
    assert str(method.plan((5,), pooled)) == "5<-4:map/mixed"


def test_no_dead_rows_is_the_original_for_less() -> None:
    kind = VIT_KINDS["distilled"]
    model, images = kind.build(), kind.images()
    found = architecture_of(model, "tiny")
    plan = ClassRows().plan(found, 1)
    assert str(plan) == "5=class"
    assert ClassRows().work(found, 1).macs < found.macs
    variant = running(loaded_of(model), plan)
    torch.testing.assert_close(
        logits_of(variant, images), logits_of(model, images), rtol=1e-5, atol=1e-5
    )


def test_the_choice_of_tokens_is_priced_under_full_alone(deit_t: Architecture) -> None:
    work = TomeMerging().work(deit_t, 8)
    bare = without(work, {"matching", "merging", "proportional"})
    chip = load_chip("trex_fefet_32nm")
    for accounting, dearer in (("paper", False), ("full", True)):
        ours, theirs = (price(of, chip, accounting) for of in (work, bare))
        assert (ours.latency_s > theirs.latency_s) is dearer
        assert (ours.energy_j > theirs.energy_j) is dearer


def without(work: Workload, parts: set[str]) -> Workload:
    body = (
        replace(item, operations=tuple(op for op in item.operations if op.part not in parts))
        if isinstance(item, EncoderWork)
        else item
        for item in work.body
    )
    return replace(work, body=tuple(body))


@pytest.mark.parametrize("r", [1, 4, 100])
@pytest.mark.parametrize("name", ["vit", "layer scale"])
def test_tome_as_a_plan_is_tome_as_published(name: str, r: int) -> None:
    kind = VIT_KINDS[name]
    kind = replace(kind, kwargs={**kind.kwargs, "img_size": 96}, side=96)
    model, images = kind.build(), kind.images(3)
    plan = TomeMerging().plan(architecture_of(model, "tiny"), r)
    variant = running(loaded_of(model), plan)
    with torch.no_grad():
        expected = torch.cat([tome(model, image[None], r) for image in images])
    torch.testing.assert_close(logits_of(variant, images), expected, rtol=1e-4, atol=1e-4)
    assert (expected - logits_of(model, images)).abs().max() > 1e-3


def tome(model: Any, image: Tensor, r: int) -> Tensor:
    """ToMe (arXiv 2210.09461) in plain steps on timm's own children, one image at a time."""
    x = model.norm_pre(model._pos_embed(model.patch_embed(image)))[0]
    sizes = [1] * len(x)
    for block in model.blocks:
        attention = block.attn
        heads = attention.num_heads
        query, key, value = attention.qkv(block.norm1(x)).reshape(len(x), 3, heads, -1).unbind(1)
        outputs = []
        for head in range(heads):
            scores = query[:, head] @ key[:, head].T * attention.scale
            weighted = scores.exp() * torch.tensor(sizes)
            outputs.append(weighted / weighted.sum(dim=1, keepdim=True) @ value[:, head])
        x = x + block.ls1(attention.proj(torch.cat(outputs, dim=1)))
        x, sizes = tome_merged(x, sizes, key.mean(dim=1), r)
        x = x + block.ls2(block.mlp(block.norm2(x)))
    logits: Tensor = model.forward_head(model.norm(x[None]))
    return logits


def tome_merged(x: Tensor, sizes: list[int], metric: Tensor, r: int) -> tuple[Tensor, list[int]]:
    """Every other token finds its likest among the rest; the `r` likest pairs become one."""
    even, odd = range(0, len(x), 2), range(1, len(x), 2)
    found = []
    for token in even[1:]:  # the class token stays
        likeness = [float(torch.cosine_similarity(metric[token], metric[b], dim=0)) for b in odd]
        best = max(range(len(likeness)), key=likeness.__getitem__)
        found.append((likeness[best], token, odd[best]))
    gone = {token: to for _, token, to in sorted(found, reverse=True)[: (len(x) - 1) // 2][:r]}
    groups = [[token] for token in even if token not in gone]
    groups += [[to, *(token for token in gone if gone[token] == to)] for to in odd]
    merged = [
        sum(x[token] * sizes[token] for token in group) / sum(sizes[token] for token in group)
        for group in groups
    ]
    return torch.stack(merged), [sum(sizes[token] for token in group) for group in groups]
