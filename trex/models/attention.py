"""Attention by the children of timm's attention modules, step by step, and what consumers keep.

Understood are timm's `Attention`, `AttentionRope`, `EvaAttention`, BEiT's and `RelPosAttention`:
one layer for queries, keys and values or three, biases of the layers' own or beside them, norms of
queries, keys and the output, fewer heads of keys and values than of queries. What tokens' places
add is a `Place` (models.places).

Shape legend: B images, N tokens, D width, H heads, E width of a head.
"""

from __future__ import annotations

from typing import Any, Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trex.errors import ModelError
from trex.models.adapter import AttentionRows, ConsumerForm, Groups, Products, Tokens, Wanted
from trex.models.places import NO_PLACE, Place, Rows


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
    place: Place = NO_PLACE,
) -> tuple[Tensor, dict[Wanted, Tensor]]:
    """The projection's input, (B, N or rows, D), by an attention's own children; what is wanted.

    The two products are fused, unless the map is reused or the attention has `products`. Where
    tokens were merged, attention is proportional: the logarithm of a key's size joins its scores
    (ToMe, arXiv 2210.09461, equation 1). A shared row's query is made of its tokens' mean input.
    Keys are compared before their places turn them: what is alike, not what is near.
    """
    query, key, value, groups = _project(attention, normed_BND, rows)
    matched = key
    own: Rows = rows if isinstance(rows, int) else groups
    if place is not NO_PLACE:
        query, key = place.turn(query, own).type_as(value), place.turn(key).type_as(value)
    key, value = (_for_all_heads(attention, x) for x in (key, value))
    dropout = attention.attn_drop.p if attention.training else 0.0
    products = getattr(attention, "products", None)
    bias = place.bias(own)
    if sizes_BN is not None:
        sized = sizes_BN.log()[:, None, None, :]
        bias = sized if bias is None else bias + sized
    bias = None if bias is None else bias.to(query.dtype)
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
    output = normed(attention, "norm", join_heads(context))
    if "output" in wanted:
        kept["output"] = output if groups is None else groups.copies(output)
    if "keys" in wanted:
        kept["keys"] = matched.mean(dim=1)
    if groups is not None:
        kept["groups"] = groups.target
    return output, kept


def normed(attention: Any, norm: str, values: Tensor) -> Tensor:
    """Values through one of an attention's norms, which it need not have."""
    module = getattr(attention, norm, None)
    return values if module is None else cast(Tensor, module(values))


def heads_of(attention: Any, part: int) -> int:
    """Heads of the queries (0), keys (1) or values (2)."""
    heads: int = attention.num_heads
    return int(getattr(attention, "num_kv_heads", heads)) if part else heads


def input_width(attention: Any) -> int:
    """How wide a token is that enters."""
    qkv = getattr(attention, "qkv", None)
    return int((attention.q_proj if qkv is None else qkv).in_features)


def has_bias(attention: Any, part: int) -> bool:
    """Whether the queries' (0), keys' (1) or values' (2) projection has one."""
    qkv = getattr(attention, "qkv", None)
    if qkv is None:
        return (attention.q_proj, attention.k_proj, attention.v_proj)[part].bias is not None
    beside = getattr(attention, "q_bias", None) is not None
    return qkv.bias is not None or (beside and part != 1)


