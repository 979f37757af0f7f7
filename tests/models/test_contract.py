"""What must hold for every model family: add a `Kind`, and all of this is asked of it."""

from __future__ import annotations

import copy
import inspect
import io
import itertools

import pytest
import timm
import torch
from timm.utils import ModelEmaV3, reparameterize_model
from tiny_models import (
    KINDS,
    PLACED_KINDS,
    VIT_KINDS,
    Kind,
    blocks_of,
    copy_attention,
    logits_of,
    silence,
    total,
)
from torch import Tensor, nn

from trex.errors import ModelError, PlanError, ReuseError
from trex.hardware import workload
from trex.models.registry import adapter_of, architecture_of, create
from trex.plan import REUSED_TENSORS, TRANSFORMS, Plan, ReusedTensor, Transform
from trex.reuse import (
    apply_plan,
    apply_reuse,
    consumers_of,
    plan_of,
    remove_reuse,
    set_grad_checkpointing,
)
from trex.reuse.route import State

PLAN = "2<-1 3<-1:map 5<-4:map"
#: a producer and two consumers merge; what is kept of encoder 1 passes through two merges
JOINT = "2<-1 3<-1:map 5<-1 0~1 2~1"

every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())


def joint_plan(kind: Kind) -> str:
    return f"{JOINT} 5=class" if kind.reads_class else JOINT


#: plans of reuse for every kind; joint ones where tokens merge, with class rows where they do: of
#: kinds that mixed plans are asked of (they merge and share rows too) only some
every_planned = pytest.mark.parametrize(
    ("kind", "plan"),
    [
        *(pytest.param(kind, PLAN, id=name) for name, kind in KINDS.items()),
        *(
            pytest.param(
                kind, f"{JOINT} 5=class" if kind.reads_class else JOINT, id=f"{name}, joint"
            )
            for name, kind in KINDS.items()
            if kind.merges and (not kind.mixed or name in ("vit", "distilled", "lvvit", "eva02"))
        ),
        *(
            pytest.param(kind, kind.mixed, id=f"{name}, mixed")
            for name, kind in KINDS.items()
            if kind.mixed
        ),
    ],
)
#: sizes by hand and single layers are of ViTs; other families have tests of their own
every_vit = pytest.mark.parametrize("kind", VIT_KINDS.values(), ids=VIT_KINDS.keys())
every_tensor = pytest.mark.parametrize("tensor", REUSED_TENSORS)
every_transform = pytest.mark.parametrize("transform", TRANSFORMS)


def close(one: Tensor, other: Tensor, tolerance: float = 1e-6) -> bool:
    return bool((one - other).abs().max() <= tolerance)


