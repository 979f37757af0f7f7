"""timm's isotropic vision transformers: `vit_*`, `deit_*`, distilled ones, `deit3_*`.

Shape legend: B images, N tokens, D width, H heads, E width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, cast

import torch
import torch.nn.functional as F
from timm.layers import Attention, DropPath, Mlp
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, LayerScale, VisionTransformer
from torch import Tensor, nn

from trex.architecture import Architecture, vit_encoder, with_encoders
from trex.errors import ModelError
from trex.models.adapter import (
    Adapter,
    AttentionRows,
    Consumer,
    ConsumerForm,
    Groups,
    Linear,
    Products,
    ProductsAt,
    Tokens,
    Wanted,
    first_tensor,
    image_channels,
    stages_of,
)
from trex.models.objects import computes_like
from trex.models.trace import trace_architecture
from trex.plan import Layout

_MODELS: Final = (VisionTransformer, VisionTransformerDistilled)
_NOTHING: Final = (nn.Identity, nn.Dropout, DropPath)
#: child -> the types TReX understands there; anything else is refused
_BLOCK_CHILDREN: Final[dict[str, tuple[type[nn.Module], ...]]] = {
    "norm1": (nn.LayerNorm,),
    "attn": (Attention,),
    "ls1": (nn.Identity, LayerScale),
    "drop_path1": (nn.Identity, DropPath),
    "norm2": (nn.LayerNorm,),
    "mlp": (Mlp,),
    "ls2": (nn.Identity, LayerScale),
    "drop_path2": (nn.Identity, DropPath),
}
_ATTENTION_CHILDREN: Final[dict[str, tuple[type[nn.Module], ...]]] = {
    "qkv": (nn.Linear,),
    "q_norm": (nn.Identity, nn.LayerNorm),
    "k_norm": (nn.Identity, nn.LayerNorm),
    "attn_drop": _NOTHING,
    "norm": (nn.Identity, nn.LayerNorm),
    "proj": (nn.Linear,),
    "proj_drop": _NOTHING,
}
#: an encoder's and a consumer's layers in order, with what each computes
_LINEARS: Final = (
    Linear("attn.qkv", ("q", "k", "v")),
    Linear("attn.v", ("v",)),
    Linear("attn.q", ("q",)),
    Linear("attn.k", ("k",)),
    Linear("attn.transform.linear", ("transform",)),
    Linear("attn.proj", ("proj",)),
    Linear("mlp.fc1", ("fc1",)),
    Linear("mlp.fc2", ("fc2",)),
)


def split_heads(parts_BNF: Tensor, parts: int, num_heads: int) -> tuple[Tensor, ...]:
    """So many parts side by side, such as keys and values, each (B, H, N, E)."""
    batch, tokens, width = parts_BNF.shape
    shape = (batch, tokens, parts, num_heads, width // (parts * num_heads))
    split = parts_BNF.reshape(shape).permute(2, 0, 3, 1, 4)
    return tuple(split.unbind(0))


def join_heads(output_BHNE: Tensor) -> Tensor:
    """(B, H, N, E) to (B, N, H·E)."""
    return output_BHNE.transpose(1, 2).flatten(2)


_PLAIN: Final = Products()


def attention_output(
    attention: Any,
    normed_BND: Tensor,
    wanted: frozenset[Wanted],
    sizes_BN: Tensor | None = None,
    rows: AttentionRows = None,
) -> tuple[Tensor, dict[Wanted, Tensor]]:
    """The projection's input, (B, N or rows, D), by an attention's own children; what is wanted.

    The two products are fused, unless the map is reused or the attention has `products`. Where
    tokens were merged, attention is proportional: the logarithm of a key's size joins its scores
    (ToMe, arXiv 2210.09461, equation 1). A shared row's query is made of its tokens' mean input.
    """
    query, key, value, groups = _project(attention, normed_BND, rows)
    dropout = attention.attn_drop.p if attention.training else 0.0
    products = getattr(attention, "products", None)
    bias = None if sizes_BN is None else sizes_BN.log().to(query.dtype)[:, None, None, :]
    kept: dict[Wanted, Tensor] = {}
    if "map" in wanted or products is not None:
        products = products or _PLAIN
        scores = products.scores(query * attention.scale, key)
        probabilities = (scores if bias is None else scores + bias).softmax(dim=-1)
        if "map" in wanted:
            kept["map"] = probabilities if groups is None else map_rows(probabilities, groups)
        context = products.context(F.dropout(probabilities, dropout), value)
    else:
        context = F.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, dropout_p=dropout, scale=attention.scale
        )
    output = attention.norm(join_heads(context))
    if "output" in wanted:
        kept["output"] = output if groups is None else groups.copies(output)
    if "keys" in wanted:
        kept["keys"] = key.mean(dim=1)
    if groups is not None:
        kept["groups"] = groups.target
    return output, kept


def _project(
    attention: Any, normed_BND: Tensor, rows: AttentionRows
) -> tuple[Tensor, Tensor, Tensor, Groups | None]:
    """Queries of the rows, keys and values of all tokens, each (B, H, ·, E), and who shares."""
    heads = attention.num_heads
    if rows is None:
        query, key, value = split_heads(attention.qkv(normed_BND), 3, heads)
        return attention.q_norm(query), attention.k_norm(key), value, None
    key, value = split_heads(_part_of_qkv(attention, normed_BND, 1, 3), 2, heads)
    key, groups = attention.k_norm(key), None
    if isinstance(rows, int):
        own = normed_BND[:, :rows]
    else:
        groups = rows.groups(key.mean(dim=1))
        own = groups.mean(normed_BND)
    (query,) = split_heads(_part_of_qkv(attention, own, 0, 1), 1, heads)
    return attention.q_norm(query), key, value, groups


def _part_of_qkv(attention: Any, normed_BND: Tensor, first: int, last: int) -> Tensor:
    """Queries, keys and values from the first to before the last of them, side by side."""
    qkv = attention.qkv
    width = attention.num_heads * attention.head_dim
    part = slice(first * width, last * width)
    if type(qkv) is not nn.Linear:  # arrays hold all three side by side
        return cast(Tensor, qkv(normed_BND)[..., part])
    return F.linear(normed_BND, qkv.weight[part], None if qkv.bias is None else qkv.bias[part])


def map_rows(map_BHMN: Tensor, groups: Groups) -> Tensor:
    """Every token's row of a map of shared ones, (B, H, N, N)."""
    heads, keys = map_BHMN.shape[1], map_BHMN.shape[3]
    rows = groups.copies(map_BHMN.transpose(1, 2).flatten(2))
    return rows.view(rows.shape[0], -1, heads, keys).transpose(1, 2)


