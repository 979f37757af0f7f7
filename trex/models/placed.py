"""timm's ViTs whose blocks are told where the tokens are: rotary positions and bias tables.

`Eva` (EVA-01, EVA-02, DINOv3, Perception Encoder, RoPE-ViT, Sapiens2), `Beit` and
`VisionTransformerRelPos`. What merged tokens and shared rows mean there is in
models.places. Their forwards call the blocks one by one; `place_argument` is what they hand over.

Shape legend: B images, N tokens, D width, H heads, E width of a head.
"""

from __future__ import annotations

from typing import Any, Final, cast

import torch
from timm.layers import AttentionRope, DropPath
from timm.models.beit import Attention as BeitAttention
from timm.models.beit import Beit
from timm.models.beit import Block as BeitBlock
from timm.models.eva import Eva, EvaAttention, EvaBlock
from timm.models.vision_transformer import LayerScale
from timm.models.vision_transformer_relpos import (
    RelPosAttention,
    RelPosBlock,
    VisionTransformerRelPos,
)
from torch import Tensor, nn

from trex.errors import ModelError
from trex.models.adapter import (
    Consumer,
    ConsumerForm,
    ProductsAt,
    Tokens,
)
from trex.models.blocks import Placing
from trex.models.places import NO_PLACE, Place, Rotation, ScoreBias
from trex.models.vit import ATTENTION_CHILDREN, MLPS, NORMS, VitAdapter, VitConsumer

_QKV: Final = ("q_proj", "k_proj", "v_proj")
_BEIT_CHILDREN: Final = {
    name: types for name, types in ATTENTION_CHILDREN.items() if "norm" not in name
}
_RELPOS_CHILDREN: Final = {
    name: types for name, types in ATTENTION_CHILDREN.items() if name != "norm"
}


def block_children(
    *attentions: type[nn.Module], scales: bool = False
) -> dict[str, tuple[type[nn.Module], ...]]:
    """A pre-norm block's children, with these attentions; `scales` of modules of their own."""
    scale = {name: (nn.Identity, LayerScale) for name in ("ls1", "ls2") if scales}
    return {
        "norm1": NORMS,
        "attn": attentions,
        "drop_path1": (nn.Identity, DropPath),
        "norm2": NORMS,
        "mlp": MLPS,
        "drop_path2": (nn.Identity, DropPath),
        **scale,
    }


class Scale(nn.Module):
    """LayerScale by a block's own parameter."""

    def __init__(self, gamma: nn.Parameter) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) to (…, D)."""
        return x * self.gamma


class RelativeBias(nn.Module):
    """BEiT's bias table of relative positions, which it shares with the attention it is of."""

    relative_position_index: Tensor

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.relative_position_bias_table = attention.relative_position_bias_table
        index = attention.relative_position_index
        self.register_buffer("relative_position_index", index, persistent=False)

    def forward(self) -> Tensor:
        """(1, H, N, N)."""
        return table_of(self.relative_position_bias_table, self.relative_position_index)


def table_of(table: Tensor, index: Tensor) -> Tensor:
    """A bias for every pair of tokens, (1, H, N, N), from one for every distance."""
    return table[index.view(-1)].view(*index.shape, -1).permute(2, 0, 1).contiguous()[None]


class RotaryConsumer(VitConsumer):
    """A consumer whose own rows are turned."""

    def __init__(self, block: Any, form: ConsumerForm, **scales: Any) -> None:
        super().__init__(block, form, placed=True, **scales)
        self._prefix: int = block.attn.num_prefix_tokens
        self._half = bool(getattr(block.attn, "rotate_half", False))

    def place(self, tokens: Tokens) -> Place:
        """Rotations of class tokens and keys."""
        if tokens.place is None or not self.attn.own_rows:
            return NO_PLACE
        return Rotation.of(tokens.place, tokens, self._prefix, half=self._half)


class BiasedConsumer(VitConsumer):
    """A consumer to whose own rows' scores a bias is added; it keeps the table if it has any."""

    def __init__(self, block: Any, form: ConsumerForm, **scales: Any) -> None:
        super().__init__(block, form, placed=True, **scales)
        self.own_bias = own_bias(block.attn) if form.own_rows else None

    def place(self, tokens: Tokens) -> Place:
        """The bias of class tokens."""
        own = None if self.own_bias is None else self.own_bias()
        return _score_bias(own, tokens) if self.attn.own_rows else NO_PLACE


