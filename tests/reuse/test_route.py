"""What must hold when a plan runs: merging, class rows and reuse together, in every family."""

from __future__ import annotations

import pytest
import torch
from tiny_models import KINDS, Kind, blocks_of, equal_places, logits_of, products_of
from torch import Tensor, nn

from trex.errors import PlanError
from trex.hardware import workload
from trex.models.registry import adapter_of, architecture_of
from trex.plan import Plan
from trex.reuse import apply_plan, plan_of, remove_plan
from trex.reuse.merge import copies_of_groups
from trex.reuse.route import Passed, Route, State, Step, encode, encoders_of, run_model

MERGING = {name: kind for name, kind in KINDS.items() if kind.merges}
CLASS = {name: kind for name, kind in KINDS.items() if kind.reads_class}
merging_kind = pytest.mark.parametrize("kind", MERGING.values(), ids=MERGING.keys())
class_kind = pytest.mark.parametrize("kind", CLASS.values(), ids=CLASS.keys())

REUSE = "2<-1 3<-1:map 5<-1"


def route_for(model: nn.Module, plan: str) -> Route:
    return Route.of(Plan.parse(plan), adapter_of(model).layout(model))


def variant_blocks(model: nn.Module, plan: str) -> list[nn.Module]:
    """The encoders of the plan's reuses, each a consumer where it reuses."""
    adapter = adapter_of(model)
    apply_plan(model, Plan(Plan.parse(plan).reuses))
    blocks = [block for _, block in encoders_of(model, adapter)]
    remove_plan(model)
    return blocks


def test_no_pairs_and_the_empty_plan_are_the_original() -> None:
    model, images = KINDS["vit"].build(), KINDS["vit"].images()
    expected = logits_of(model, images)
    for plan in ("", "0~0 3~0"):
        assert torch.equal(logits_of(apply_plan(model, plan), images), expected)
        assert plan_of(model) is None


@class_kind
def test_class_rows_are_exact(kind: Kind) -> None:
    model, images = kind.build(), kind.images()
    expected = logits_of(model, images)
    actual = logits_of(apply_plan(model, "5=class"), images)
    assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max().clamp_min(1.0)