class SteppedAttention(nn.Module):
    """timm's `Attention` by TReX's steps, which ask its child `products`; it shares the others."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.num_heads, self.head_dim = attention.num_heads, attention.head_dim
        self.scale = attention.scale
        for name, child in attention.named_children():
            self.add_module(name, child)
        self.training = attention.training

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """(B, N, D) to (B, N, D).

        Raises:
            ModelError: a mask is given.
        """
        if attn_mask is not None or is_causal:
            raise ModelError(
                "an attention whose products are replaced takes no mask",
                hint="run the model without attention masks",
            )
        parts: Any = self
        output, _ = attention_output(self, x, frozenset())
        return cast(Tensor, parts.proj_drop(parts.proj(output)))


class ReusedAttention(nn.Module):
    """What a consumer keeps of its attention: a transform and the projection.

    With the `map`, also the value projection `v`; for own rows the queries' and keys', `q` and
    `k`, with their norms. `norm` is timm's norm of the attention's output, where the model has
    one. `average` (H, T, T) and `mix` (H, H) make a map of the source's.
    """

    average: Tensor

    def __init__(
        self, attention: Any, form: ConsumerForm, scale_D: Tensor | float, own_dim: int
    ) -> None:
        super().__init__()
        heads: int = attention.num_heads
        self.num_heads, self.own_rows = heads, form.own_rows
        self.scale: float = attention.scale
        if form.tensor == "map":
            self.v = _own_projection(attention, 2)
            self.norm = attention.norm
        if form.own_rows:
            self.q_norm, self.k_norm = attention.q_norm, attention.k_norm
            self.q = _own_projection(attention, 0)
            plain = isinstance(self.k_norm, nn.Identity)
            self.k = _own_projection(attention, 1, bias=not plain)
        if form.average_tokens:
            like: dict[str, Any] = {
                "device": attention.proj.weight.device, "dtype": attention.proj.weight.dtype
            }  # fmt: skip
            side = form.average_tokens
            fresh = torch.zeros if form.mixes else torch.ones
            self.register_buffer("average", fresh(heads, side, side, **like) / side)
            if form.mixes:  # until it is fitted, the source's map as it is
                self.mix = nn.Parameter(torch.eye(heads, **like))
        self.transform = form.transform
        self.proj = _scaled_projection(attention.proj, scale_D, own_dim)
        self.proj_drop = attention.proj_drop

    def context(self, own_BND: Tensor, map_BHNN: Tensor | None, tokens: Tokens) -> Tensor:
        """The consumer's map on its own values, (B, N, D)."""
        value = self._heads(self.v, own_BND)
        products = getattr(self, "products", _PLAIN)
        whole = self.map_of(map_BHNN, tokens).expand(own_BND.shape[0], -1, -1, -1)
        if self.own_rows:
            rows = self._own_map(own_BND, tokens.sizes)
            whole = torch.cat((rows, whole[:, :, self.own_rows :]), dim=2)
        return cast(Tensor, self.norm(join_heads(products.context(whole, value))))

    def put_out(self, own_BND: Tensor) -> Tensor:
        """Every head's values through its part of the projection, (B, H, N, D)."""
        value = self._heads(self.v, own_BND)
        weight_HED = self.proj.weight.T.reshape(self.num_heads, value.shape[-1], -1)
        put_out: Tensor = value @ weight_HED
        return put_out

    def map_of(self, map_BHNN: Tensor | None, tokens: Tokens) -> Tensor:
        """The source's map as the consumer uses it; without one, its average."""
        mixed = map_BHNN
        if map_BHNN is not None and hasattr(self, "mix"):
            batch, heads, rows, keys = map_BHNN.shape
            flat = self.mix.to(map_BHNN.dtype) @ map_BHNN.flatten(2)
            mixed = flat.view(batch, heads, rows, keys)
        if hasattr(self, "average"):
            known = tokens.map_of(self.average)
            mixed = known if mixed is None else known.to(mixed.dtype) + mixed
        assert mixed is not None
        return mixed

    def _own_map(self, own_BND: Tensor, sizes_BN: Tensor | None) -> Tensor:
        """The first rows of the consumer's own map, (B, H, rows, N).

        Keys are never computed where they have no norm: qᵀ(W_k x) = (W_kᵀq)ᵀx, and a key's bias
        adds the same to all scores of a row.
        """
        query = self.q_norm(self._heads(self.q, own_BND[:, : self.own_rows])) * self.scale
        if isinstance(self.k_norm, nn.Identity) and type(self.k) is nn.Linear:
            weight = self.k.weight.view(self.num_heads, -1, own_BND.shape[-1])
            scores = (query @ weight) @ own_BND.mT[:, None]
        else:
            scores = query @ self.k_norm(self._heads(self.k, own_BND)).mT
        if sizes_BN is not None:
            scores = scores + sizes_BN.log().to(scores.dtype)[:, None, None, :]
        return cast(Tensor, scores.softmax(dim=-1))

    def _heads(self, layer: nn.Module, vectors_BND: Tensor) -> Tensor:
        """(B, N, D) through a layer to (B, H, N, E)."""
        (heads,) = split_heads(layer(vectors_BND), 1, self.num_heads)
        return heads


