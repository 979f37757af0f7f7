"""timm's isotropic vision transformers: `vit_*`, `deit_*`, distilled ones, `deit3_*`.

Shape legend: B images, N tokens, D width, H heads, E width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, cast

import torch
from timm.layers import Attention, DropPath, GluMlp, Mlp, RmsNorm, RmsNormFp32, SwiGLU
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, LayerScale, VisionTransformer
from timm.models.vitamin import GeGluMlp
from torch import Tensor, nn

from trex.architecture import Architecture, with_encoders
from trex.errors import ModelError
from trex.models.adapter import (
    Adapter,
    AttentionRows,
    Consumer,
    ConsumerForm,
    Linear,
    ProductsAt,
    Tokens,
    Wanted,
    image_channels,
    stages_of,
)
from trex.models.answers import first_tensor
from trex.models.attention import ReusedAttention, SteppedAttention, attention_output, input_width
from trex.models.blocks import Placing, block_encoder, computes_like
from trex.models.places import NO_PLACE, Place
from trex.models.trace import trace_architecture
from trex.plan import Layout

_MODELS: Final = (VisionTransformer, VisionTransformerDistilled)
NOTHING: Final = (nn.Identity, nn.Dropout, DropPath)
#: norms by child, and the layers between; what they do to a token depends on that token alone
NORMS: Final = (nn.LayerNorm, RmsNorm, RmsNormFp32)
MLPS: Final = (Mlp, GluMlp, SwiGLU, GeGluMlp)
#: child -> the types TReX understands there; anything else is refused
_BLOCK_CHILDREN: Final[dict[str, tuple[type[nn.Module], ...]]] = {
    "norm1": NORMS,
    "attn": (Attention,),
    "ls1": (nn.Identity, LayerScale),
    "drop_path1": (nn.Identity, DropPath),
    "norm2": NORMS,
    "mlp": MLPS,
    "ls2": (nn.Identity, LayerScale),
    "drop_path2": (nn.Identity, DropPath),
}
ATTENTION_CHILDREN: Final[dict[str, tuple[type[nn.Module], ...]]] = {
    "qkv": (nn.Linear,),
    "q_norm": (nn.Identity, *NORMS),
    "k_norm": (nn.Identity, *NORMS),
    "attn_drop": NOTHING,
    "norm": (nn.Identity, *NORMS),
    "proj": (nn.Linear,),
    "proj_drop": NOTHING,
}
#: an encoder's and a consumer's layers in order, with what each computes
_LINEARS: Final = (
    Linear("attn.qkv", ("q", "k", "v")),
    Linear("attn.q_proj", ("q",)),
    Linear("attn.k_proj", ("k",)),
    Linear("attn.v_proj", ("v",)),
    Linear("attn.v", ("v",)),
    Linear("attn.q", ("q",)),
    Linear("attn.k", ("k",)),
    Linear("attn.transform.linear", ("transform",)),
    Linear("attn.proj", ("proj",)),
    Linear("mlp.fc1", ("fc1",)),
    Linear("mlp.fc1_g", ("fc1",)),
    Linear("mlp.fc1_x", ("fc1",)),
    Linear("mlp.fc2", ("fc2",)),
    Linear("mlp.w0", ("fc1",)),
    Linear("mlp.w1", ("fc1",)),
    Linear("mlp.w2", ("fc2",)),
)


class VitConsumer(Consumer):
    """A ViT encoder that reuses; children keep timm's names, so weight files stay readable."""

    def __init__(
        self,
        block: Any,
        form: ConsumerForm,
        *,
        scale_D: Tensor | float,
        mlp_scale: nn.Module,
        placed: bool = False,
    ) -> None:
        super().__init__()
        self.tensor = form.tensor
        self.own_input = form.own_input
        self.average_tokens = form.average_tokens
        if form.tensor == "map" or form.own_input:
            self.norm1 = block.norm1
        own_dim = input_width(block.attn) if form.own_input else 0
        self.attn = ReusedAttention(block.attn, form, scale_D, own_dim, placed=placed)
        self.drop_path1 = block.drop_path1
        self.norm2 = block.norm2
        self.mlp = block.mlp
        self.ls2 = mlp_scale
        self.drop_path2 = block.drop_path2

    @property
    def projection(self) -> nn.Linear:
        """The projection, branch scale folded in."""
        return self.attn.proj

    def before(self, stream: Tensor) -> Tensor:
        """Nothing: the attention branch comes first."""
        return stream

    def set_mixing(self, average_HNN: Tensor, mix_HH: Tensor | None) -> None:
        """Give it its average maps and its heads' weights."""
        with torch.no_grad():
            self.attn.average.copy_(average_HNN)
            if mix_HH is not None:
                self.attn.mix.copy_(mix_HH)

    def put_out(self, stream_BND: Tensor) -> Tensor:
        """Every head's values through its part of the projection; no norm of the output."""
        return self.attn.put_out(self.norm1(stream_BND))

    def features(self, stream: Tensor, reused: Tensor | None, tokens: Tokens) -> Tensor:
        """The transform of the reused output, or of the consumer's map on the own values.

        With `own_input`, the own normalised input stands behind it: (B, N, 2·D).
        """
        if self.tensor == "output" and not self.own_input:
            return cast(Tensor, self.attn.transform(reused))
        own = self.norm1(stream)
        if self.tensor == "map":
            reused = self.attn.context(own, reused, tokens, self.place(tokens))
        features = cast(Tensor, self.attn.transform(reused))
        return torch.cat((features, own), dim=-1) if self.own_input else features

    def place(self, tokens: Tokens) -> Place:
        """What places add to the scores of its own rows."""
        return NO_PLACE

    def merge(self, stream: Tensor, features: Tensor) -> Tensor:
        """Projection and residual."""
        branch = self.attn.proj_drop(self.attn.proj(features))
        return stream + cast(Tensor, self.drop_path1(branch))

    def after(self, stream: Tensor) -> Tensor:
        """The MLP and its residual."""
        branch = self.ls2(self.mlp(self.norm2(stream)))
        return stream + cast(Tensor, self.drop_path2(branch))