@class_kind
def test_class_rows_of_a_consumer_are_exact(kind: Kind) -> None:
    model, images = kind.build(), kind.images()
    expected = logits_of(apply_plan(model, "5<-3:output/linear_own"), images)
    remove_plan(model)
    actual = logits_of(apply_plan(model, "5<-3:output/linear_own 5=class"), images)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def equals(kind: Kind, model: nn.Module, distinct: int) -> Tensor:
    """A first stream whose last six tokens have so many values, equal ones side by side."""
    layout = adapter_of(model).layout(model)
    with torch.no_grad():
        width = adapter_of(model).stem(kind.build(), kind.images()).shape[-1]
    generator = torch.Generator().manual_seed(3)
    stream = torch.randn(2, layout.protected + 6, width, generator=generator).double()
    values = stream[:, layout.protected : layout.protected + distinct]
    stream[:, layout.protected :] = values.repeat_interleave(6 // distinct, dim=1).clone()
    return stream


@merging_kind
@pytest.mark.parametrize("reuse", ["", REUSE], ids=["own", "reuse"])
# behind a merge, equals of several values may lie in one of the two sets, which cannot merge
@pytest.mark.parametrize(
    ("distinct", "merges"), [(3, "0~3"), (3, "2~2"), (1, "0~1 1~1 2~1"), (1, "2~2 3~1")]
)
@torch.no_grad()
def test_merging_equals_changes_nothing(
    kind: Kind, reuse: str, distinct: int, merges: str
) -> None:
    """Equal tokens stay equal, so it makes no difference whether they are one.

    Proportional attention, sizes, and what is kept for later encoders must all be right for it.
    """
    model = kind.build().double()
    adapter, stream = adapter_of(model), equals(kind, model, distinct)
    places = equal_places(model, kind.images().double(), distinct)
    blocks = variant_blocks(model, reuse)

    def behind(plan: str) -> State:
        route = route_for_tokens(model, plan, stream.shape[1])
        return encode(adapter, blocks, route.steps, route.enter(adapter, stream, places))

    merged, whole = behind(f"{reuse} {merges}"), behind(reuse)
    assert merged.groups is not None
    assert merged.stream.shape[1] < stream.shape[1]
    copied = copies_of_groups(merged.stream, merged.groups)
    torch.testing.assert_close(copied, whole.stream, rtol=1e-5, atol=1e-5)


def route_for_tokens(model: nn.Module, plan: str, tokens: int) -> Route:
    import dataclasses

    layout = dataclasses.replace(adapter_of(model).layout(model), tokens=tokens)
    return Route.of(Plan.parse(plan), layout)


@merging_kind
@torch.no_grad()
def test_what_is_kept_has_as_many_tokens_as_the_stream(kind: Kind) -> None:
    model, images = kind.build(), kind.images()
    adapter, seen = adapter_of(model), {}
    blocks = variant_blocks(model, REUSE)
    route = route_for(model, f"{REUSE} 0~1 2~1")

    def see(step: Step, passed: Passed) -> None:
        seen[step.index] = passed.left

    stream = adapter.stem(model, images)
    places = adapter.places(model, images)
    encode(adapter, blocks, route.steps, route.enter(adapter, stream, places), see=see)
    tokens = stream.shape[1]
    assert [seen[i].stream.shape[1] for i in range(6)] == [tokens - 1] * 2 + [tokens - 2] * 4
    assert set(seen[1].kept) == {(1, "output"), (1, "map")}
    assert set(seen[3].kept) == {(1, "output")}, "what nobody reuses any more is let go"
    assert not seen[5].kept
    for state in list(seen.values())[1:5]:
        for (_, tensor), value in state.kept.items():
            count = state.stream.shape[1]
            assert value.shape[1 if tensor == "output" else 2] == count
            if tensor == "map":
                words = state.sizes > 0  # padding attends to nothing once it is merged
                sums = value.sum(-1).amin(1)
                torch.testing.assert_close(sums[words], torch.ones_like(sums[words]))
    assert seen[5].sizes.sum() == (adapter.sizes(stream) if adapter.sizes(stream) is not None
                                   else torch.ones(stream.shape[:2])).sum()  # fmt: skip


@merging_kind
def test_an_answer_does_not_depend_on_the_batch(kind: Kind) -> None:
    model, images = apply_plan(kind.build().double(), f"{REUSE} 0~1 2~1"), kind.images(4)
    images = images.double() if images.is_floating_point() else images
    together = logits_of(model, images)
    for number, image in enumerate(images):
        alone = logits_of(model, image[None])[0]
        torch.testing.assert_close(alone, together[number], rtol=1e-9, atol=1e-9)


@merging_kind
def test_walking_is_calling(kind: Kind) -> None:
    plan = f"{REUSE} 0~1 2~1"
    model, images = kind.build(), kind.images()
    adapter, route = adapter_of(model), route_for(model, plan)
    apply_plan(model, plan)
    with torch.no_grad():
        state, logits = run_model(model, adapter, route, images)
    torch.testing.assert_close(logits, logits_of(model, images))
    assert state.groups is not None


@pytest.mark.parametrize("name", ["registers, averaged", "attention pool"])
@torch.no_grad()
def test_pooling_heads_weigh_by_size(name: str) -> None:
    """A head over the tokens' copies is a head weighted by size: by hand for the average."""
    model, images = KINDS[name].build(), KINDS[name].images()
    adapter, plan = adapter_of(model), "0~1 2~1"
    route = route_for(model, plan)
    expected_tokens = adapter.stem(model, images).shape[1]
    apply_plan(model, plan)
    state, logits = run_model(model, adapter, route, images)
    assert route.leave(state).shape[1] == expected_tokens
    torch.testing.assert_close(logits, logits_of(model, images))
    if name == "registers, averaged":
        prefix = model.num_prefix_tokens
        tokens, sizes = model.norm(state.stream)[:, prefix:], state.sizes[:, prefix:, None]
        mean = (tokens * sizes).sum(1) / sizes.sum(1)
        torch.testing.assert_close(logits, model.head(model.fc_norm(mean)))


@merging_kind
def test_merging_and_class_rows_take_no_parameters(kind: Kind) -> None:
    model = kind.build()
    before = {name: value.shape for name, value in model.state_dict().items()}
    apply_plan(model, "0~1 3~1 5=class" if kind.reads_class else "0~1 3~1")
    assert {name: value.shape for name, value in model.state_dict().items()} == before


@merging_kind
@pytest.mark.parametrize("reuse", ["", "2<-1 4<-1:map/linear", "5<-4:output/linear_own"])
def test_products_are_those_of_the_workload(kind: Kind, reuse: str) -> None:
    """PyTorch's own counter sees as many multiply-accumulates as the plan's workload has."""
    model, images = kind.build().requires_grad_(False), kind.images(1)
    found = architecture_of(model, kind.name)
    plan = Plan.parse(f"{reuse} 0~1 2~1" + (" 5=class" if kind.reads_class else ""))
    spared = products_of(model, images)
    spared -= products_of(apply_plan(model, plan), images)
    assert found.macs - workload(found, plan).macs == spared


@pytest.mark.parametrize(
    ("name", "plan", "message"),
    [
        ("vit", "1~3", "encoder 1 merges 3 pairs of 5 tokens; at most 2"),
        ("vit", "1~2 2~1 3~1", "encoder 3 merges 1 pairs of 2 tokens; at most 0"),
        ("vit", "3=class", "encoder 3 cannot compute its class rows only: encoder 4 reads all"),
        ("lvvit", "5=class", "encoder 5 cannot compute .*: LV-ViT's auxiliary head reads"),
        ("registers, averaged", "5=class", "encoder 5 cannot .*: the head pools the patches"),
        ("uniform", "1~3", "encoder 1 cannot merge tokens: UniForm keeps its tokens in grids"),
        ("shvit", "2~1", "encoder 2 cannot merge tokens: SHViT keeps its tokens in grids"),
        ("uniform", "8=class", "encoder 8 cannot .*: UniForm has no class token"),
        ("vit", "5<-4:map 5=class", "encoder 5 is the last, of which the head reads class rows"),
        ("vit", "5~1 5=class", "encoder 5 computes its class rows only, which do not merge"),
        ("vit", "7~1", "the plan names encoder 7, but the model has 6 encoders"),
        ("vit", "2=6", "encoder 2 shares 6 rows among 5 tokens; at most 5"),
        ("vit", "2=1", "encoder 2 shares 1 rows; at least 2"),
        ("distilled", "2=2", "encoder 2 shares 2 rows; at least 3"),
        ("uniform", "2=50", "encoder 2 shares 50 rows among"),
        ("vit", "3=@2", "encoder 3 takes the groups of encoder 2, which matches none"),
        ("vit", "1=3 2=@1 3=@2", "encoder 3 takes the groups of encoder 2, which matches none"),
        ("vit", "2=4 2~1 3=@2", "encoder 3 takes the groups of .* encoder 2 merges tokens in"),
        ("vit", "2<-1 2=4", "encoder 2 reuses and has no queries"),
        ("uniform", "5=4 6=@5", "encoder 6 takes the groups of encoder 5 of another stage"),
        ("bert", "2<-1:map/mixed", "encoder 2 cannot mix maps: a text's words"),
        ("uniform", "2:map/average", "encoder 2 cannot mix maps: maps of UniForm"),
        ("registers, averaged", "2<-1:map 2=class", "encoder 2 cannot compute its class rows"),
        ("vit", "5<-4:map/mixed 5=class", "encoder 5 is the last, of which the head reads"),
    ],
)
def test_what_does_not_fit_names_the_encoder_and_leaves_the_model(
    name: str, plan: str, message: str
) -> None:
    model = KINDS[name].build()
    modules = dict(model.named_modules())
    with pytest.raises(PlanError, match=message) as caught:
        apply_plan(model, plan)
    assert caught.value.hint
    assert dict(model.named_modules()) == modules


def test_fewer_tokens_than_the_plan_was_made_for() -> None:
    """A model of any image size is given a smaller image."""
    model = KINDS["any image size"].build()
    model.patch_embed.strict_img_size = False
    model.patch_embed.grid_size = (2, 2)
    model.dynamic_img_size = True
    apply_plan(model, "1~2")
    with pytest.raises(PlanError, match=r"encoder 1 merges 2 pairs of \d tokens; at most"):
        model(torch.randn(1, 3, 32, 16))


def test_encoders_that_merge_alone_are_refused() -> None:
    model = apply_plan(KINDS["vit"].build(), "0~1")
    assert len(list(model.blocks.children())) == 6
    assert len(blocks_of(remove_plan(model))) == 6


def test_the_first_tokens_as_a_state_s_tokens_by_hand() -> None:
    rows = torch.arange(10.0).reshape(1, 5, 2)
    groups = torch.tensor([[0, 1, 1, 2, 1]])
    merged = State(torch.zeros(1, 3, 2), torch.tensor([[1.0, 3, 1]]), groups)
    expected = torch.tensor([[[0.0, 1], [14 / 3, 17 / 3], [6, 7]]])
    torch.testing.assert_close(merged.tokens_of(rows), expected)
    class_rows = merged._replace(stream=torch.zeros(1, 1, 2))
    torch.testing.assert_close(class_rows.tokens_of(rows), expected[:, :1])
    assert torch.equal(State(torch.zeros(1, 5, 2)).tokens_of(rows), rows)