class VitConsumer(Consumer):
    """A ViT encoder that reuses; children keep timm's names, so weight files stay readable."""

    def __init__(
        self,
        block: Any,
        form: ConsumerForm,
        *,
        scale_D: Tensor | float,
        mlp_scale: nn.Module,
    ) -> None:
        super().__init__()
        self.tensor = form.tensor
        self.own_input = form.own_input
        self.average_tokens = form.average_tokens
        if form.tensor == "map" or form.own_input:
            self.norm1 = block.norm1
        own_dim = block.attn.qkv.in_features if form.own_input else 0
        self.attn = ReusedAttention(block.attn, form, scale_D, own_dim)
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
            reused = self.attn.context(own, reused, tokens)
        features = cast(Tensor, self.attn.transform(reused))
        return torch.cat((features, own), dim=-1) if self.own_input else features

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

    def owns(self, model: nn.Module) -> bool:
        """Timm's two classes; of their subclasses those that compute what these do."""
        return computes_like(model, _MODELS)

    def check(self, model: nn.Module, name: str) -> None:
        """Every block must be timm's plain `Block` with the children listed above."""
        for index, block in enumerate(cast(Any, model).blocks):
            where = f"{name}.blocks.{index}"
            if type(block) is not self._block_type:
                raise ModelError(
                    f"{where} is a {type(block).__name__}, which TReX does not understand",
                    hint="plain pre-norm blocks can reuse; parallel, post-norm, fused ones cannot",
                )
            check_children(block, self._block_children, where)
            check_children(cast(nn.Module, block.attn), _ATTENTION_CHILDREN, f"{where}.attn")

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
    ) -> tuple[Tensor, dict[Wanted, Tensor]]:
        """Attention on the block's own children, fused unless the map itself is reused."""
        parts = cast(Any, block)
        return attention_output(parts.attn, parts.norm1(stream), wanted, sizes, rows)

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
        vit = cast(Any, model)
        traced = trace_architecture(model, self._input_size(model), name)
        encoders = tuple(
            vit_encoder(
                index,
                tokens=vit.patch_embed.num_patches + vit.num_prefix_tokens,
                dim=vit.embed_dim,
                heads=block.attn.num_heads,
                mlp_hidden=block.mlp.fc1.out_features,
                qkv_bias=block.attn.qkv.bias is not None,
            )
            for index, block in enumerate(vit.blocks)
        )
        extra = tuple(
            f"{part} in every encoder ({type(module).__name__}), no products"
            for part in ("attn.q_norm", "attn.k_norm", "attn.norm", "mlp.norm")
            if not isinstance(module := vit.blocks[0].get_submodule(part), nn.Identity)
        )
        whole = with_encoders(traced, "blocks.", encoders)
        uncounted = (*whole.uncounted, *extra)
        return replace(whole, layout=self.layout(model), uncounted=uncounted)


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
        if not (type(part) is Attention if Attention in accepted else isinstance(part, accepted)):
            raise ModelError(
                f"{where}.{child} is a {type(part).__name__}, which TReX does not understand",
                hint="this model variant cannot reuse attention; choose another of its family",
            )
    if missing := sorted(understood.keys() - children.keys()):
        raise ModelError(f"{where} has no {missing[0]}", hint="is timm at least 1.0.20?")


