"""Swin's shifted windows, and what a fit makes of CAFormer's scaled residuals."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from small_fits import fit_losses
from tiny_models import (
    GRID_KINDS,
    Kind,
    blocks_of,
    copy_attention,
    logits_of,
    products_of,
    randomised,
    silence,
)
from torch import nn

from trex.errors import PlanError, SpaceError
from trex.models.registry import adapter_of, architecture_of
from trex.models.swin import ShiftedWindows
from trex.plan import Plan
from trex.reuse import apply_plan, remove_plan
from trex.reuse.route import Route, run_model
from trex.search.space import SearchSpace


def shifted(**kwargs: object) -> nn.Module:
    """Windows of 4 by 4 in grids of 14 by 14, filled up to 16 by 16, and of 7 by 7."""
    torch.manual_seed(0)
    model = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=56, depths=(4, 2), num_heads=(2, 4),
        embed_dim=32, window_size=4, num_classes=5, **kwargs,
    )  # fmt: skip
    return randomised(model).double()


def images(number: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(number, 3, 56, 56, generator=generator, dtype=torch.double)


@pytest.mark.parametrize("shift", [(0, 0), (2, 2), (1, 3)])
def test_windows_go_back_to_their_places(shift: tuple[int, int]) -> None:
    grid = torch.randn(2, 14, 10, 3)
    arrangement = ShiftedWindows((4, 4), shift)
    windows = arrangement.windows(grid)
    assert windows.shape == (2 * 4 * 3, 16, 3)
    assert torch.equal(arrangement.grid(windows, grid), grid)


@torch.no_grad()
def test_stepping_through_shifted_windows_is_calling() -> None:
    model = shifted()
    adapter = adapter_of(model)
    assert any(any(block.shift_size) for block in blocks_of(model))
    _, logits = run_model(model, adapter, Route.of(Plan(), adapter.layout(model)), images())
    torch.testing.assert_close(logits, logits_of(model, images()), rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_outputs_are_exchanged_across_shifts() -> None:
    """Encoder 3, without windows' shift, attends as encoder 2, which adds nothing itself."""
    model = shifted()
    blocks = blocks_of(model)
    silence(blocks[2])
    copy_attention(blocks[2], blocks[3], values=True)
    blocks[3].shift_size, blocks[3].attn_mask = blocks[2].shift_size, None
    expected = logits_of(model, images())
    apply_plan(model, "3<-2:output/none")
    torch.testing.assert_close(logits_of(model, images()), expected, rtol=1e-10, atol=1e-10)
    remove_plan(model)
    whole = logits_of(apply_plan(model, "1<-0 3<-2 5<-4"), images())
    assert whole.isfinite().all()
    assert not torch.allclose(whole, expected)


@pytest.mark.parametrize("plan", ["1<-0:map", "2<-0:map", "0=8 1=@0"])
def test_what_is_a_window_s_own_stays_there(plan: str) -> None:
    with pytest.raises(PlanError, match="shifts its windows") as caught:
        apply_plan(shifted(), plan)
    assert caught.value.hint


def test_rows_are_shared_in_shifted_windows_too() -> None:
    model = shifted()
    expected = logits_of(model, images())
    same = logits_of(apply_plan(model, "1=16 3=16"), images())
    torch.testing.assert_close(same, expected, rtol=1e-9, atol=1e-9)
    remove_plan(model)
    fewer = logits_of(apply_plan(model, "1=9 3=5"), images())
    assert fewer.isfinite().all()
    assert not torch.allclose(fewer, expected)


@torch.no_grad()
def test_swin_counts_agree_with_pytorch() -> None:
    model = shifted().float()
    found = architecture_of(model, "swin")
    assert found.macs == products_of(model, images().float()[:1])
    assert found.encoders[1].attention == (16, 2, 16, 16)


def test_a_space_leaves_maps_out_where_windows_shift() -> None:
    architecture = architecture_of(shifted().float(), "swin")
    with pytest.raises(SpaceError, match="cannot exchange maps"):
        SearchSpace.load("mixed", architecture)
    space = SearchSpace.load("joint", architecture)
    assert not space.groups
    assert any("shifts its windows" in reason for reason in space.left_out)


def test_merging_is_refused_with_the_reason() -> None:
    with pytest.raises(PlanError, match="keeps its tokens in grids"):
        apply_plan(shifted(), "1~2")


@pytest.mark.parametrize("kind", GRID_KINDS.values(), ids=GRID_KINDS)
def test_fits_beat_what_is_not_fitted(kind: Kind, tmp_path: Path) -> None:
    losses = fit_losses(kind, "3<-2", ["none", "linear", "linear_own"], tmp_path)
    assert losses["linear"] < losses["none"]
    assert losses["linear_own"] < losses["none"]