class _TableOf(nn.Module):
    """A module of timm's that makes a bias, asked for it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self) -> Tensor:
        """(1, H, N, N)."""
        return cast(Tensor, cast(Any, self.module).get_bias())


def own_bias(attention: Any) -> nn.Module | None:
    """What makes an attention's own bias; None where all share the model's, or there is none."""
    if getattr(attention, "relative_position_bias_table", None) is not None:
        return RelativeBias(attention)
    module = getattr(attention, "rel_pos", None)
    return None if module is None else _TableOf(module)


def _score_bias(own: Tensor | None, tokens: Tokens) -> Place:
    tables = [table for table in (own, tokens.place) if table is not None]
    if not tables:
        return NO_PLACE
    return ScoreBias.of(tables[0] if len(tables) == 1 else tables[0] + tables[1], tokens)


class PlacedAdapter(VitAdapter):
    """What these families have in common; blocks scale their branches by `gamma_1`, `gamma_2`."""

    no_products = "an encoder that is told its tokens' places"
    _consumer: type[VitConsumer]

    def trunk(self, model: nn.Module) -> Any:
        """The part with patch embedding and blocks."""
        return model

    def branch(self, block: nn.Module, output: Tensor) -> Tensor:
        """Projection, scale."""
        parts = cast(Any, block)
        return cast(
            Tensor,
            parts.drop_path1(_scaled(parts, 1, parts.attn.proj_drop(parts.attn.proj(output)))),
        )

    def after(self, block: nn.Module, stream: Tensor) -> Tensor:
        """The MLP and its residual."""
        parts = cast(Any, block)
        branch = _scaled(parts, 2, parts.mlp(parts.norm2(stream)))
        return stream + cast(Tensor, parts.drop_path2(branch))

    def products(self, block: nn.Module) -> ProductsAt | None:
        """None that can be replaced."""
        return None

    def make_consumer(self, block: nn.Module, form: ConsumerForm) -> Consumer:
        """The scale of the attention branch is folded into the consumer's projection."""
        first, second = (_scale_of(block, branch) for branch in (1, 2))
        return self._consumer(
            block,
            form,
            scale_D=1.0 if first is None else first,
            mlp_scale=nn.Identity() if second is None else Scale(second),
        )


def _scale_of(block: Any, branch: int) -> nn.Parameter | None:
    module = getattr(block, f"ls{branch}", None)
    if isinstance(module, LayerScale):
        return cast(nn.Parameter, module.gamma)
    return cast("nn.Parameter | None", getattr(block, f"gamma_{branch}", None))


def _scaled(block: Any, branch: int, values: Tensor) -> Tensor:
    scale = _scale_of(block, branch)
    return values if scale is None else values * scale