def _for_all_heads(attention: Any, vectors_BHNE: Tensor) -> Tensor:
    """Keys or values of fewer heads, repeated for all heads of the queries."""
    heads, own = attention.num_heads, vectors_BHNE.shape[1]
    return vectors_BHNE if own == heads else vectors_BHNE.repeat_interleave(heads // own, dim=1)


def _project(
    attention: Any, normed_BND: Tensor, rows: AttentionRows
) -> tuple[Tensor, Tensor, Tensor, Groups | None]:
    """Queries of the rows, keys and values of all tokens, each (B, H, ·, E), and who shares."""
    if rows is None:
        query, key, value = projected(attention, normed_BND, 0, 3)
        return (
            normed(attention, "q_norm", query), normed(attention, "k_norm", key), value, None,
        )  # fmt: skip
    key, value = projected(attention, normed_BND, 1, 3)
    key, groups = normed(attention, "k_norm", key), None
    if isinstance(rows, int):
        own = normed_BND[:, :rows]
    else:
        groups = rows.groups(key.mean(dim=1))
        own = groups.mean(normed_BND)
    (query,) = projected(attention, own, 0, 1)
    return normed(attention, "q_norm", query), key, value, groups


def projected(attention: Any, inputs_BND: Tensor, first: int, last: int) -> tuple[Tensor, ...]:
    """Queries, keys and values from the first to before the last of them, each (B, H, N, E)."""
    qkv = getattr(attention, "qkv", None)
    if qkv is None:
        layers = (attention.q_proj, attention.k_proj, attention.v_proj)[first:last]
        return tuple(
            split_heads(layer(inputs_BND), 1, heads_of(attention, part))[0]
            for part, layer in enumerate(layers, first)
        )
    width = qkv.out_features // 3
    part = slice(first * width, last * width)
    beside = qkv.bias is None and getattr(attention, "q_bias", None) is not None
    if last - first == 3 and not beside:
        side_by_side = qkv(inputs_BND)
    elif type(qkv) is nn.Linear:
        bias = _biases(attention)
        side_by_side = F.linear(inputs_BND, qkv.weight[part], None if bias is None else bias[part])
    else:  # arrays hold all three side by side
        side_by_side = qkv(inputs_BND)[..., part]
    return split_heads(side_by_side, last - first, attention.num_heads)


def _biases(attention: Any) -> Tensor | None:
    """Of queries, keys and values, side by side: of their layer, or beside it."""
    if attention.qkv.bias is not None:
        return cast(Tensor, attention.qkv.bias)
    if getattr(attention, "q_bias", None) is None:
        return None
    return torch.cat((attention.q_bias, attention.k_bias, attention.v_bias))


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
        self,
        attention: Any,
        form: ConsumerForm,
        scale_D: Tensor | float,
        own_dim: int,
        *,
        placed: bool = False,
    ) -> None:
        super().__init__()
        heads: int = attention.num_heads
        self.num_heads, self.own_rows = heads, form.own_rows
        self.num_kv_heads = heads_of(attention, 1)
        self.scale: float = attention.scale
        if form.tensor == "map":
            self.v = _own_projection(attention, 2)
            self.norm = _norm_of(attention, "norm")
        if form.own_rows:
            self.q_norm, self.k_norm = (_norm_of(attention, n) for n in ("q_norm", "k_norm"))
            self.q = _own_projection(attention, 0)
            plain = isinstance(self.k_norm, nn.Identity) and not placed
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

    def context(
        self, own_BND: Tensor, map_BHNN: Tensor | None, tokens: Tokens, place: Place = NO_PLACE
    ) -> Tensor:
        """The consumer's map on its own values, (B, N, D); places are those of its own rows."""
        value = self._values(own_BND)
        products = getattr(self, "products", _PLAIN)
        whole = self.map_of(map_BHNN, tokens).expand(own_BND.shape[0], -1, -1, -1)
        if self.own_rows:
            rows = self._own_map(own_BND, tokens.sizes, place)
            whole = torch.cat((rows, whole[:, :, self.own_rows :]), dim=2)
        return cast(Tensor, self.norm(join_heads(products.context(whole, value))))

    def put_out(self, own_BND: Tensor) -> Tensor:
        """Every head's values through its part of the projection, (B, H, N, D)."""
        value = self._values(own_BND)
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

    def _own_map(self, own_BND: Tensor, sizes_BN: Tensor | None, place: Place) -> Tensor:
        """The first rows of the consumer's own map, (B, H, rows, N).

        Keys are never computed where they have no norm and no place: qᵀ(W_k x) = (W_kᵀq)ᵀx, and a
        key's bias adds the same to all scores of a row.
        """
        rows, heads = self.own_rows, self.num_heads
        query = self.q_norm(self._heads(self.q, own_BND[:, :rows], heads))
        query = place.turn(query, rows).to(query.dtype) * self.scale
        plain = isinstance(self.k_norm, nn.Identity) and place is NO_PLACE
        if plain and type(self.k) is nn.Linear and self.num_kv_heads == heads:
            weight = self.k.weight.view(heads, -1, own_BND.shape[-1])
            scores = (query @ weight) @ own_BND.mT[:, None]
        else:
            key = place.turn(self.k_norm(self._heads(self.k, own_BND, self.num_kv_heads)))
            scores = query @ _for_all_heads(self, key).mT.to(query.dtype)
        if (bias := place.bias(rows)) is not None:
            scores = scores + bias.to(scores.dtype)
        if sizes_BN is not None:
            scores = scores + sizes_BN.log().to(scores.dtype)[:, None, None, :]
        return scores.softmax(dim=-1)

    def _values(self, own_BND: Tensor) -> Tensor:
        """(B, N, D) to the values of all heads, (B, H, N, E)."""
        return _for_all_heads(self, self._heads(self.v, own_BND, self.num_kv_heads))

    @staticmethod
    def _heads(layer: nn.Module, vectors_BND: Tensor, heads: int) -> Tensor:
        """(B, N, D) through a layer to (B, heads, N, E)."""
        (split,) = split_heads(layer(vectors_BND), 1, heads)
        return split


def _norm_of(attention: Any, name: str) -> nn.Module:
    module = getattr(attention, name, None)
    return nn.Identity() if module is None else cast(nn.Module, module)


def _own_projection(attention: Any, part: int, *, bias: bool = True) -> nn.Linear:
    """A copy of the queries' (0), keys' (1) or values' (2) projection."""
    qkv = getattr(attention, "qkv", None)
    if qkv is None:
        source = (attention.q_proj, attention.k_proj, attention.v_proj)[part]
        weight, of = source.weight, source.bias
    else:
        width = qkv.out_features // 3
        rows = slice(part * width, (part + 1) * width)
        biases = _biases(attention)
        weight, of = qkv.weight[rows], None if biases is None else biases[rows]
        if part == 1 and qkv.bias is None:
            of = None  # BEiT's and EVA's keys have no bias: theirs is a buffer of zeros
    own = nn.Linear(
        weight.shape[1], weight.shape[0], bias=bias and of is not None,
        device=weight.device, dtype=weight.dtype,
    )  # fmt: skip
    with torch.no_grad():
        own.weight.copy_(weight)
        if bias and of is not None:
            own.bias.copy_(of)
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
