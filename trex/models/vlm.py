"""Vision encoders of vision-language models, with a classifier or bare: Qwen3-VL's, DeepSeek's.

Patches alone, turned by rotary positions. A classifier pools them, behind the language model's
projector where the model keeps it; a bare encoder puts out what the projector makes of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from timm.layers import AttentionRope
from timm.models.deepseek_vit import (
    DeepseekVitBlock,
    DeepseekVitClassifier,
    DeepseekVitEncoder,
)
from timm.models.qwen3_vit import Qwen3VitClassifier, Qwen3VitEncoder
from torch import Tensor, nn

from trex.models.adapter import image_channels
from trex.models.answers import first_tensor
from trex.models.placed import EvaAdapter, block_children
from trex.plan import Layout


class QwenAdapter(EvaAdapter):
    """Qwen3-VL's vision encoders: Eva's blocks, no class token."""

    family = "timm's Qwen3VitClassifier and Qwen3VitEncoder (qwen3*_vit_*)"
    _classes: tuple[type[nn.Module], type[nn.Module]] = (Qwen3VitClassifier, Qwen3VitEncoder)
    _projector = "merger"

    def owns(self, model: nn.Module) -> bool:
        """Exactly timm's classes."""
        return type(model) in self._classes

    def trunk(self, model: nn.Module) -> Any:
        """A classifier's `encoder`; an encoder is its own."""
        return cast(Any, model).encoder if type(model) is self._classes[0] else model

    def containers(self, model: nn.Module) -> Sequence[str]:
        """In the encoder."""
        return ("encoder.blocks" if type(model) is self._classes[0] else "blocks",)

    def layout(self, model: nn.Module) -> Layout:
        """Patches alone, all of which are pooled or put out."""
        return Layout(
            stages=(0,) * len(self.trunk(model).blocks),
            tokens=self.trunk(model).patch_embed.num_patches,
            no_class_rows="the head pools the patches",
        )

    def class_tokens(self, model: nn.Module) -> int:
        """None."""
        return 0

    def head(self, model: nn.Module, stream: Tensor) -> Tensor:
        """The encoder's projector, where it has one, and the classifier, where there is one."""
        trunk, parts = self.trunk(model), cast(Any, model)
        side = trunk.patch_embed.grid_size
        features = self._normed(trunk, stream).reshape(stream.shape[0], *side, -1)
        projector = getattr(trunk, self._projector)
        if projector is not None:
            features = projector(features)
        if type(model) is self._classes[0]:
            return first_tensor(parts.forward_head(features))
        if projector is None and trunk.global_pool == "avg":
            features = features.mean(dim=(1, 2))
        return first_tensor(features)

    def _normed(self, trunk: Any, stream: Tensor) -> Tensor:
        """Behind the last block."""
        return stream

    def _input_size(self, model: nn.Module) -> tuple[int, int, int]:
        stem = self.trunk(model).patch_embed
        return (image_channels(stem), *stem.img_size)


class DeepseekAdapter(QwenAdapter):
    """DeepSeek's vision encoder: RMS norms, packed SwiGLU, no class token."""

    family = "timm's DeepseekVitClassifier and DeepseekVitEncoder (deepseek_vit_*)"
    _classes = (DeepseekVitClassifier, DeepseekVitEncoder)
    _projector = "aligner"
    _block_type = DeepseekVitBlock
    _block_children = block_children(AttentionRope)

    def _normed(self, trunk: Any, stream: Tensor) -> Tensor:
        """The encoder's norm."""
        return cast(Tensor, trunk.norm(stream))
