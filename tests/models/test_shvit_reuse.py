"""Reuse on timm's SHViT: which blocks are encoders, what leaves, what plans cost, fits gain."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from small_fits import fit_losses
from tiny_models import STAGED_KINDS, blocks_of, logits_of
from torch import nn

from trex.architecture import Architecture
from trex.errors import ModelError, PlanError
from trex.hardware import load_chip, price, workload
from trex.models.adapter import ConsumerForm
from trex.models.registry import adapter_of, architecture, architecture_of, create
from trex.models.trace import trace_architecture
from trex.plan import Plan, ReusedTensor
from trex.reuse import apply_reuse, consumers_of
from trex.reuse.route import State

KIND = STAGED_KINDS["shvit"]
#: encoders of each stage with attention
DEPTHS = {"shvit_s1": (4, 5), "shvit_s2": (4, 5), "shvit_s3": (5, 5), "shvit_s4": (7, 6)}


def parameters_of(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.fixture(scope="module")
def shvit_s1() -> Architecture:
    return architecture("shvit_s1")


@pytest.mark.parametrize("name", DEPTHS)
def test_encoders_are_the_blocks_with_attention(name: str) -> None:
    model = create(name, device="meta")
    found = architecture_of(model, name)
    stages = [encoder.stage for encoder in found.encoders]
    assert tuple(stages.count(stage) for stage in (1, 2)) == DEPTHS[name]
    assert len(stages) == sum(DEPTHS[name])
    size = timm.data.resolve_model_data_config(model)["input_size"]
    traced = trace_architecture(model, size, name)
    assert workload(found).macs == traced.macs
    assert sum(op.elements for op in found.operations) == sum(
        op.elements for op in traced.operations
    )


def test_stages_without_attention_are_passed_through() -> None:
    model, images = KIND.build(), KIND.images()
    adapter = adapter_of(model)
    assert adapter.containers(model) == ["stages.1.blocks", "stages.2.blocks"]
    with torch.no_grad():
        first = model.stages[1].downsample(model.stages[0](model.patch_embed(images)))
        torch.testing.assert_close(adapter.stem(model, images), first)
        last = model.stages[2](model.stages[1].blocks(first))
        torch.testing.assert_close(adapter.head(model, last), logits_of(model, images))


def test_a_model_without_attention_is_refused() -> None:
    model = timm.create_model("shvit_s1", types=("i", "i", "i"))
    with pytest.raises(ModelError, match="s1 has no attention"):
        adapter_of(model, "s1")


def test_a_changed_block_is_refused() -> None:
    model = KIND.build()
    model.stages[1].blocks[3].mixer.m.proj[0] = nn.GELU()
    with pytest.raises(ModelError, match=r"blocks\.3\.mixer\.m\.proj\.0 is a GELU"):
        apply_reuse(model, "2<-1")
    model = KIND.build()
    model.stages[1].blocks[3].mixer = nn.Identity()
    with pytest.raises(ModelError, match=r"blocks\.3\.mixer is a Identity"):
        apply_reuse(model, "2<-1")


def test_a_plan_by_hand(shvit_s1: Architecture) -> None:
    tokens, pdim, qk = 49, 48, 16
    spared = 2 * tokens * pdim * qk + tokens**2 * qk
    assert workload(shvit_s1, Plan.parse("1<-0:map")).macs == shvit_s1.macs - spared
    spared += tokens * pdim**2 + tokens**2 * pdim
    assert workload(shvit_s1, Plan.parse("1<-0")).macs == shvit_s1.macs - spared


@pytest.mark.parametrize("tensor", ["map", "output"])
@pytest.mark.parametrize("transform", ["none", "linear_own", "block"])
def test_a_variant_performs_its_workload(tensor: ReusedTensor, transform: str) -> None:
    model = create("shvit_s1", device="meta")
    plan = Plan.parse(f"2<-1:{tensor} 5<-4:{tensor}", transform)
    expected = workload(architecture_of(model, "s1"), plan).macs
    apply_reuse(model, plan, transform)
    assert trace_architecture(model, (3, 224, 224), "variant").macs == expected


@pytest.mark.parametrize("tensor", ["map", "output"])
def test_parameters_leave_for_real(tensor: ReusedTensor) -> None:
    model = create("shvit_s1")
    before, dim, pdim, qk = parameters_of(model), 224, 48, 16
    gone = 2 * qk * (pdim + 2)
    if tensor == "output":
        gone += pdim * (pdim + 2) + 2 * pdim
    folded = 2 * dim - dim  # a normalisation's weight and bias become one bias
    apply_reuse(model, f"2<-1:{tensor}", "none")
    assert parameters_of(model) == before - gone - folded
    left = {name.split(".")[0] for name, _ in consumers_of(model)[2].named_parameters()}
    assert left == {"conv", "ffn", "proj"} | ({"pre_norm", "v"} if tensor == "map" else set())


def test_reuse_across_stages_is_refused(shvit_s1: Architecture) -> None:
    model = KIND.build()
    with pytest.raises(PlanError, match="encoder 6 cannot reuse encoder 5: they lie"):
        apply_reuse(model, "6<-5")
    with pytest.raises(PlanError, match="different stages"):
        workload(shvit_s1, Plan.parse("4<-3"))


def test_channels_beside_the_attention_stay_the_consumers_own() -> None:
    model = KIND.build()
    block, adapter = blocks_of(model)[2], adapter_of(model)
    stream = torch.randn(2, 24, 3, 3)
    with torch.no_grad():
        output, kept = adapter.attend(block, stream, frozenset({"map", "output"}))
        assert kept["map"].shape == (2, 9, 9)
        assert kept["output"].shape == (2, 6, 3, 3)
        assert torch.equal(output[:, 6:], stream[:, 6:])
        for tensor in ("map", "output"):
            form = ConsumerForm(tensor=tensor, transform=nn.Identity())
            features = (
                adapter.make_consumer(block, form)
                .eval()
                .features(stream, kept[tensor], State(stream))
            )
            torch.testing.assert_close(features, output.relu())


@pytest.mark.parametrize("plan", ["2<-1 4<-3", "2<-1:map 7<-6:map"])
def test_fitting_beats_identity_reuse(plan: str, tmp_path: Path) -> None:
    losses = fit_losses(KIND, plan, ("none", "linear"), tmp_path)
    assert losses["linear"] < losses["none"]


@pytest.mark.parametrize("accounting", ["paper", "full"])
def test_reuse_never_costs_more(accounting: str, shvit_s1: Architecture) -> None:
    chip = load_chip("trex_fefet_32nm")
    original, mapped, output = (
        price(workload(shvit_s1, Plan.parse(plan)), chip, accounting)  # type: ignore[arg-type]
        for plan in ("", "2<-1:map 5<-4:map", "2<-1 5<-4")
    )
    assert output.energy_j < mapped.energy_j < original.energy_j
    assert output.latency_s < mapped.latency_s < original.latency_s
