"""timm's `MetaFormer` whose later stages attend: CAFormer. Its residuals are scaled.

Stages of convolutions or pooling are passed through. In the stages of attention all tokens of the
image attend to each other; no token is told its place.
"""

from __future__ import annotations

from typing import Any, Final, cast

import timm
from timm.layers import DropPath, Mlp
from timm.models.metaformer import Attention, MetaFormer, MetaFormerBlock, Scale
from torch import Tensor, nn

from trex.errors import ModelError
from trex.models.adapter import image_channels
from trex.models.grids import Children, GridAdapter
from trex.models.vit import NORMS

_CHILDREN: Final[Children] = {
    "norm1": NORMS,
    "token_mixer": (Attention,),
    "drop_path1": (nn.Identity, DropPath),
    "layer_scale1": (nn.Identity,),
    "res_scale1": (nn.Identity, Scale),
    "norm2": NORMS,
    "mlp": (Mlp,),
    "drop_path2": (nn.Identity, DropPath),
    "layer_scale2": (nn.Identity, Scale),
    "res_scale2": (nn.Identity, Scale),
}


class MetaformerAdapter(GridAdapter):
    """timm's `MetaFormer` with stages of attention."""

    family = "timm's MetaFormer with attention (caformer_*)"
    attention_child = "token_mixer"
    block_type = MetaFormerBlock
    block_children = _CHILDREN

    def owns(self, model: nn.Module) -> bool:
        """Exactly timm's class."""
        return type(model) is MetaFormer

    def check(self, model: nn.Module, name: str) -> None:
        """Some stage attends, and every block of those that do has the children listed above."""
        if not self._attending(model):
            raise ModelError(f"{name} has no attention", hint="choose a CAFormer, or price it")
        super().check(model, name)

    def attends(self, stage: nn.Module) -> bool:
        """Its first block mixes tokens by attention; a stage's first block never reuses."""
        return not cast(Any, stage).use_nchw

    def embedded(self, model: nn.Module, images: Tensor) -> Tensor:
        """The stem's convolution."""
        return cast(Tensor, cast(Any, model).stem(images))

    def downsampled(self, stage: nn.Module, stream: Tensor) -> Tensor:
        """Convolution; the width comes last where the blocks attend."""
        grid = cast(Tensor, cast(Any, stage).downsample(stream))
        return grid.movedim(1, -1) if self.attends(stage) else grid

    def left(self, stage: nn.Module, stream: Tensor) -> Tensor:
        """The channels come first again."""
        return stream.movedim(-1, 1)

    def residual(self, block: nn.Module, stream: Tensor) -> Tensor:
        """The stream, scaled."""
        return cast(Tensor, cast(Any, block).res_scale1(stream))

    def behind(self, block: nn.Module) -> tuple[str, ...]:
        """Scales, and all behind the attention."""
        return (
            "drop_path1", "res_scale1", "norm2", "mlp", "drop_path2", "layer_scale2", "res_scale2",
        )  # fmt: skip

    def after(self, block: nn.Module, stream: Tensor) -> Tensor:
        """The MLP and its scaled residual."""
        parts = cast(Any, block)
        branch = parts.layer_scale2(parts.drop_path2(parts.mlp(parts.norm2(stream))))
        return cast(Tensor, parts.res_scale2(stream) + branch)

    def input_size(self, model: nn.Module) -> tuple[int, int, int]:
        """What timm knows: convolutions take any size."""
        _, height, width = timm.data.resolve_model_data_config(model)["input_size"]
        return image_channels(model), height, width
