"""The vision encoders of vision-language models, with a classifier: Qwen3-VL's and DeepSeek's.

Patches alone, turned by rotary positions; the classifier pools them, behind the language model's
projector where the model keeps it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from timm.layers import AttentionRope
from timm.models.deepseek_vit import DeepseekVitBlock, DeepseekVitClassifier
from timm.models.qwen3_vit import Qwen3VitClassifier
from torch import Tensor, nn

from trex.models.adapter import first_tensor, image_channels
from trex.models.placed import EvaAdapter, block_children
from trex.plan import Layout


class QwenAdapter(EvaAdapter):
    """Qwen3-VL's vision encoders with a classifier: Eva's blocks, no class token."""

    family = "timm's Qwen3VitClassifier (qwen3*_vit_*)"

    def owns(self, model: nn.Module) -> bool:
        """Exactly timm's class."""
        return type(model) is Qwen3VitClassifier

    def trunk(self, model: nn.Module) -> Any:
        """`encoder`."""
        return cast(Any, model).encoder

    def containers(self, model: nn.Module) -> Sequence[str]:
        """In the encoder."""
        return ("encoder.blocks",)

    def layout(self, model: nn.Module) -> Layout:
        """Patches alone, all of which are pooled."""
        return Layout(
            stages=(0,) * len(self.trunk(model).blocks),
            tokens=self.trunk(model).patch_embed.num_patches,
            no_class_rows="the head pools the patches",
        )

    def class_tokens(self, model: nn.Module) -> int:
        """None."""
        return 0

    def head(self, model: nn.Module, stream: Tensor) -> Tensor:
        """The encoder's projector, where it has one, and the classifier."""
        trunk, parts = self.trunk(model), cast(Any, model)
        side = trunk.patch_embed.grid_size
        features = stream.reshape(stream.shape[0], *side, -1)
        if trunk.merger is not None:
            features = trunk.merger(features)
        return first_tensor(parts.forward_head(features))

    def _input_size(self, model: nn.Module) -> tuple[int, int, int]:
        stem = self.trunk(model).patch_embed
        return (image_channels(stem), *stem.img_size)


class DeepseekAdapter(QwenAdapter):
    """DeepSeek's vision encoder with a classifier: RMS norms, packed SwiGLU, no class token."""

    family = "timm's DeepseekVitClassifier (deepseek_vit_*)"
    _block_type = DeepseekVitBlock
    _block_children = block_children(AttentionRope)

    def owns(self, model: nn.Module) -> bool:
        """Exactly timm's class."""
        return type(model) is DeepseekVitClassifier

    def head(self, model: nn.Module, stream: Tensor) -> Tensor:
        """The encoder's norm, its projector where it has one, and the classifier."""
        trunk, parts = self.trunk(model), cast(Any, model)
        side = trunk.patch_embed.grid_size
        features = trunk.norm(stream).reshape(stream.shape[0], *side, -1)
        if trunk.aligner is not None:
            features = trunk.aligner(features)
        return first_tensor(parts.forward_head(features))