class EvaAdapter(PlacedAdapter):
    """timm's `Eva`: queries and keys are turned by rotary positions, where it has them."""

    family = "timm's Eva (eva*, vit_*_dinov3, vit_pe_*, vit_*_rope_*, *_sapiens2)"
    place_argument = "rope"
    _block_type = EvaBlock
    _block_children = block_children(EvaAttention, AttentionRope)
    _consumer = RotaryConsumer

    def owns(self, model: nn.Module) -> bool:
        """Exactly timm's class."""
        return type(model) is Eva

    def check(self, model: nn.Module, name: str) -> None:
        """As of a ViT; patches that are dropped at random would take their places with them."""
        super().check(model, name)
        if getattr(self.trunk(model), "patch_drop", None) is not None:
            raise ModelError(
                f"{name} drops patches at random, which plans cannot follow",
                hint="build it with patch_drop_rate=0",
            )

    def _children_of(self, attention: nn.Module) -> dict[str, tuple[type[nn.Module], ...]]:
        if getattr(attention, "qkv", None) is not None:
            return ATTENTION_CHILDREN
        apart = {name: (nn.Linear,) for name in _QKV}
        others = {name: types for name, types in ATTENTION_CHILDREN.items() if name != "qkv"}
        return {**apart, **others}

    def stem(self, model: nn.Module, images: Tensor) -> Tensor:
        """Patches, tokens and absolute positions."""
        return self._embedded(model, images)[0]

    def places(self, model: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
        """Sines and cosines of all patches, for all encoders or for each; of one image."""
        trunk = self.trunk(model)
        if trunk.rope is None:
            return ()
        table = self._embedded(model, images[:1])[1]
        assert table is not None
        return tuple(table.unbind(0)) if getattr(trunk, "rope_mixed", False) else (table,)

    def _embedded(self, model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor | None]:
        eva = self.trunk(model)
        stream, table = eva._pos_embed(eva.patch_embed(images))
        return (eva.norm_pre(stream) if hasattr(eva, "norm_pre") else stream), table

    def _place(self, attention: nn.Module, tokens: Tokens | None) -> Place:
        if tokens is None or tokens.place is None:
            return NO_PLACE
        parts = cast(Any, attention)
        half = bool(getattr(parts, "rotate_half", False))
        return Rotation.of(tokens.place, tokens, parts.num_prefix_tokens, half=half)

    def _placing(self, model: nn.Module, block: nn.Module) -> Placing:
        trunk = self.trunk(model)
        if trunk.rope is None:
            return ""
        return "turned by head" if getattr(trunk, "rope_mixed", False) else "turned"


class BeitAdapter(PlacedAdapter):
    """timm's `Beit`: a bias table of relative positions, of each block or of all."""

    family = "timm's Beit (beit_*, beitv2_*)"
    place_argument = "shared_rel_pos_bias"
    _block_type = BeitBlock
    _block_children = block_children(BeitAttention)
    _attention_children = _BEIT_CHILDREN
    _consumer = BiasedConsumer

    def owns(self, model: nn.Module) -> bool:
        """Exactly timm's class."""
        return type(model) is Beit

    def stem(self, model: nn.Module, images: Tensor) -> Tensor:
        """Patches, class token, absolute positions where it has them."""
        beit = cast(Any, model)
        patches = beit.patch_embed(images)
        tokens = torch.cat((beit.cls_token.expand(patches.shape[0], -1, -1), patches), dim=1)
        if beit.pos_embed is not None:
            tokens = tokens + beit.pos_embed
        return cast(Tensor, beit.pos_drop(tokens))

    def places(self, model: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
        """The bias that all blocks share, (H, N, N), where there is one."""
        shared = cast(Any, model).rel_pos_bias
        return () if shared is None else (shared(),)

    def _place(self, attention: nn.Module, tokens: Tokens | None) -> Place:
        assert tokens is not None, "a bias is of tokens"
        own = own_bias(attention)
        return _score_bias(None if own is None else own(), tokens)

    def _placing(self, model: nn.Module, block: nn.Module) -> Placing:
        shared = getattr(model, "rel_pos_bias", getattr(model, "shared_rel_pos", None))
        own = own_bias(cast(Any, block).attn)
        return "" if shared is None and own is None else "biased"


class RelPosAdapter(BeitAdapter):
    """timm's `VisionTransformerRelPos`: a bias by a table or an MLP, of each block or of all."""

    family = "timm's VisionTransformerRelPos (vit_relpos_*, vit_srelpos_*)"
    place_argument = "shared_rel_pos"
    _block_type = RelPosBlock
    _block_children = block_children(RelPosAttention, scales=True)
    _attention_children = _RELPOS_CHILDREN

    def owns(self, model: nn.Module) -> bool:
        """Exactly timm's class."""
        return type(model) is VisionTransformerRelPos

    def _children_of(self, attention: nn.Module) -> dict[str, tuple[type[nn.Module], ...]]:
        own = {} if cast(Any, attention).rel_pos is None else {"rel_pos": (nn.Module,)}
        return {**self._attention_children, **own}

    def stem(self, model: nn.Module, images: Tensor) -> Tensor:
        """Patches, behind a class token where there is one."""
        vit = cast(Any, model)
        patches = vit.patch_embed(images)
        if vit.cls_token is None:
            return cast(Tensor, patches)
        return torch.cat((vit.cls_token.expand(patches.shape[0], -1, -1), patches), dim=1)

    def places(self, model: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
        """The bias that all blocks share, (1, H, N, N), where there is one."""
        shared = cast(Any, model).shared_rel_pos
        return () if shared is None else (shared.get_bias(),)
