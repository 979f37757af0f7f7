"""timm's `NaFlexVit` on images of one size: the plain ViT's blocks behind a stem for any grid.

Plans do not run on batches of images of many sizes, which it takes as dictionaries of patches.
"""

from __future__ import annotations

from typing import Any, cast

import timm
from timm.models.naflexvit import NaFlexVit
from torch import Tensor, nn

from trex.errors import ModelError
from trex.models.adapter import image_channels, stages_of
from trex.models.vit import VitAdapter
from trex.plan import Layout


class NaflexAdapter(VitAdapter):
    """timm's `NaFlexVit` of plain pre-norm blocks; its patches know their places by themselves."""

    family = "timm's NaFlexVit (naflexvit_*)"
    one_by_one = True

    def owns(self, model: nn.Module) -> bool:
        """Exactly timm's class."""
        return type(model) is NaFlexVit

    def check(self, model: nn.Module, name: str) -> None:
        """As of a ViT; no rotary positions, and no patches that are dropped at random."""
        super().check(model, name)
        parts = cast(Any, model)
        if parts.rope is not None:
            raise ModelError(
                f"{name} turns queries and keys by rotary positions of each image's own grid",
                hint="choose a NaFlexVit without rope, or a ViT of timm's Eva",
            )
        if parts.patch_drop is not None:
            raise ModelError(
                f"{name} drops patches at random, which plans cannot follow",
                hint="build it with patch_drop_rate=0",
            )

    def layout(self, model: nn.Module) -> Layout:
        """As of a ViT, at the size that timm knows for it: it takes any."""
        naflex = cast(Any, model)
        _, height, width = self._input_size(model)
        rows, columns = naflex.embeds.patch_size
        refusal = self._reads_patches(model)
        return Layout(
            stages=stages_of(model, self.containers(model)),
            tokens=(height // rows) * (width // columns) + naflex.num_prefix_tokens,
            protected=naflex.num_prefix_tokens,
            class_tokens=self.class_tokens(model),
            class_rows=0 if refusal else self.class_tokens(model),
            no_class_rows=refusal,
        )

    def stem(self, model: nn.Module, images: Tensor) -> Tensor:
        """Patches, tokens and positions."""
        return cast(Tensor, cast(Any, model)._forward_embeds(images, None, None, None)["patches"])

    def _input_size(self, model: nn.Module) -> tuple[int, int, int]:
        stem = cast(Any, model).embeds
        _, height, width = timm.data.resolve_model_data_config(model)["input_size"]
        channels = stem.in_chans if stem.is_linear else image_channels(stem)
        return (channels, height, width)
