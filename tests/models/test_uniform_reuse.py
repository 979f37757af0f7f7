"""Reuse on UniForm: what leaves, what windows exchange, what a plan costs, what a fit gains."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_fits import fit_losses
from tiny_models import STAGED_KINDS, blocks_of, logits_of, randomised, settled, total
from torch import nn

from trex.architecture import Architecture
from trex.errors import ModelError, PlanError
from trex.hardware import load_chip, price, workload
from trex.models.adapter import ConsumerForm
from trex.models.registry import adapter_of, architecture, architecture_of, create
from trex.models.staged import folded_projection
from trex.models.trace import trace_architecture
from trex.models.uniform import UniForm
from trex.models.uniform.layers import ConvBN
from trex.plan import Plan, ReusedTensor
from trex.reuse import apply_reuse, consumers_of, remove_reuse, set_grad_checkpointing
from trex.reuse.route import State

KIND = STAGED_KINDS["uniform"]
NAMES = ("uniform_t", "uniform_s", "uniform_m", "uniform_l")


def parameters_of(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.fixture(scope="module")
def uniform_m() -> Architecture:
    return architecture("uniform_m")


@pytest.mark.parametrize("name", NAMES)
def test_the_empty_plan_is_the_traced_model(name: str) -> None:
    model = create(name, device="meta")
    found, traced = architecture_of(model, name), trace_architecture(model, (3, 224, 224), name)
    assert workload(found).macs == traced.macs
    assert sum(op.elements for op in found.operations) == sum(
        op.elements for op in traced.operations
    )
    assert [e.index for e in found.encoders] == list(range(len(blocks_of(model))))
    assert found.uncounted == ()


def test_encoders_lie_in_stages(uniform_m: Architecture) -> None:
    found = [(e.stage, e.tokens, e.dim, e.heads) for e in uniform_m.encoders]
    assert found == [(0, 196, 128, 4), *[(1, 49, 240, 3)] * 2, *[(2, 16, 320, 4)] * 3]


def test_a_plan_by_hand(uniform_m: Architecture) -> None:
    tokens, dim = 16, 320
    # Q and K, the queries' 7×7 convolution, their product
    spared = tokens * dim * dim // 2 + tokens * 49 * dim // 4 + tokens**2 * dim // 4
    work = workload(uniform_m, Plan.parse("4<-3:map"))
    assert work.macs == uniform_m.macs - spared
    # the values' convolutions with 1, 9, 25 and 49 weights a channel, the map's product with them
    spared += tokens * (1 + 9 + 25 + 49) * dim // 4 + tokens**2 * dim
    assert workload(uniform_m, Plan.parse("4<-3")).macs == uniform_m.macs - spared
    both = workload(uniform_m, Plan.parse("4<-3 5<-3", "block"))
    assert both.macs == uniform_m.macs - 2 * spared + 2 * tokens * dim**2


@pytest.mark.parametrize("tensor", ["map", "output"])
@pytest.mark.parametrize("transform", ["none", "linear_own", "block"])
def test_a_variant_performs_its_workload(tensor: ReusedTensor, transform: str) -> None:
    model = create("uniform_m", device="meta")
    plan = Plan.parse(f"2<-1:{tensor} 5<-3:{tensor}", transform)
    expected = workload(architecture_of(model, "m"), plan).macs
    apply_reuse(model, plan, transform)
    assert trace_architecture(model, (3, 224, 224), "variant").macs == expected


@pytest.mark.parametrize("tensor", ["map", "output"])
def test_parameters_leave_for_real(tensor: ReusedTensor) -> None:
    model = create("uniform_m")
    before, dim = parameters_of(model), 240
    gone = dim * dim // 2 + dim + 49 * dim // 4 + dim // 2 + 3 * 49
    if tensor == "output":
        gone += sum((k * k + 1) * dim // 3 for k in (1, 3, 5))
    folded = 2 * dim - dim  # a normalisation's weight and bias become one bias
    apply_reuse(model, f"2<-1:{tensor}", "none")
    assert parameters_of(model) == before - gone - folded
    left = {name.split(".")[0] for name, _ in consumers_of(model)[2].named_parameters()}
    kept = {"mix"} if tensor == "map" else set()
    assert left == {"dw0", "ffn0", "dw1", "ffn1", "proj"} | kept


@pytest.mark.parametrize("plan", ["6<-5", "7<-0:map"])
def test_reuse_across_stages_is_refused(plan: str) -> None:
    model = KIND.build()
    with pytest.raises(PlanError, match="different stages"):
        apply_reuse(model, plan)
    with pytest.raises(PlanError, match="different stages"):
        workload(architecture_of(model, "uniform"), Plan.parse(plan))


def test_every_window_gets_its_sources_map() -> None:
    """192 pixels are 12² tokens, four windows of 7² that reach over the edge."""
    torch.manual_seed(0)
    model = UniForm(
        img_size=192, embed_dim=(16, 24, 32), depth=(2, 1, 1), num_heads=(4, 3, 2), num_classes=3
    )
    randomised(model.double())
    settled(model, torch.randn(4, 3, 192, 192).double())
    images = torch.randn(2, 3, 192, 192).double()
    first, second = model.stages[0].blocks
    adapter = adapter_of(model)
    with torch.no_grad():
        stream = adapter.before(first, adapter.stem(model, images))
        output, kept = adapter.attend(first, stream, frozenset({"map", "output"}))
        assert kept["map"].shape == (2, 4, 49, 49)
        torch.testing.assert_close(kept["output"], output)
        # on the source's own values, the source's map makes the source's output
        consumer = adapter.make_consumer(
            first, ConsumerForm(tensor="map", transform=nn.Identity())
        ).eval()
        features = consumer.features(stream, kept["map"], State(stream))
        torch.testing.assert_close(features, output.relu())
        merged = consumer.merge(stream, features)
        torch.testing.assert_close(
            merged, adapter.join(first, stream, adapter.branch(first, output))
        )
        assert not torch.allclose(adapter.attend(second, stream, frozenset())[0], output)


@pytest.mark.parametrize("training", [False, True])
def test_a_folded_projection_does_what_evaluation_does(training: bool) -> None:
    torch.manual_seed(0)
    layer = settled(randomised(ConvBN(6, 5)), torch.randn(8, 6, 3, 3))
    x = torch.randn(2, 6, 3, 3)
    expected = logits_of(layer, x)
    folded = folded_projection(layer.train(training))
    torch.testing.assert_close(folded(x), expected)
    assert torch.equal(logits_of(layer.eval(), x), expected)
    wide = folded_projection(layer, own_input=True)
    assert torch.equal(wide.weight[:, 6:], torch.zeros(5, 6))


def test_a_fused_model_reuses_as_well() -> None:
    images = KIND.images()
    plan = "2<-1:map 4<-3"
    expected = logits_of(apply_reuse(KIND.build(), plan), images)
    fused = apply_reuse(KIND.build().fuse(), plan)  # type: ignore[operator]
    torch.testing.assert_close(logits_of(fused, images), expected, atol=1e-4, rtol=1e-4)


def test_timms_checkpointing_switches_are_on_the_stages() -> None:
    model = KIND.build()
    model.set_grad_checkpointing(True)  # type: ignore[operator]
    apply_reuse(model, "2<-1").train()
    total(model(KIND.images())).backward()
    assert [stage.grad_checkpointing for stage in model.stages] == [False] * 3
    set_grad_checkpointing(model, False)
    set_grad_checkpointing(model)
    remove_reuse(model)
    assert all(stage.grad_checkpointing for stage in model.stages)


def test_what_is_not_understood_is_refused() -> None:
    model = KIND.build()
    model.stages[0].blocks[2].mixer.m.attn.proj[0] = nn.GELU()
    with pytest.raises(ModelError, match=r"blocks\.2\.mixer\.m\.attn\.proj\.0 is a GELU"):
        apply_reuse(model, "2<-1")


@pytest.mark.parametrize("plan", ["2<-1 4<-3", "2<-1:map 8<-7:map", "3<-1:map 5<-4 8<-7"])
def test_fitting_beats_identity_reuse(plan: str, tmp_path: Path) -> None:
    losses = fit_losses(KIND, plan, ("none", "linear", "linear_own"), tmp_path)
    assert losses["linear"] < losses["none"]
    assert losses["linear_own"] < losses["none"]


@pytest.mark.parametrize("accounting", ["paper", "full"])
def test_reuse_never_costs_more(accounting: str, uniform_m: Architecture) -> None:
    chip = load_chip("trex_fefet_32nm")
    original, mapped, output = (
        price(workload(uniform_m, Plan.parse(plan)), chip, accounting)  # type: ignore[arg-type]
        for plan in ("", "2<-1:map 4<-3:map", "2<-1 4<-3")
    )
    assert output.energy_j < mapped.energy_j < original.energy_j
    assert output.latency_s < mapped.latency_s < original.latency_s