class VitAdapter(Adapter):
    """timm's `VisionTransformer` of plain pre-norm blocks, and its distilled kin."""

    family = "timm's isotropic ViTs (vit_*, deit_*, deit3_*)"
    _block_type: type[nn.Module] = Block
    _block_children = _BLOCK_CHILDREN
    _attention_children = ATTENTION_CHILDREN

    def owns(self, model: nn.Module) -> bool:
        """Timm's two classes; of their subclasses those that compute what these do."""
        return computes_like(model, _MODELS)

    def check(self, model: nn.Module, name: str) -> None:
        """Every block must be timm's plain `Block` with the children listed above."""
        (container,) = self.containers(model)
        for index, block in enumerate(model.get_submodule(container).children()):
            where = f"{name}.{container}.{index}"
            if type(block) is not self._block_type:
                raise ModelError(
                    f"{where} is a {type(block).__name__}, which TReX does not understand",
                    hint="plain pre-norm blocks can reuse; parallel, post-norm, fused ones cannot",
                )
            check_children(block, self._block_children, where)
            attention = block.get_submodule("attn")
            check_children(attention, self._children_of(attention), f"{where}.attn")

    def _children_of(self, attention: nn.Module) -> dict[str, tuple[type[nn.Module], ...]]:
        """What is understood in an attention."""
        return self._attention_children

    def containers(self, model: nn.Module) -> Sequence[str]:
        """All encoders are in `blocks`."""
        return ("blocks",)

    def layout(self, model: nn.Module) -> Layout:
        """Prefix tokens are never merged; which of them the head reads is its pooling's say."""
        vit = cast(Any, model)
        refusal = self._reads_patches(model)
        return Layout(
            stages=stages_of(model, self.containers(model)),
            tokens=vit.patch_embed.num_patches + vit.num_prefix_tokens,
            protected=vit.num_prefix_tokens,
            class_tokens=self.class_tokens(model),
            class_rows=0 if refusal else self.class_tokens(model),
            no_class_rows=refusal,
        )

    def class_tokens(self, model: nn.Module) -> int:
        """One, two of distilled models; none where the head pools the patches."""
        if cast(Any, model).global_pool != "token":
            return 0
        return 2 if isinstance(model, VisionTransformerDistilled) else 1

    def _reads_patches(self, model: nn.Module) -> str:
        """Why the head needs patches, or nothing."""
        pooling = cast(Any, model).global_pool
        return "" if pooling == "token" else f"the head pools the patches too ({pooling!r})"

    def stem(self, model: nn.Module, images: Tensor) -> Tensor:
        """Patches, tokens and positions."""
        vit = cast(Any, model)
        tokens = vit.patch_drop(vit._pos_embed(vit.patch_embed(images)))
        return cast(Tensor, vit.norm_pre(tokens))

    def head(self, model: nn.Module, stream: Tensor) -> Tensor:
        """Final norm, pooling, classifier; distilled models average their two heads."""
        vit = cast(Any, model)
        return first_tensor(vit.forward_head(vit.norm(stream)))

    def attend(
        self,
        block: nn.Module,
        stream: Tensor,
        wanted: frozenset[Wanted],
        *,
        sizes: Tensor | None = None,
        rows: AttentionRows = None,
        tokens: Tokens | None = None,
    ) -> tuple[Tensor, dict[Wanted, Tensor]]:
        """Attention on the block's own children, fused unless the map itself is reused."""
        parts = cast(Any, block)
        place = self._place(parts.attn, tokens)
        return attention_output(parts.attn, parts.norm1(stream), wanted, sizes, rows, place)

    def _place(self, attention: nn.Module, tokens: Tokens | None) -> Place:
        """What tokens' places add to the scores; nothing where the stream holds them."""
        return NO_PLACE

    def branch(self, block: nn.Module, output: Tensor) -> Tensor:
        """Projection, LayerScale."""
        parts = cast(Any, block)
        branch = parts.ls1(parts.attn.proj_drop(parts.attn.proj(output)))
        return cast(Tensor, parts.drop_path1(branch))

    def after(self, block: nn.Module, stream: Tensor) -> Tensor:
        """The MLP and its residual."""
        parts = cast(Any, block)
        branch = parts.ls2(parts.mlp(parts.norm2(stream)))
        return stream + cast(Tensor, parts.drop_path2(branch))

    def linears(self, block: nn.Module) -> tuple[Linear, ...]:
        """Attention and MLP."""
        names = {name for name, _ in block.named_modules()}
        return tuple(linear for linear in _LINEARS if linear.path in names)

    def products(self, block: nn.Module) -> ProductsAt | None:
        """In `attn`; consumers of outputs have none."""
        attention = cast(Any, block).attn
        heads = attention.num_heads
        if not isinstance(block, Consumer):
            parts = frozenset({"scores", "context"})
            return ProductsAt("attn", heads, parts, SteppedAttention(attention))
        if block.tensor == "output":
            return None
        return ProductsAt("attn", heads, frozenset({"context"}), attention)

    def make_consumer(self, block: nn.Module, form: ConsumerForm) -> Consumer:
        """LayerScale of the attention branch is folded into the consumer's projection."""
        parts = cast(Any, block)
        return VitConsumer(
            block,
            form,
            scale_D=parts.ls1.gamma if isinstance(parts.ls1, LayerScale) else 1.0,
            mlp_scale=parts.ls2,
        )

    def token_weights(self, model: nn.Module, stream: Tensor, class_weight: float) -> Tensor:
        """`class_weight` for the tokens the classifier reads, one for the others."""
        weights = torch.ones(stream.shape[:2], device=stream.device)
        weights[:, : self.class_tokens(model)] = class_weight
        return weights

    def projection(self, block: nn.Module) -> nn.Linear:
        """The block's `attn.proj`."""
        return cast(nn.Linear, cast(Any, block).attn.proj)

    def _input_size(self, model: nn.Module) -> tuple[int, int, int]:
        stem = cast(Any, model).patch_embed  # of a hybrid, a whole convolutional network
        return (image_channels(stem), *stem.img_size)

    def architecture(self, model: nn.Module, name: str) -> Architecture:
        """Encoders from the blocks' own sizes, in the paper's parts; the rest traced.

        LayerScale has no operation of its own: it folds into the weights before it.
        """
        traced = trace_architecture(model, self._input_size(model), name)
        (container,) = self.containers(model)
        blocks = list(model.get_submodule(container).children())
        tokens = self.layout(model).tokens
        encoders = tuple(
            block_encoder(index, block, tokens, self._placing(model, block))
            for index, block in enumerate(blocks)
        )
        parts = dict(blocks[0].named_modules())
        extra = tuple(
            f"{part} in every encoder ({type(parts[part]).__name__}), no products"
            for part in ("attn.q_norm", "attn.k_norm", "attn.norm", "mlp.norm")
            if not isinstance(parts.get(part, nn.Identity()), nn.Identity)
        )
        whole = with_encoders(traced, f"{container}.", encoders)
        uncounted = (*whole.uncounted, *extra)
        return replace(whole, layout=self.layout(model), uncounted=uncounted)

    def _placing(self, model: nn.Module, block: nn.Module) -> Placing:
        """How the places of tokens come into a block's scores."""
        return ""


def check_children(
    module: nn.Module, understood: dict[str, tuple[type[nn.Module], ...]], where: str
) -> None:
    """Refuse a module with a child that is missing, added, or of another type.

    Raises:
        ModelError: naming the first such child.
    """
    children = dict(module.named_children())
    for child, part in children.items():
        accepted = understood.get(child, ())
        exactly = child in ("attn", "mlp")
        if not (type(part) in accepted if exactly else isinstance(part, accepted)):
            raise ModelError(
                f"{where}.{child} is a {type(part).__name__}, which TReX does not understand",
                hint="this model variant cannot reuse attention; choose another of its family",
            )
    if missing := sorted(understood.keys() - children.keys()):
        raise ModelError(f"{where} has no {missing[0]}", hint="is timm at least 1.0.20?")
