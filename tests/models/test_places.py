"""What merged tokens and shared rows mean where blocks are told their tokens' places."""

from __future__ import annotations

import pytest
import torch
from tiny_models import PLACED_KINDS, Kind, blocks_of
from torch import Tensor

from trex.models.placed import own_bias
from trex.models.places import NO_PLACE, Rotation, ScoreBias
from trex.models.registry import adapter_of
from trex.plan import Plan
from trex.reuse import apply_plan
from trex.reuse.merge import Assignment, match
from trex.reuse.route import Route, State, encode, merge

HEADS, WIDTH, TOKENS = 2, 8, 7
PLACED = {name: k for name, k in PLACED_KINDS.items() if adapter_of(k.build()).place_argument}


def merged_state(prefix: int = 1) -> State:
    """Seven tokens of which two pairs became one each, one of them of three tokens."""
    state = State(torch.randn(2, TOKENS, 4).double())
    for _ in range(2):
        found = match(state.stream, 1, protected=prefix, sizes_BN=state.sizes)
        state = merge(state, found)
    return state


def members(state: State, image: int, token: int) -> list[int]:
    assert state.groups is not None
    return (state.groups[image] == token).nonzero().flatten().tolist()


def scores(place: Rotation, query: Tensor, key: Tensor) -> Tensor:
    return place.turn(query) @ place.turn(key).mT


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("heads", [1, HEADS])
def test_a_merged_token_has_the_mean_score_of_its_parts_places(half: bool, heads: int) -> None:
    torch.manual_seed(0)
    angles = torch.randn(heads, TOKENS - 1, WIDTH // 2).double()
    angles = torch.cat((angles, angles), -1) if half else angles.repeat_interleave(2, -1)
    table = torch.cat((angles.sin(), angles.cos()), -1)
    table = table[0] if heads == 1 else table
    state = merged_state()
    tokens = state.stream.shape[1]
    query, key = torch.randn(2, 2, HEADS, tokens, WIDTH).double()
    now = scores(Rotation.of(table, state, 1, half=half), query, key)
    for image in range(2):
        first = State(torch.zeros(1, TOKENS, 4))
        parts = [members(state, image, token) for token in range(tokens)]
        for i in range(tokens):
            for j in range(tokens):
                spread = torch.zeros(2, 1, HEADS, TOKENS, WIDTH).double()
                spread[0], spread[1] = query[image, :, i, None], key[image, :, j, None]
                every = scores(Rotation.of(table, first, 1, half=half), *spread)[0]
                mean = every[:, parts[i]][:, :, parts[j]].mean((1, 2))
                torch.testing.assert_close(now[image, :, i, j], mean)


def test_prefix_tokens_are_not_turned_and_rows_are_the_first_or_the_groups() -> None:
    torch.manual_seed(0)
    angles = torch.randn(TOKENS - 2, WIDTH // 2).double().repeat_interleave(2, -1)
    place = Rotation.of(
        torch.cat((angles.sin(), angles.cos()), -1),
        State(torch.zeros(2, TOKENS, 4)),
        2,
        half=False,
    )
    vectors = torch.randn(2, HEADS, TOKENS, WIDTH).double()
    turned = place.turn(vectors)
    assert torch.equal(turned[:, :, :2], vectors[:, :, :2])
    assert not torch.allclose(turned[:, :, 2:], vectors[:, :, 2:])
    torch.testing.assert_close(turned.norm(dim=-1), vectors.norm(dim=-1))
    assert torch.equal(place.turn(vectors[:, :, :3], 3), turned[:, :, :3])
    target = torch.tensor([[0, 1, 2, 2, 3, 3, 3]] * 2)
    sizes = torch.tensor([[1.0, 1, 2, 3]] * 2)
    groups = Assignment(target, 1 / sizes.gather(1, target).double(), sizes)
    rows = torch.randn(2, HEADS, 4, WIDTH).double()
    expected = place.turn(rows[:, :, target[0]])
    torch.testing.assert_close(place.turn(rows, groups)[:, :, 2], expected[:, :, 2:4].mean(2))
    torch.testing.assert_close(place.turn(rows, groups)[:, :, 3], expected[:, :, 4:].mean(2))


def test_a_bias_of_merged_tokens_is_the_mean_over_pairs_of_their_parts() -> None:
    torch.manual_seed(0)
    table = torch.randn(HEADS, TOKENS, TOKENS).double()
    state = merged_state()
    place = ScoreBias.of(table, state)
    now = place.bias(None)
    tokens = state.stream.shape[1]
    assert now.shape == (2, HEADS, tokens, tokens)
    for image in range(2):
        for i in range(tokens):
            for j in range(tokens):
                rows, columns = members(state, image, i), members(state, image, j)
                mean = table[:, rows][:, :, columns].mean((1, 2))
                torch.testing.assert_close(now[image, :, i, j], mean)
    assert torch.equal(place.bias(2), now[:, :, :2])
    whole = ScoreBias.of(table, State(torch.zeros(2, TOKENS, 4)))
    assert torch.equal(whole.bias(None), table)
    assert torch.equal(whole.bias(2)[0], table[:, :2])
    assert NO_PLACE.bias(None) is None


@pytest.mark.parametrize("kind", PLACED.values(), ids=PLACED)
@torch.no_grad()
def test_tokens_whose_places_add_the_same_may_be_one(kind: Kind) -> None:
    """All patches equal, and at places that add the same: one token for all does as well."""
    model, images = kind.build().double(), kind.images().double()
    adapter = adapter_of(model)
    layout = adapter.layout(model)
    for block in blocks_of(model):
        if (own := own_bias(block.attn)) is not None:
            for name, value in own.named_parameters():  # the same for all distances
                value.fill_(0.0 if name.endswith("weight") else 0.1)
    places = tuple(
        of[..., :1, :].expand_as(of) if adapter.place_argument == "rope" else of * 0 + 0.3
        for of in adapter.places(model, images)
    )
    stream = adapter.stem(model, images)
    stream[:, layout.protected :] = stream[:, layout.protected, None].clone()

    def behind(plan: str) -> State:
        route = Route.of(Plan.parse(plan), layout)
        return encode(adapter, blocks_of(model), route.steps, route.enter(adapter, stream, places))

    whole, merged = behind(""), behind("0~3 2~2 3=6 4=@3")
    copied = Route.of(Plan(), layout)
    assert merged.groups is not None
    rows = merged.stream.gather(1, merged.groups[..., None].expand(-1, -1, stream.shape[2]))
    # some norms are in single precision
    torch.testing.assert_close(rows, copied.leave(whole), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", PLACED.values(), ids=PLACED)
@torch.no_grad()
def test_places_count(kind: Kind) -> None:
    """A variant answers otherwise where it is told other places."""
    model, images = kind.build().double(), kind.images().double()
    adapter = adapter_of(model)
    if not adapter.places(model, images):
        pytest.skip("each block has its own table")
    apply_plan(model, "2<-1:map 0~2 4=6")
    stream = adapter.stem(model, images)
    blocks = list(model.get_submodule(adapter.containers(model)[0]).children())
    route = model.get_submodule(adapter.containers(model)[0]).route

    def behind(places: tuple[Tensor, ...]) -> Tensor:
        state = encode(adapter, blocks, route.steps, route.enter(adapter, stream, places))
        return adapter.head(model, route.leave(state))

    places = adapter.places(model, images)
    torch.testing.assert_close(behind(places), model(images), rtol=1e-9, atol=1e-9)
    assert not torch.allclose(behind(tuple(of.flip(-2) for of in places)), model(images))
