"""Reuse on LV-ViT: a ViT whose branches are divided by `skip_lam` (models.lvvit)."""

from __future__ import annotations

from typing import Any, Final, cast

from timm.layers import Attention, DropPath, Mlp
from torch import Tensor, nn

from trex.models.adapter import (
    Consumer,
    ConsumerForm,
)
from trex.models.lvvit.layers import LVBlock
from trex.models.lvvit.model import LVViT
from trex.models.vit import VitAdapter, VitConsumer

_BLOCK_CHILDREN: Final[dict[str, tuple[type[nn.Module], ...]]] = {
    "norm1": (nn.LayerNorm,),
    "attn": (Attention,),
    "drop_path1": (nn.Identity, DropPath),
    "norm2": (nn.LayerNorm,),
    "mlp": (Mlp,),
    "drop_path2": (nn.Identity, DropPath),
}


class Divide(nn.Module):
    """Divides by a constant."""

    def __init__(self, divisor: float) -> None:
        super().__init__()
        self.divisor = divisor

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return x / self.divisor

    def extra_repr(self) -> str:
        """The constant."""
        return str(self.divisor)


class LvvitAdapter(VitAdapter):
    """LV-ViT T, S, M and L."""

    family = "LV-ViT (lvvit_t, lvvit_s, lvvit_m, lvvit_l)"
    classifies_patches = True
    _block_type = LVBlock
    _block_children = _BLOCK_CHILDREN

    def owns(self, model: nn.Module) -> bool:
        """TReX's own class."""
        return type(model) is LVViT

    def class_tokens(self, model: nn.Module) -> int:
        """One; the auxiliary head reads the patches beside it."""
        return 1

    def _reads_patches(self, model: nn.Module) -> str:
        return "LV-ViT's auxiliary head reads every patch"

    def token_outputs(self, model: nn.Module, stream: Tensor) -> tuple[Tensor, Tensor]:
        """The class token's classifier and the auxiliary one, behind the final norm."""
        lvvit = cast(LVViT, model)
        tokens_BND = lvvit.norm(stream)
        return lvvit.head(tokens_BND[:, 0]), lvvit.aux_head(tokens_BND[:, 1:])

    def stem(self, model: nn.Module, images: Tensor) -> Tensor:
        """Convolutional stem, class token, positions."""
        lvvit = cast(LVViT, model)
        return lvvit.embed_tokens(lvvit.patch_embed(images))

    def branch(self, block: nn.Module, output: Tensor) -> Tensor:
        """Projection, division by `skip_lam`."""
        parts = cast(Any, block)
        branch = parts.drop_path1(parts.attn.proj_drop(parts.attn.proj(output)))
        return cast(Tensor, branch / parts.skip_lam)

    def after(self, block: nn.Module, stream: Tensor) -> Tensor:
        """The MLP, divided by `skip_lam`, and its residual."""
        parts = cast(Any, block)
        branch = parts.drop_path2(parts.mlp(parts.norm2(stream)))
        return stream + cast(Tensor, branch / parts.skip_lam)

    def make_consumer(self, block: nn.Module, form: ConsumerForm) -> Consumer:
        """The attention branch's `skip_lam` is folded into the consumer's projection."""
        skip_lam = cast(LVBlock, block).skip_lam
        return VitConsumer(
            block,
            form,
            scale_D=1.0 / skip_lam,
            mlp_scale=Divide(skip_lam),
        )
