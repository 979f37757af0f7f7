from __future__ import annotations

import pytest
import torch
from torch import nn

from trex.reuse import TransformationBlock
from trex.reuse.transforms import make_transform


def test_a_fresh_block_nearly_passes_the_normalised_tensor_on() -> None:
    x = 3 * torch.randn(100, 48, generator=torch.Generator().manual_seed(0)) + 5
    normalised = nn.functional.layer_norm(x, (48,))
    passed = TransformationBlock(48)(x)
    centred = passed - passed.mean()
    correlation = torch.corrcoef(torch.stack((centred.flatten(), normalised.flatten())))[0, 1]
    assert correlation > 0.97


def test_a_block_is_the_papers_norm_matrix_and_gelu() -> None:
    block = TransformationBlock(8)
    nn.init.normal_(block.linear.weight)
    x = torch.randn(3, 8)
    expected = nn.functional.gelu(
        nn.functional.layer_norm(x, (8,), eps=1e-6) @ block.linear.weight.T + block.linear.bias
    )
    torch.testing.assert_close(block(x), expected)
    assert sum(p.numel() for p in block.parameters()) == 8 * 8 + 8 + 2 * 8


@pytest.mark.parametrize("transform", ["none", "linear", "linear_own"])
def test_foldable_transforms_have_no_parameters(transform) -> None:
    made = make_transform(transform, nn.Linear(8, 8))
    assert list(made.parameters()) == []
    assert torch.equal(made(torch.ones(2, 8)), torch.ones(2, 8))


def test_a_block_is_as_wide_as_the_projection_and_of_its_type() -> None:
    block = make_transform("block", nn.Linear(6, 9, dtype=torch.float64))
    assert block(torch.ones(2, 6, dtype=torch.float64)).shape == (2, 6)
