"""timm's `SwinTransformer`: attention in windows that every other encoder shifts.

Outputs are exchanged as grids, across shifts too. Maps are of a window's own tokens: encoders
exchange them only in models none of whose encoders shifts, which are those of one window a stage.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final, cast

import timm
import torch.nn.functional as F
from timm.layers import DropPath, Mlp
from timm.models.swin_transformer import (
    SwinTransformer,
    SwinTransformerBlock,
    WindowAttention,
    window_partition,
    window_reverse,
)
from torch import Tensor, nn

from trex.errors import ModelError
from trex.models.adapter import image_channels
from trex.models.grids import ATTENTION_CHILDREN, Arrangement, Children, GridAdapter
from trex.models.vit import NORMS
from trex.plan import Layout

_CHILDREN: Final[Children] = {
    "norm1": NORMS,
    "attn": (WindowAttention,),
    "drop_path1": (nn.Identity, DropPath),
    "norm2": NORMS,
    "mlp": (Mlp,),
    "drop_path2": (nn.Identity, DropPath),
}
_ATTENTION: Final[Children] = {**ATTENTION_CHILDREN, "softmax": (nn.Softmax,)}


class ShiftedWindows(Arrangement):
    """Windows of a grid that is rolled by `shift` and filled up to whole windows."""

    def __init__(self, size: tuple[int, int], shift: tuple[int, int]) -> None:
        self.size, self.shift = size, shift

    def windows(self, grid: Tensor) -> Tensor:
        """(B, H, W, D) to (B·V, n, D)."""
        height, width = grid.shape[1:3]
        if any(self.shift):
            grid = grid.roll((-self.shift[0], -self.shift[1]), dims=(1, 2))
        below, beside = -height % self.size[0], -width % self.size[1]
        grid = F.pad(grid, (0, 0, 0, beside, 0, below))
        return cast(Tensor, window_partition(grid, self.size)).flatten(1, 2)

    def grid(self, windows: Tensor, like: Tensor) -> Tensor:
        """(B·V, n, D) to (B, H, W, D)."""
        height, width = like.shape[1:3]
        whole = (height + -height % self.size[0], width + -width % self.size[1])
        grid = window_reverse(
            windows.reshape(-1, *self.size, windows.shape[-1]), self.size, *whole
        )
        grid = grid[:, :height, :width]
        return cast(Tensor, grid.roll(self.shift, dims=(1, 2)) if any(self.shift) else grid)


class SwinAdapter(GridAdapter):
    """timm's `SwinTransformer`, version 1."""

    family = "timm's SwinTransformer (swin_*)"
    stage_list = "layers"
    block_type = SwinTransformerBlock
    block_children = _CHILDREN
    attention_children = _ATTENTION

    def owns(self, model: nn.Module) -> bool:
        """Exactly timm's class."""
        return type(model) is SwinTransformer

    def check(self, model: nn.Module, name: str) -> None:
        """Plain blocks, whose masks are of one image size."""
        super().check(model, name)
        if any(cast(Any, block).dynamic_mask for block in self._blocks(model)):
            raise ModelError(
                f"{name} makes its masks anew for every image size",
                hint="build it with dynamic_mask=False, for one size",
            )

    def attends(self, stage: nn.Module) -> bool:
        """All stages do."""
        return True

    def layout(self, model: nn.Module) -> Layout:
        """As of all grids; shifted windows hold other tokens."""
        shifted = any(any(cast(Any, block).shift_size) for block in self._blocks(model))
        reason = f"every other encoder of {type(model).__name__} shifts its windows"
        return replace(super().layout(model), no_maps=reason if shifted else "")

    def window_tokens(self, block: nn.Module) -> int:
        """Windows are filled up to whole ones."""
        return int(cast(Any, block).window_area)

    def classified(self, model: nn.Module, stream: Tensor) -> Tensor:
        """Norm, pooling, classifier."""
        swin = cast(Any, model)
        return cast(Tensor, swin.forward_head(swin.norm(stream)))

    def arrangement(self, block: nn.Module) -> Arrangement:
        """The block's windows."""
        parts = cast(Any, block)
        return ShiftedWindows(parts.window_size, parts.shift_size)

    def bias(self, block: nn.Module, stream: Tensor) -> Tensor:
        """Of relative positions; what came from the other side of the image is masked."""
        parts = cast(Any, block)
        bias_HNN = parts.attn._get_rel_pos_bias()
        mask_VNN = parts.attn_mask
        if mask_VNN is None:
            return cast(Tensor, bias_HNN)
        every = bias_HNN + mask_VNN[:, None]
        return cast(Tensor, every.expand(stream.shape[0], *every.shape).flatten(0, 1))

    def input_size(self, model: nn.Module) -> tuple[int, int, int]:
        """What the model was built for."""
        stem = cast(Any, model).patch_embed
        known = timm.data.resolve_model_data_config(model)["input_size"][1:]
        height, width = stem.img_size or known
        return (image_channels(stem), height, width)