def _own_projection(attention: Any, part: int, *, bias: bool = True) -> nn.Linear:
    """A copy of the queries' (0), keys' (1) or values' (2) projection."""
    qkv = attention.qkv
    bias = bias and qkv.bias is not None
    width = attention.num_heads * attention.head_dim
    rows = slice(part * width, (part + 1) * width)
    own = nn.Linear(
        qkv.in_features, width, bias=bias,
        device=qkv.weight.device, dtype=qkv.weight.dtype,
    )  # fmt: skip
    with torch.no_grad():
        own.weight.copy_(qkv.weight[rows])
        if bias:
            own.bias.copy_(qkv.bias[rows])
    return own


def _scaled_projection(proj: nn.Linear, scale_D: Tensor | float, own_dim: int) -> nn.Linear:
    """A copy of `proj` with a bias, the branch's scale folded in, zeros for `own_dim` inputs."""
    like: dict[str, Any] = {"device": proj.weight.device, "dtype": proj.weight.dtype}
    folded = nn.Linear(proj.in_features + own_dim, proj.out_features, **like)
    with torch.no_grad():
        scale = torch.as_tensor(scale_D, **like)
        folded.weight.zero_()
        folded.weight[:, : proj.in_features] = proj.weight * scale.reshape(-1, 1)
        folded.bias.copy_(proj.bias * scale if proj.bias is not None else torch.zeros(1))
    return folded
