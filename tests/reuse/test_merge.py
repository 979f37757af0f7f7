from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trex.reuse.merge import Assignment, copies_of_groups, match, mean_of_groups


def keys_of(*degrees: float) -> Tensor:
    """One image's keys as unit vectors of the plane, (1, N, 2), by their angles."""
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack((angles.cos(), angles.sin()), dim=-1)[None]


#: token 0 is the class token; the first set is 0, 2, 4, the second 1, 3, 5
SIX = keys_of(0, 90, 92, 180, 120, 10)


def test_a_matching_of_six_tokens_by_hand() -> None:
    """Token 2 is 2 degrees from token 1, token 4 is 30 from it; token 0, 10 from 5, is safe."""
    one = match(SIX, 1, protected=1, sizes_BN=None)
    # left of the first set: 0, 4; then the second set 1, 3, 5; 2 joins 1
    assert one.target.tolist() == [[0, 2, 2, 3, 1, 4]]
    assert one.sizes.tolist() == [[1, 1, 2, 1, 1]]
    two = match(SIX, 2, protected=1, sizes_BN=None)
    assert two.target.tolist() == [[0, 1, 1, 2, 1, 3]]
    assert two.sizes.tolist() == [[1, 3, 1, 1]]
    rows = torch.arange(6, dtype=torch.float64).reshape(1, 6, 1)
    torch.testing.assert_close(two.mean(rows).flatten(), rows.new_tensor([0, 7 / 3, 3, 5]))


def test_two_class_tokens_stay_in_front() -> None:
    """As for distilled models in ToMe: neither 0 nor 1 merges, nor is merged into."""
    merged = match(keys_of(0, 90, 91, 45, 46, 89, 1, 2), 2, protected=2, sizes_BN=None)
    # first set without 0: 2, 4, 6; second without 1: 3, 5, 7. 4 joins 3, 6 joins 7
    assert merged.target.tolist() == [[0, 1, 2, 3, 3, 4, 5, 5]]


def test_sizes_go_on_from_merge_to_merge() -> None:
    first = match(SIX, 1, protected=1, sizes_BN=None)
    second = match(first.mean(SIX), 2, protected=1, sizes_BN=first.sizes)
    assert second.sizes.sum() == 6
    groups = second.follow(first.follow(None))
    rows = torch.randn(1, 6, 3, dtype=torch.float64)
    torch.testing.assert_close(
        second.mean(first.mean(rows)), mean_of_groups(rows, groups, 3), rtol=1e-6, atol=1e-6
    )


def test_padding_merges_with_padding_and_never_counts() -> None:
    """Tokens 5 to 8 are padding; their keys are those of token 2 to tempt it."""
    keys = keys_of(0, 90, 40, 180, 120, 40, 40, 40, 40)
    sizes = torch.tensor([[1.0, 1, 1, 1, 1, 0, 0, 0, 0]])
    merged = match(keys, 2, protected=1, sizes_BN=sizes)
    words = {merged.target[0, i].item() for i in range(5)}
    padding = {merged.target[0, i].item() for i in range(5, 9)}
    assert not words & padding
    assert len(words) == 5
    rows = torch.cat((torch.ones(1, 5, 2), torch.zeros(1, 4, 2)), dim=1)
    assert merged.mean(rows).isfinite().all()
    # more pairs than padding has: words merge, and their sizes stay those of words
    more = match(keys, 4, protected=1, sizes_BN=sizes)
    assert more.sizes.sum() == 5


@st.composite
def matchings(draw: st.DrawFn) -> tuple[Tensor, int, int, Tensor | None]:
    tokens = draw(st.integers(4, 40))
    protected = draw(st.integers(0, 3))
    pairs = draw(st.integers(1, max(1, (tokens - protected) // 2)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    keys = torch.randn(2, tokens, 5, generator=generator, dtype=torch.float64)
    sizes = torch.randint(1, 5, (2, tokens), generator=generator).float()
    return (
        keys,
        min(pairs, (tokens - protected) // 2),
        protected,
        draw(st.sampled_from([None, sizes])),
    )


@settings(deadline=None)
@given(matchings())
def test_laws_of_merging(of: tuple[Tensor, int, int, Tensor | None]) -> None:
    keys, pairs, protected, sizes = of
    tokens = keys.shape[1]
    merged = match(keys, pairs, protected=protected, sizes_BN=sizes)
    matrix = torch.nn.functional.one_hot(merged.target, tokens - pairs).double().mT
    # every token has one place, every place a token, and the first stay where they are
    assert (matrix.sum(1) == 1).all()
    assert (matrix.sum(2) >= 1).all()
    assert (merged.target[:, :protected] == torch.arange(protected)).all()
    before = torch.ones(2, tokens) if sizes is None else sizes
    torch.testing.assert_close(
        merged.sizes.double(), (matrix @ before.double()[..., None])[..., 0]
    )
    # shares of one place add up to one
    torch.testing.assert_close(
        (matrix @ merged.share.double()[..., None])[..., 0],
        torch.ones(2, tokens - pairs, dtype=torch.float64), rtol=1e-5, atol=1e-5,
    )  # fmt: skip
    weighed = matrix * before.double()[:, None]
    weighed = weighed / weighed.sum(-1, keepdim=True)
    torch.testing.assert_close(merged.mean(keys), weighed @ keys, rtol=1e-5, atol=1e-5)
    maps = torch.rand(2, 3, tokens, tokens, dtype=torch.float64).softmax(-1)
    by_hand = weighed[:, None] @ maps @ matrix.mT[:, None]
    torch.testing.assert_close(merged.mean_map(maps), by_hand, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        merged.mean_map(maps).sum(-1), torch.ones(2, 3, tokens - pairs, dtype=torch.float64),
        rtol=1e-5, atol=1e-5,
    )  # fmt: skip


@settings(deadline=None)
@given(matchings())
def test_an_image_s_matching_is_its_own(of: tuple[Tensor, int, int, Tensor | None]) -> None:
    keys, pairs, protected, sizes = of
    both = match(keys, pairs, protected=protected, sizes_BN=sizes)
    for image in range(2):
        part = slice(image, image + 1)
        alone = match(
            keys[part],
            pairs,
            protected=protected,
            sizes_BN=None if sizes is None else sizes[part],
        )
        assert torch.equal(alone.target, both.target[part])


def test_copies_weigh_by_size() -> None:
    merged = match(SIX, 2, protected=1, sizes_BN=None)
    rows = torch.randn(1, 4, 3)
    copies = copies_of_groups(rows, merged.follow(None))
    weights = merged.sizes[..., None]
    torch.testing.assert_close(copies.mean(1), (rows * weights).sum(1) / weights.sum(1))
    torch.testing.assert_close(copies.amax(1), rows.amax(1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_sizes_exact(dtype: torch.dtype) -> None:
    keys = torch.randn(1, 800, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    sizes = torch.full((1, 800), 300.0)
    merged: Assignment = match(keys, 100, protected=1, sizes_BN=sizes)
    assert merged.sizes.dtype == torch.float32
    assert merged.sizes.sum() == 800 * 300
    assert merged.mean(keys).dtype == dtype


def test_no_gradient_passes_through_the_matching() -> None:
    keys = SIX.clone().requires_grad_()
    merged = match(keys, 2, protected=1, sizes_BN=None)
    rows = torch.randn(1, 6, 3, requires_grad=True)
    merged.mean(rows.double()).sum().backward()
    assert keys.grad is None
    assert rows.grad is not None
