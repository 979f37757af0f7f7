"""timm's `VOLO`: behind outlookers, stages of plain attention over all of a grid's tokens.

The outlookers, whose weights are no maps of tokens, are passed through; so is the class attention
behind the last stage, which belongs to the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, cast

import timm
from timm.layers import DropPath, Mlp
from timm.models.volo import VOLO, Attention, Transformer
from torch import Tensor, nn

from trex.models.adapter import image_channels
from trex.models.grids import Children, GridAdapter
from trex.models.vit import NORMS
from trex.plan import Layout

_CHILDREN: Final[Children] = {
    "norm1": NORMS,
    "attn": (Attention,),
    "drop_path1": (nn.Identity, DropPath),
    "norm2": NORMS,
    "mlp": (Mlp,),
    "drop_path2": (nn.Identity, DropPath),
}
#: the part of the network in front of which positions are added
_PLACED: Final = 2


class VoloAdapter(GridAdapter):
    """timm's `VOLO`."""

    family = "timm's VOLO (volo_*)"
    stage_list = "network"
    block_list = ""
    block_type = Transformer
    block_children = _CHILDREN

    def owns(self, model: nn.Module) -> bool:
        """Exactly timm's class."""
        return type(model) is VOLO

    def layout(self, model: nn.Module) -> Layout:
        """As of all grids; no stage behind the first halves its own."""
        found, volo = super().layout(model), cast(Any, model)
        behind = list(volo.network)[_PLACED:]
        if volo.pos_embed is None or not all(isinstance(part, nn.Sequential) for part in behind):
            return found
        tokens = int(volo.pos_embed.shape[1] * volo.pos_embed.shape[2])
        return replace(found, windows=(tokens,) * len(found.stages))

    def blocks_in(self, stage: nn.Module) -> Sequence[nn.Module]:
        """Of a stage; what halves the grid has none."""
        return tuple(stage.children()) if isinstance(stage, nn.Sequential) else ()

    def attends(self, stage: nn.Module) -> bool:
        """Its first block is a transformer, no outlooker; a stage's first block never reuses."""
        return type(self.blocks_in(stage)[0]) is Transformer

    def embedded(self, model: nn.Module, images: Tensor) -> Tensor:
        """Patches, their width last."""
        return cast(Tensor, cast(Any, model).patch_embed(images)).movedim(1, -1)

    def classified(self, model: nn.Module, stream: Tensor) -> Tensor:
        """Class attention, norm, and two classifiers."""
        volo = cast(Any, model)
        tokens = stream.flatten(1, 2)
        if volo.post_network is not None:
            tokens = volo.forward_cls(tokens)
        return cast(Tensor, volo.forward_head(volo.norm(tokens)))

    def _to_next_encoder(self, model: nn.Module, stream: Tensor, first: int) -> Tensor:
        volo, attending = cast(Any, model), self._attending(model)
        for i, part in enumerate(volo.network):
            if i < first:
                continue
            if i == _PLACED and volo.pos_embed is not None:
                stream = volo.pos_drop(stream + volo.pos_embed)
            if i in attending:
                break
            stream = part(stream)
        return stream

    def input_size(self, model: nn.Module) -> tuple[int, int, int]:
        """What its positions are of."""
        volo = cast(Any, model)
        _, *known = timm.data.resolve_model_data_config(model)["input_size"]
        if volo.pos_embed is not None:
            stride = volo.feature_info[-1]["reduction"]
            known = [side * stride for side in volo.pos_embed.shape[1:3]]
        return (image_channels(model), known[0], known[1])
