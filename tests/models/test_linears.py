"""What adapters say of encoders' products: which modules compute them, and what replaces them."""

from __future__ import annotations

import pytest
import torch
from tiny_models import KINDS, VIT_KINDS, Kind, blocks_of
from torch import Tensor

from trex.architecture import Operation
from trex.errors import ModelError
from trex.hardware import workload
from trex.hardware.workload import EncoderWork
from trex.models.adapter import Products
from trex.models.registry import adapter_of, architecture_of
from trex.plan import Plan
from trex.reuse import apply_plan
from trex.reuse.route import encoders_of

every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
every_vit = pytest.mark.parametrize("kind", VIT_KINDS.values(), ids=VIT_KINDS)
PLAN = "2<-1:output/none 3<-1:map/linear 4<-1:output/block 5<-1:map/block"


@every_kind
def test_every_weight_matrix_belongs_to_its_operations(kind: Kind) -> None:
    model = kind.build()
    adapter, architecture = adapter_of(model), architecture_of(model, kind.name)
    for encoder, block in zip(architecture.encoders, blocks_of(model), strict=True):
        multiply: dict[str, list[Operation]] = {}
        for op in encoder.operations:
            if op.kind == "static_matmul":
                multiply.setdefault(op.part, []).append(op)
        listed = set()
        for path, parts in adapter.linears(block):
            weight = block.get_submodule(path).weight
            operations = [multiply[part].pop(0) for part in parts]
            assert sum(op.groups * op.out_features * op.in_features for op in operations) == (
                weight.numel()
            )
            listed.add(id(weight))
        assert not any(multiply.values())
        left = [n for n, p in block.named_parameters() if p.ndim > 1 and id(p) not in listed]
        constants = ("attention_biases", "relative_position_bias_table")
        assert all(name.endswith(constants) for name in left)


@every_vit
@pytest.mark.parametrize("plan", [PLAN, ""], ids=["reuse", "mixed"])
def test_of_consumers_too(kind: Kind, plan: str) -> None:
    model, plan = kind.build(), plan or kind.mixed
    adapter, architecture = adapter_of(model), architecture_of(model, kind.name)
    work = workload(architecture, Plan.parse(plan))
    apply_plan(model, plan)
    items = [item for item in work.body if isinstance(item, EncoderWork)]
    for item, (_, block) in zip(items, encoders_of(model, adapter), strict=True):
        linears = adapter.linears(block)
        parts = [part for linear in linears for part in linear.parts]
        multiply = [op for op in item.operations if op.kind == "static_matmul"]
        multiplied = [op.part for op in multiply]
        if item.plan.shared:  # keys come first: tokens are matched by them
            multiplied[:3] = sorted(multiplied[:3], key="qkv".index)
        assert parts == multiplied
        at = adapter.products(block)
        dynamic = {op.part for op in item.operations if op.kind == "dynamic_matmul"}
        assert (at.parts if at else set()) == dynamic - {"matching"}


class Seen(Products):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, tuple[int, ...]]] = []

    def scores(self, query_BHNE: Tensor, key_BHNE: Tensor) -> Tensor:
        self.calls.append(("scores", tuple(query_BHNE.shape)))
        return super().scores(query_BHNE, key_BHNE)

    def context(self, map_BHNN: Tensor, value_BHNE: Tensor) -> Tensor:
        self.calls.append(("context", tuple(value_BHNE.shape)))
        return super().context(map_BHNN, value_BHNE)


@every_kind
def test_products_that_are_replaced_are_asked(kind: Kind) -> None:
    """By the block's own forward too, with the answer that it had."""
    model, images = kind.build(), kind.images()
    adapter = adapter_of(model)
    block = blocks_of(model)[0]
    at = adapter.products(block)
    assert (at is None) == bool(adapter.no_products)
    if at is None:
        return
    with torch.no_grad():
        stream = adapter.stem(model, images)
        expected = block(stream)
        attention = at.stepwise
        attention.products = seen = Seen()
        block.set_submodule(at.path, attention)
        assert torch.allclose(block(stream), expected, atol=1e-4)
        adapter.attend(block, adapter.before(block, stream), frozenset())
    assert [name for name, _ in seen.calls] == ["scores", "context"] * 2
    assert {shape[:2] for _, shape in seen.calls} == {(len(images), at.heads)}


@every_kind
def test_classifiers_of_patches(kind: Kind) -> None:
    model, images = kind.build(), kind.images()
    adapter = adapter_of(model)
    stream = adapter.stem(model, images)
    if not adapter.classifies_patches:
        with pytest.raises(ModelError, match="no classifier of patches"):
            adapter.token_outputs(model, stream)
        return
    image, patches = adapter.token_outputs(model, stream)
    assert image.shape == (len(images), 7)
    assert patches.shape == (len(images), stream.shape[1] - 1, 7)


@every_kind
def test_class_tokens_are_what_the_head_reads(kind: Kind) -> None:
    model, images = kind.build(), kind.images()
    adapter, layout = adapter_of(model), adapter_of(model).layout(model)
    number = adapter.class_tokens(model)
    assert layout.class_rows in (0, number)
    with torch.no_grad():
        stream = adapter.stem(model, images)
        if number and layout.windows:  # of the last stage's tokens and width
            width = blocks_of(model)[-1].attn.qkv.in_features
            stream = torch.randn(len(images), layout.windows[-1], width)
        for token in range(number):
            changed = stream.clone()
            changed[:, token] *= -1
            logits = adapter.head(model, stream)
            assert not torch.allclose(adapter.head(model, changed), logits)
