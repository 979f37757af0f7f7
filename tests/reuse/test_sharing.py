"""Shared rows: tokens that are alike have one row of attention, and stay."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import KINDS, Kind, equal_places, logits_of, products_of
from torch import Tensor

from trex.errors import PlanError
from trex.models.registry import adapter_of
from trex.plan import Plan
from trex.reuse import apply_plan, remove_plan
from trex.reuse.merge import Sharing
from trex.reuse.route import Passed, Route, Step, encode, encoders_of

every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())


def attending(kind: Kind, encoder: int) -> int:
    """Tokens that attend to each other in an encoder."""
    model = kind.build()
    layout = adapter_of(model).layout(model)
    tokens = Plan().attending(encoder, layout)
    return tokens or 9  # SHViT at 96 pixels: 3 by 3 behind the stem


@st.composite
def sharings(draw: st.DrawFn) -> tuple[Tensor, Sharing]:
    tokens = draw(st.integers(3, 40))
    protected = draw(st.integers(0, 2))
    rows = draw(st.integers(protected + 1, tokens))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    keys = torch.randn(2, tokens, 4, generator=generator, dtype=torch.float64)
    sizes = torch.randint(1, 4, (2, tokens), generator=generator).float()
    return keys, Sharing(0, rows, protected, draw(st.sampled_from([None, sizes])))


@settings(deadline=None)
@given(sharings())
def test_every_token_has_one_row_and_every_row_a_token(of: tuple[Tensor, Sharing]) -> None:
    keys, sharing = of
    groups = sharing.groups(keys)
    matrix = torch.nn.functional.one_hot(groups.target, sharing.rows)
    assert (matrix.sum(2) == 1).all()
    assert (matrix.sum(1) >= 1).all()
    first = torch.arange(sharing.protected)
    assert (groups.target[:, : sharing.protected] == first).all()
    assert (matrix.sum(1)[:, : sharing.protected] == 1).all(), "the first tokens share with none"
    rows = torch.randn(2, sharing.rows, 3, dtype=torch.float64)
    torch.testing.assert_close(groups.mean(groups.copies(rows)), rows, rtol=1e-5, atol=1e-5)
    again = Sharing(0, sharing.rows, sharing.protected, sharing.sizes, groups.target)
    assert torch.equal(again.groups(keys).target, groups.target)
    assert torch.equal(again.groups(keys).share, groups.share)


@every_kind
@pytest.mark.parametrize("reuse", ["", "4<-3 5<-3:map"], ids=["own", "offering"])
def test_as_many_rows_as_tokens_are_the_identity(kind: Kind, reuse: str) -> None:
    model, images = kind.build().double(), kind.images()
    images = images.double() if images.is_floating_point() else images
    expected = logits_of(apply_plan(model, reuse), images)
    remove_plan(model)
    whole = [attending(kind, encoder) for encoder in (1, 3)]
    plan = f"{reuse} 1={whole[0]} 2=@1 3={whole[1]}"
    actual = logits_of(apply_plan(model, plan), images)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@every_kind
def test_sharing_keeps_every_token_and_parameter(kind: Kind) -> None:
    model, images = kind.build().double(), kind.images()
    images = images.double() if images.is_floating_point() else images
    before = {name: value.shape for name, value in model.state_dict().items()}
    expected = logits_of(model, images)
    rows = max(attending(kind, 2) - 2, adapter_of(model).layout(model).protected + 1)
    adapter, seen = adapter_of(model), {}
    plan = Plan.parse(f"1={rows} 2=@1 3={rows}")
    route = Route.of(plan, adapter.layout(model))

    def see(step: Step, passed: Passed) -> None:
        seen[step.index] = (passed.entered.stream.shape, passed.left.stream.shape)

    with torch.no_grad():
        stream = adapter.stem(model, images)
        blocks = [block for _, block in encoders_of(model, adapter)][:6]
        state = route.enter(adapter, stream, adapter.places(model, images))
        encode(adapter, blocks, route.steps[:6], state, see=see)
    assert all(entered == left for entered, left in seen.values())
    apply_plan(model, plan)
    assert {name: value.shape for name, value in model.state_dict().items()} == before
    changed = logits_of(model, images)
    assert changed.isfinite().all()
    assert not torch.allclose(changed, expected, rtol=0, atol=1e-12)


@every_kind
def test_equal_tokens_may_share(kind: Kind) -> None:
    """Rows of equal tokens are equal, so it makes no difference whether they are one."""
    if not kind.merges:
        pytest.skip("convolutions make a grid's equal tokens unequal")
    model = kind.build().double()
    adapter = adapter_of(model)
    layout = adapter.layout(model)
    with torch.no_grad():
        images = kind.images()
        images = images.double() if images.is_floating_point() else images
        places = equal_places(model, images, 1)
        width = adapter.stem(kind.build(), kind.images()).shape[-1]
        stream = torch.randn(2, layout.protected + 6, width).double()
        stream[:, layout.protected :] = stream[:, layout.protected, None].clone()
        blocks = [block for _, block in encoders_of(model, adapter)]

        def behind(plan: str) -> Tensor:
            import dataclasses

            tokens = dataclasses.replace(layout, tokens=stream.shape[1])
            route = Route.of(Plan.parse(plan), tokens)
            state = route.enter(adapter, stream, places)
            return encode(adapter, blocks, route.steps, state).stream

        rows = layout.protected + 1
        shared = behind(f"0={rows} 1=@0 2={layout.protected + 3} 4={rows} 5=@4")
        torch.testing.assert_close(shared, behind(""), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["vit", "distilled", "lvvit", "bert", "uniform", "shvit"])
def test_an_image_s_groups_are_its_own(name: str) -> None:
    kind = KINDS[name]
    rows = attending(kind, 1) - 1
    model, images = apply_plan(kind.build().double(), f"1={rows} 2=@1"), kind.images(3)
    images = images.double() if images.is_floating_point() else images
    together = logits_of(model, images)
    for number, image in enumerate(images):
        alone = logits_of(model, image[None])[0]
        torch.testing.assert_close(alone, together[number], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["vit", "lvvit", "bert"])
def test_shared_rows_spare_products(name: str) -> None:
    """Queries, scores, context and projection are of the rows; matching adds its likenesses."""
    kind = KINDS[name]
    model, images = kind.build().requires_grad_(False), kind.images(1)
    layout = adapter_of(model).layout(model)
    tokens, rows = layout.tokens, layout.tokens - 1
    width = adapter_of(model).stem(model, images).shape[-1]

    before = products_of(model, images)
    apply_plan(model, f"1={rows} 2=@1")
    heads = 3
    first, second = (tokens + 1) // 2, tokens // 2
    likenesses = first * second * (width // heads)
    spared = 2 * (2 * width * width + 2 * tokens * width)  # one row in each of two encoders
    assert before - products_of(model, images) == spared - likenesses


def test_fewer_tokens_than_rows_are_refused_by_name() -> None:
    model = apply_plan(KINDS["shvit"].build(), "2=10")
    with pytest.raises(PlanError, match="encoder 2 shares 10 rows among 9 tokens"):
        model(KINDS["shvit"].images())
