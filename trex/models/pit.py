"""timm's `PoolingVisionTransformer`: plain ViT blocks in stages, convolutions pool in between.

A stage's stream holds the class tokens, one or two, in front of a square of patches.
"""

from __future__ import annotations

from dataclasses import replace
from math import isqrt
from typing import Any, Final, cast

import torch
from timm.layers import Attention, DropPath, Mlp
from timm.models.pit import PoolingVisionTransformer
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from trex.errors import ModelError
from trex.models.adapter import image_channels
from trex.models.answers import first_tensor
from trex.models.grids import ATTENTION_CHILDREN, Children, GridAdapter
from trex.models.vit import NORMS
from trex.plan import Layout

_CHILDREN: Final[Children] = {
    "norm1": NORMS,
    "attn": (Attention,),
    "ls1": (nn.Identity,),
    "drop_path1": (nn.Identity, DropPath),
    "norm2": NORMS,
    "mlp": (Mlp,),
    "ls2": (nn.Identity,),
    "drop_path2": (nn.Identity, DropPath),
}
_ATTENTION: Final[Children] = {
    **ATTENTION_CHILDREN,
    **dict.fromkeys(("q_norm", "k_norm", "norm"), (nn.Identity,)),
}


class PitAdapter(GridAdapter):
    """timm's `PoolingVisionTransformer`, and its distilled kin."""

    family = "timm's PoolingVisionTransformer (pit_*)"
    stage_list = "transformers"
    block_type = Block
    block_children = _CHILDREN
    attention_children = _ATTENTION

    def owns(self, model: nn.Module) -> bool:
        """Exactly timm's class."""
        return type(model) is PoolingVisionTransformer

    def check(self, model: nn.Module, name: str) -> None:
        """Every block must be a plain one, and the images square."""
        height, width = cast(Any, model).patch_embed.grid_size
        if height != width:
            raise ModelError(
                f"{name} has a grid of {height} by {width} patches, which its stages cut anew",
                hint="build it for square images",
            )
        super().check(model, name)

    def attends(self, stage: nn.Module) -> bool:
        """All stages do."""
        return True

    def layout(self, model: nn.Module) -> Layout:
        """As of all grids; class tokens keep rows of their own."""
        kind, prefix = type(model).__name__, self.class_tokens(model)
        side, windows = cast(Any, model).patch_embed.height, []
        for stage in self._stages(model):
            if stage.pool is not None:
                convolution = stage.pool.conv
                around = 2 * convolution.padding[0] - convolution.kernel_size[0]
                side = (side + around) // convolution.stride[0] + 1
            windows += [side * side + prefix] * len(stage.blocks)
        return replace(
            super().layout(model),
            windows=tuple(windows),
            protected=prefix,
            class_tokens=prefix,
            no_class_rows=f"stages of {kind} have unlike tokens, of which none are left out",
            no_map_rows=f"stages of {kind} have unlike tokens, of which no averages are kept",
        )

    def class_tokens(self, model: nn.Module) -> int:
        """One, two of distilled models."""
        return int(cast(Any, model).cls_token.shape[1])

    def embedded(self, model: nn.Module, images: Tensor) -> Tensor:
        """Class tokens, and patches with their positions."""
        pit = cast(Any, model)
        patches = pit.pos_drop(pit.patch_embed(images) + pit.pos_embed)
        return _tokens(patches, pit.cls_token.expand(patches.shape[0], -1, -1))

    def downsampled(self, stage: nn.Module, stream: Tensor) -> Tensor:
        """Pooled, normalised."""
        parts = cast(Any, stage)
        if parts.pool is not None:
            stream = _tokens(*parts.pool(*_apart(stream)))
        return cast(Tensor, parts.norm(stream))

    def classified(self, model: nn.Module, stream: Tensor) -> Tensor:
        """Norm and classifiers of the class tokens."""
        pit = cast(Any, model)
        tokens = pit.norm(stream[:, : self.class_tokens(model)])
        return first_tensor(pit.forward_head(tokens))

    def token_weights(self, model: nn.Module, stream: Tensor, class_weight: float) -> Tensor:
        """`class_weight` for the class tokens, one for the others."""
        weights = torch.ones(stream.shape[:2], device=stream.device)
        weights[:, : self.class_tokens(model)] = class_weight
        return weights

    def input_size(self, model: nn.Module) -> tuple[int, int, int]:
        """What the model was built for."""
        stem = cast(Any, model).patch_embed
        return (image_channels(stem), *stem.img_size)


def _tokens(patches_BDHW: Tensor, class_tokens_BND: Tensor) -> Tensor:
    return torch.cat((class_tokens_BND, patches_BDHW.flatten(2).mT), dim=1)


def _apart(stream_BND: Tensor) -> tuple[Tensor, Tensor]:
    """Patches (B, D, H, W) and the class tokens in front of them: what is beyond a square."""
    side = isqrt(stream_BND.shape[1] - 1)
    prefix = stream_BND.shape[1] - side * side
    patches = stream_BND[:, prefix:].mT
    return patches.unflatten(2, (side, side)), stream_BND[:, :prefix]  # type: ignore[no-untyped-call]