def parameters_of(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@every_kind
def test_the_empty_plan_is_the_original(kind: Kind) -> None:
    model, images = kind.build(), kind.images()
    expected = logits_of(model, images)
    assert close(logits_of(apply_reuse(model, ""), images), expected, 0)
    assert plan_of(model) is None


@every_kind
@pytest.mark.parametrize("tensors", [(), ("output",), ("map",), ("output", "map")])
def test_stepping_is_calling(kind: Kind, tensors: tuple[ReusedTensor, ...]) -> None:
    # fused and plain attention round differently: in double that does not show
    model, images = kind.build().double(), kind.images().double()
    adapter = adapter_of(model)
    with torch.no_grad():
        stream = adapter.stem(model, images)
        for index, block in enumerate(blocks_of(model)):
            stream = adapter.before(block, stream)
            state = State(stream, places=adapter.places(model, images)).at(index)
            output, kept = adapter.attend(block, stream, frozenset(tensors), tokens=state)
            assert set(kept) == set(tensors)
            stream = adapter.after(
                block, adapter.join(block, stream, adapter.branch(block, output))
            )
            stream = adapter.between(model, index, stream)
        logits = adapter.head(model, stream)
    assert close(logits, logits_of(model, images), 1e-12)


@every_kind
def test_an_attention_map_is_made_of_probabilities(kind: Kind) -> None:
    model = kind.build()
    adapter = adapter_of(model)
    with torch.no_grad():
        stream = adapter.stem(model, kind.images())
        state = State(stream, places=adapter.places(model, kind.images())).at(0)
        _, kept = adapter.attend(blocks_of(model)[0], stream, frozenset({"map"}), tokens=state)
    assert (kept["map"] >= 0).all()
    torch.testing.assert_close(kept["map"].sum(-1), torch.ones(kept["map"].shape[:-1]))


@every_kind
@every_tensor
@pytest.mark.parametrize("transform", ["none", "linear", "linear_own"])
def test_reusing_what_one_would_have_computed_changes_nothing(
    kind: Kind, tensor: ReusedTensor, transform: Transform
) -> None:
    """Encoder 4 attends as encoder 5 does and adds nothing to the stream between them."""
    model, images = kind.build().double(), kind.images().double()
    blocks = blocks_of(model)
    silence(blocks[4])
    copy_attention(blocks[4], blocks[5], values=tensor == "output")
    if kind.name == "vit_small_patch16_rope_mixed_224":  # each encoder turns in its own way
        with torch.no_grad():
            model.rope.freqs[:, 4] = model.rope.freqs[:, 5]
    expected = logits_of(model, images)
    apply_reuse(model, f"5<-4:{tensor}", transform)
    assert close(logits_of(model, images), expected, 1e-12)


@every_kind
@every_tensor
def test_reuse_changes_what_it_should(kind: Kind, tensor: ReusedTensor) -> None:
    model, images = kind.build().double(), kind.images().double()
    expected = logits_of(model, images)
    changed = logits_of(apply_reuse(model, f"5<-3:{tensor}"), images)
    assert not torch.allclose(changed, expected, rtol=0, atol=1e-8)


@every_vit
@every_tensor
@every_transform
def test_parameters_leave_for_real(kind: Kind, tensor: ReusedTensor, transform: Transform) -> None:
    model = kind.build()
    before, dim = parameters_of(model), model.embed_dim
    head = dim // blocks_of(model)[0].attn.num_heads
    projections = 3 if tensor == "output" else 2
    gone = projections * dim * (dim + kind.qkv_bias)
    if tensor == "output":
        gone += (transform != "linear_own") * 2 * dim  # the first norm
        gone += kind.output_norm * 2 * dim
    gone += kind.layer_scale * dim  # folded into the projection
    gone += kind.qk_norm * 2 * 2 * head
    added = {"none": 0, "linear": 0, "linear_own": dim * dim, "block": 2 * dim + dim * (dim + 1)}
    apply_reuse(model, f"2<-1:{tensor} 4<-1:{tensor}", transform)
    assert parameters_of(model) == before - 2 * (gone - added[transform])
    assert sum(v.numel() for v in model.state_dict().values()) <= before


@every_planned
def test_a_state_dict_makes_the_same_variant(kind: Kind, plan: str) -> None:
    images = kind.images()
    one = apply_reuse(kind.build(seed=0), plan, "block")
    other = apply_reuse(kind.build(seed=1), plan, "block")
    assert not close(logits_of(one, images), logits_of(other, images))
    other.load_state_dict(one.state_dict(), strict=True)
    assert close(logits_of(one, images), logits_of(other, images), 0)
    assert not any("original" in name for name in one.state_dict())


@every_planned
def test_copies_after_a_forward_are_independent(kind: Kind, plan: str) -> None:
    images = kind.images()
    model = apply_reuse(kind.build(), plan)
    model(images)
    expected = logits_of(model, images)
    twin = copy.deepcopy(model)
    assert close(logits_of(twin, images), expected, 0)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(0.01)
    assert close(logits_of(model, images), expected, 0)
    assert not close(logits_of(twin, images), expected)
    assert close(logits_of(remove_reuse(copy.deepcopy(model)), images),
                 logits_of(kind.build(), images), 0)  # fmt: skip


@every_planned
@every_transform
def test_removing_reuse_restores_the_original(kind: Kind, plan: str, transform: Transform) -> None:
    model, images = kind.build(), kind.images()
    expected, names = logits_of(model, images), list(model.state_dict())
    remove_reuse(apply_reuse(model, plan, transform))
    assert plan_of(model) is None
    assert list(model.state_dict()) == names
    assert close(logits_of(model, images), expected, 0)
    for name in adapter_of(model).containers(model):
        original = type(kind.build().get_submodule(name))
        assert type(model.get_submodule(name)) is original


def test_applying_twice_is_harmless_and_another_plan_is_refused() -> None:
    model = apply_reuse(KINDS["vit"].build(), PLAN)
    modules = dict(model.named_modules())
    assert apply_reuse(model, Plan.parse(PLAN), "linear") is model
    for plan, transforms in ((PLAN, "none"), ("2<-1", "linear"), ("", "linear")):
        with pytest.raises(ReuseError, match="already runs a plan") as caught:
            apply_reuse(model, plan, transforms)
        assert "remove_plan" in caught.value.hint
    assert dict(model.named_modules()) == modules


@pytest.mark.parametrize(
    ("plan", "transforms", "message"),
    [
        ("6<-5", "linear", "names encoder 6, but the model has 6 encoders"),
        ("2<-3", "linear", "runs later"),
        ("2<-1", "cubic", "'cubic' is not a transform"),
        ("2<-1 4<-1", {2: "linear"}, "consumer 4 has no transform"),
        ("2<-1", {2: "linear", 3: "linear"}, "encoder 3 has a transform but does not reuse"),
        ("", {3: "linear"}, "encoder 3 has a transform"),
    ],
)
def test_what_does_not_fit_leaves_the_model_alone(plan, transforms, message: str) -> None:
    model = KINDS["vit"].build()
    modules = dict(model.named_modules())
    with pytest.raises(PlanError, match=message):
        apply_reuse(model, plan, transforms)
    assert dict(model.named_modules()) == modules


def test_transforms_can_differ_between_consumers() -> None:
    model = apply_reuse(KINDS["vit"].build(), "2<-1 4<-3:map", {4: "block", 2: "none"})
    assert plan_of(model) == Plan.parse("2<-1:output/none 4<-3:map/block")
    names = {name.split(".")[1] for name in model.state_dict() if ".transform." in name}
    assert names == {"4"}
    assert set(consumers_of(model)) == {2, 4}


def test_originals_that_were_not_kept_cannot_be_restored() -> None:
    model = apply_reuse(KINDS["vit"].build(), PLAN, keep_originals=False)
    with pytest.raises(ReuseError, match="not kept"):
        remove_reuse(model)
    assert plan_of(model) is not None


def test_restored_encoders_follow_the_model_to_another_type() -> None:
    model = apply_reuse(KINDS["layer scale"].build(), PLAN).double()
    remove_reuse(model)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert model(KINDS["layer scale"].images().double()).dtype == torch.float64


def test_layer_scale_is_folded_into_the_projection() -> None:
    kind = KINDS["layer scale"]
    model, images = kind.build(), kind.images()
    source, block = blocks_of(model)[1:3]
    scale, projection = block.ls1.gamma.clone(), block.attn.proj
    with torch.no_grad():
        stream = torch.randn(2, 5, 48, generator=torch.Generator().manual_seed(0))
        reused = torch.randn(2, 5, 48, generator=torch.Generator().manual_seed(1))
        expected = stream + scale * projection(reused)
    apply_reuse(model, "2<-1", "none")
    consumer = consumers_of(model)[2]
    with torch.no_grad():
        merged = consumer.merge(stream, consumer.features(stream, reused, State(stream)))
    torch.testing.assert_close(merged, expected)
    assert not hasattr(consumer, "ls1")
    assert source is model.blocks[1]
    assert logits_of(model, images).isfinite().all()


@every_planned
@every_transform
def test_every_parameter_gets_a_gradient(kind: Kind, plan: str, transform: Transform) -> None:
    model = apply_reuse(kind.build(), plan, transform).train()
    total(model(kind.images())).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []


@every_vit
@every_tensor
def test_consumers_teach_their_producer(kind: Kind, tensor: ReusedTensor) -> None:
    model = kind.build()
    producer = blocks_of(model)[1]
    silence(producer)  # its own way to the output is closed
    apply_reuse(model, f"4<-1:{tensor}").train()
    total(model(kind.images())).backward()
    gradient = producer.attn.qkv.weight.grad
    third = len(gradient) // 3
    for part, rows in (("q", slice(third)), ("k", slice(third, 2 * third))):
        assert gradient[rows].abs().max() > 0, part
    # with the map, the consumer has values of its own
    assert bool(gradient[2 * third :].any()) == (tensor == "output")


# torch says that its root mean square norms are not fused under autocast
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight:UserWarning")
@every_planned
def test_mixed_precision(kind: Kind, plan: str) -> None:
    model, images = apply_reuse(kind.build(), plan), kind.images()
    expected = logits_of(model, images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = logits_of(model, images)
    # half precision may find other pairs alike
    tolerance = 0.2 if "~" in plan else 0.1
    assert (rough.float() - expected).abs().max() < tolerance * expected.abs().max()


@every_planned
def test_variants_are_pickled_whole(kind: Kind, plan: str) -> None:
    model, images = apply_reuse(kind.build(), plan, "block"), kind.images()
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    assert plan_of(again) == plan_of(model)
    assert close(logits_of(again, images), logits_of(model, images), 0)


@every_planned
def test_reuse_takes_the_model_s_type(kind: Kind, plan: str) -> None:
    model, images = kind.build().bfloat16(), kind.images()
    apply_reuse(model, plan, "block")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    rough = logits_of(model, images.bfloat16() if images.is_floating_point() else images)
    assert rough.dtype == torch.bfloat16
    assert rough.isfinite().all()


@pytest.mark.parametrize("name", ["vit", "distilled", "lvvit", "uniform", "shvit"])
def test_a_variant_gets_another_head(name: str) -> None:
    kind = KINDS[name]
    model, images = apply_reuse(kind.build(), PLAN), kind.images()
    with torch.no_grad():
        features = model.forward_features(images)
        model.reset_classifier(3)
        assert logits_of(model, images).shape == (2, 3)
        assert close(model.forward_features(images), features, 0)


@pytest.mark.parametrize("name", ["uniform", "shvit"])
def test_a_variant_s_normalisations_fold_for_deployment(name: str) -> None:
    kind = KINDS[name]
    model, images = apply_reuse(kind.build(), PLAN, "linear_own"), kind.images()
    deployed = reparameterize_model(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in deployed.modules())
    torch.testing.assert_close(logits_of(deployed, images), logits_of(model, images))


@pytest.mark.parametrize("plan", [PLAN, f"{JOINT} 5=class"], ids=["reuse", "joint"])
def test_timms_moving_average(plan: str) -> None:
    kind = KINDS["vit"]
    model, images = apply_reuse(kind.build(), plan), kind.images()
    model(images)
    average = ModelEmaV3(model, decay=0.9)
    name = "blocks.2.attn.proj.weight"
    before = model.state_dict()[name].clone()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    average.update(model)
    torch.testing.assert_close(average.module.state_dict()[name], before + 0.1)
    assert average.module(images).shape == (2, 7)


@every_planned
def test_checkpointing_changes_neither_loss_nor_gradients(kind: Kind, plan: str) -> None:
    plain, saving = (apply_reuse(kind.build(), plan, "block").train() for _ in range(2))
    set_grad_checkpointing(saving)
    losses = [total(model(kind.images())) for model in (plain, saving)]
    assert losses[0] == losses[1]
    for loss in losses:
        loss.backward()
    for (name, one), (_, other) in zip(
        plain.named_parameters(), saving.named_parameters(), strict=True
    ):
        torch.testing.assert_close(one.grad, other.grad, msg=name)


def test_checkpointing_survives_applying_and_removing() -> None:
    model = KINDS["vit"].build()
    model.set_grad_checkpointing(True)
    apply_reuse(model, PLAN)
    assert model.blocks.checkpointing
    assert not model.grad_checkpointing
    remove_reuse(model)
    assert model.grad_checkpointing


MASK = torch.zeros(5, 5)


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda m, x: m.forward_intermediates(x), id="intermediates"),
        pytest.param(
            lambda m, x: m.forward_intermediates(x, indices=[3], stop_early=True), id="stop early"
        ),
        pytest.param(lambda m, x: m.get_intermediate_layers(x, n=1), id="layers"),
        pytest.param(lambda m, x: m(x, attn_mask=MASK), id="mask"),
        pytest.param(lambda m, x: (m.set_grad_checkpointing(), m(x)), id="timm checkpointing"),
        pytest.param(lambda m, x: m.blocks[:3](x), id="slice"),
        pytest.param(lambda m, x: m.blocks[2](torch.zeros(1, 5, 48)), id="one consumer"),
    ],
)
@pytest.mark.parametrize("plan", [PLAN, "0~1", "5=class"], ids=["reuse", "merging", "class rows"])
def test_what_cannot_work_says_so(use, plan: str, request: pytest.FixtureRequest) -> None:
    kind = KINDS["vit"]
    model = apply_plan(kind.build().train(), plan)
    if plan != PLAN and "one consumer" in request.node.name:
        pytest.skip("there is no consumer")
    if (
        "mask" in request.node.name
        and "attn_mask" not in inspect.signature(model.forward).parameters
    ):
        pytest.skip("this timm has no masks")
    with pytest.raises(ReuseError) as caught:
        use(model, kind.images())
    assert "remove_plan" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_small_patch16_18x2_224", r"vit_small_patch16_18x2_224\.blocks\.0 is a Parallel"),
        ("vit_base_patch16_rpn_224", r"\.blocks\.0 is a ResPostBlock"),
        ("vit_dwee_patch16_reg1_gap_256", r"\.blocks\.0\.attn is a DiffAttention"),
        ("vit_relpos_base_patch16_rpn_224", r"\.blocks\.0 is a ResPostRelPosBlock"),
        ("eva02_enormous_patch14_clip_224", r"\.blocks\.0 is a EvaBlockPostNorm"),
        ("xcit_nano_12_p16_224", "is a Xcit"),
        ("swin_tiny_patch4_window7_224", "is a SwinTransformer"),
        ("resnet18", "is a ResNet"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(name: str, message: str) -> None:
    model = create(name, device="meta")
    with pytest.raises(ModelError, match=message):
        adapter_of(model, name)
    with pytest.raises(ModelError):
        apply_reuse(model, "2<-1")
    assert plan_of(model) is None


def test_a_changed_block_is_refused() -> None:
    class OtherAttention(type(KINDS["vit"].build().blocks[0].attn)):
        pass

    model = KINDS["vit"].build()
    model.blocks[3].attn.__class__ = OtherAttention
    with pytest.raises(ModelError, match=r"blocks\.3\.attn is a OtherAttention"):
        apply_reuse(model, "2<-1")
    model = KINDS["vit"].build()
    model.blocks[4].attn.gate = nn.Linear(48, 48)
    with pytest.raises(ModelError, match=r"blocks\.4\.attn\.gate is a Linear"):
        apply_reuse(model, "2<-1")
    model = KINDS["vit"].build()
    del model.blocks[5].ls1
    with pytest.raises(ModelError, match=r"blocks\.5 has no ls1"):
        apply_reuse(model, "2<-1")


@every_vit
def test_operations_by_hand(kind: Kind) -> None:
    model = kind.build()
    found = architecture_of(model, kind.name)
    dim, hidden = model.embed_dim, blocks_of(model)[0].mlp.fc1.out_features
    tokens = model.pos_embed.shape[1] if kind.name == "lvvit_t" else (
        model.patch_embed.num_patches + model.num_prefix_tokens
    )  # fmt: skip
    encoder = tokens * 4 * dim**2 + 2 * tokens**2 * dim + 2 * tokens * dim * hidden
    inside = sum(op.macs for e in found.encoders for op in e.operations)
    assert len(found.encoders) == len(blocks_of(model))
    assert inside == len(found.encoders) * encoder
    spared = {
        "output": 3 * tokens * dim**2 + 2 * tokens**2 * dim,
        "map": 2 * tokens * dim**2 + tokens**2 * dim,
    }
    for tensor, transform in itertools.product(REUSED_TENSORS, TRANSFORMS):
        added = tokens * dim**2 if transform in ("block", "linear_own") else 0
        work = workload(found, Plan.parse(f"2<-1:{tensor} 5<-3:{tensor}", transform))
        assert work.macs == found.macs - 2 * spared[tensor] + 2 * added


def test_operations_around_the_encoders_by_hand() -> None:
    vit = architecture_of(KINDS["vit"].build(), "vit")
    inside = sum(op.macs for e in vit.encoders for op in e.operations)
    assert vit.macs - inside == 4 * (3 * 16 * 16) * 48 + 48 * 7
    distilled = architecture_of(KINDS["distilled"].build(), "deit")
    inside = sum(op.macs for e in distilled.encoders for op in e.operations)
    assert distilled.macs - inside == 4 * (3 * 16 * 16) * 48 + 2 * 48 * 7


def test_a_reusing_model_is_no_original() -> None:
    """Measuring or describing a variant as if it were the original must not pass in silence."""
    model = apply_reuse(KINDS["vit"].build(), PLAN)
    for ask in (adapter_of, architecture_of):
        with pytest.raises(ModelError, match="vit runs a plan already") as caught:
            ask(model, "vit")
        assert "remove_plan" in caught.value.hint
    assert timm.models.group_parameters(model, model.group_matcher())


def intermediates(model: nn.Module, images: Tensor) -> object:
    return model.forward_intermediates(images, indices=[2, 4], norm=True)


@pytest.mark.parametrize("name", ["eva02", "rotary by head", "beit", "relative positions"])
@pytest.mark.parametrize("plan", [PLAN, "0~1"], ids=["reuse", "merging"])
def test_what_cannot_work_says_so_where_encoders_are_called_one_by_one(
    name: str, plan: str
) -> None:
    kind = KINDS[name]
    model, images = apply_plan(kind.build(), plan), kind.images()
    uses = [
        lambda: intermediates(model, images),
        lambda: model.forward_intermediates(images, indices=[3], stop_early=True),
        lambda: model.blocks[:3],
        lambda: list(model.blocks)[2](torch.zeros(1, 5, 48)),
    ]
    if adapter_of(kind.build()).place_argument == "rope":
        uses.append(lambda: model(images, attn_mask=torch.zeros(17, 17)))
    for use in uses:
        with pytest.raises(ReuseError) as caught:
            use()
        assert "remove_plan" in caught.value.hint


@pytest.mark.parametrize("kind", PLACED_KINDS.values(), ids=PLACED_KINDS)
@every_tensor
def test_all_that_a_reused_attention_does_not_need_leaves(
    kind: Kind, tensor: ReusedTensor
) -> None:
    model = kind.build()
    attention = blocks_of(model)[2].attn
    kept = {"proj"} if tensor == "output" else {"proj", "norm", "v_proj", "v_bias"}
    gone = sum(
        value.numel()
        for name, value in attention.named_parameters()
        if name.split(".")[0] not in kept
    )
    if tensor == "output":
        gone += sum(value.numel() for value in blocks_of(model)[2].norm1.parameters())
    elif getattr(attention, "qkv", None) is not None:  # the values' third stays
        gone -= sum(value.numel() for value in attention.qkv.parameters()) // 3
    for name in ("ls1.gamma", "gamma_1"):  # folded into the projection
        scale = dict(blocks_of(model)[2].named_parameters()).get(name)
        gone += 0 if scale is None else scale.numel()
    before = parameters_of(model)
    # projections that had no bias get one
    added = 0 if attention.proj.bias is not None else model_width(model)
    apply_reuse(model, f"2<-1:{tensor}", keep_originals=False)
    assert parameters_of(model) == before - gone + added


def model_width(model: nn.Module) -> int:
    return int(blocks_of(model)[0].norm1.weight.numel())
