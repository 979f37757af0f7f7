"""Attention of linear layers in models of stages: tokens in grids, in one window or many.

Streams keep their width last, (B, …, D). A family says how its tokens lie in windows
(`Arrangement`) and what is added to their scores; outputs are exchanged as grids, maps window by
window. Rows are shared as in all grids: queries are means of the tokens' own, and rows go back to
their tokens right behind the products.

Letters: B images, V windows of an image, n tokens of a window, D width, H heads, E width of a
head.
"""

from __future__ import annotations

from typing import Any, Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trex.errors import ModelError
from trex.models.adapter import (
    AttentionRows,
    Consumer,
    ConsumerForm,
    Groups,
    Tokens,
    Wanted,
)
from trex.models.attention import (
    ReusedAttention,
    join_heads,
    map_rows,
    projected,
    split_heads,
)
from trex.models.staged import Parts, StagedAdapter
from trex.models.vit import NOTHING, check_children

#: child -> the types that TReX understands there
Children = dict[str, tuple[type[nn.Module], ...]]
#: of an attention of linear layers
ATTENTION_CHILDREN: Final[Children] = {
    "qkv": (nn.Linear,),
    "attn_drop": NOTHING,
    "proj": (nn.Linear,),
    "proj_drop": NOTHING,
}


class Arrangement:
    """How the tokens of a grid lie in windows; all in one, unless a subclass says otherwise."""

    def windows(self, grid: Tensor) -> Tensor:
        """(B, …, D) to (B·V, n, D)."""
        return grid.flatten(1, -2)

    def grid(self, windows: Tensor, like: Tensor) -> Tensor:
        """(B·V, n, D) back to the shape that `like` has but for its width."""
        return windows.reshape(*like.shape[:-1], windows.shape[-1])


class GridConsumer(Consumer):
    """An encoder of linear layers in a grid that reuses; children keep timm's names."""

    def __init__(self, adapter: GridAdapter, block: Any, form: ConsumerForm) -> None:
        super().__init__()
        self.tensor = form.tensor
        self.own_input = form.own_input
        self.arrangement = adapter.arrangement(block)
        self._adapter = adapter
        attention = adapter.attention(block)
        if form.tensor == "map" or form.own_input:
            self.norm1 = block.norm1
        own_dim = attention.qkv.in_features if form.own_input else 0
        self.attn = ReusedAttention(attention, form, 1.0, own_dim)
        for name in adapter.behind(block):
            self.add_module(name, block.get_submodule(name))

    @property
    def projection(self) -> nn.Linear:
        """The attention's projection."""
        return self.attn.proj

    def before(self, stream: Tensor) -> Tensor:
        """Nothing: the attention branch comes first."""
        return stream

    def features(self, stream: Tensor, reused: Tensor | None, tokens: Tokens) -> Tensor:
        """The transform of the reused output, or of the reused maps on the own values.

        With `own_input`, the own normalised input stands behind it: (B, …, 2·D).
        """
        assert reused is not None
        if self.tensor == "output" and not self.own_input:
            return cast(Tensor, self.attn.transform(reused))
        own = self.norm1(stream)
        if self.tensor == "map":
            context = self.attn.context(
                self.arrangement.windows(own), reused.flatten(0, 1), tokens
            )
            reused = self.arrangement.grid(context, own)
        features = cast(Tensor, self.attn.transform(reused))
        return torch.cat((features, own), dim=-1) if self.own_input else features

    def merge(self, stream: Tensor, features: Tensor) -> Tensor:
        """Projection and residual."""
        return self._adapter.residual(self, stream) + self._adapter.branch(self, features)

    def after(self, stream: Tensor) -> Tensor:
        """The MLP and its residual."""
        return self._adapter.after(self, stream)


class GridAdapter(StagedAdapter):
    """Pre-norm blocks in stages, whose attention is timm's: `qkv`, `proj`, dropouts."""

    #: the attention's name in a block
    attention_child: str = "attn"
    #: what every block of a stage that attends must be, and its children and its attention's
    block_type: type[nn.Module]
    block_children: Children
    attention_children: Children = ATTENTION_CHILDREN

    def check(self, model: nn.Module, name: str) -> None:
        """Every block of the stages that attend must be as above."""
        for container in self.containers(model):
            for index, block in enumerate(model.get_submodule(container).children()):
                where = f"{name}.{container}.{index}"
                if type(block) is not self.block_type:
                    raise ModelError(
                        f"{where} is a {type(block).__name__}, which TReX does not understand",
                        hint=f"only timm's plain {self.block_type.__name__} can reuse attention",
                    )
                check_children(block, self.block_children, where)
                attention = block.get_submodule(self.attention_child)
                check_children(
                    attention, self.attention_children, f"{where}.{self.attention_child}"
                )

    def behind(self, block: nn.Module) -> tuple[str, ...]:
        """A block's children that a consumer keeps as they are."""
        return ("drop_path1", "norm2", "mlp", "drop_path2")

    def after(self, block: nn.Module, stream: Tensor) -> Tensor:
        """The MLP and its residual."""
        parts = cast(Any, block)
        return stream + cast(Tensor, parts.drop_path2(parts.mlp(parts.norm2(stream))))

    def attention(self, block: nn.Module) -> Any:
        """A block's attention, or what a consumer kept of it."""
        name = "attn" if isinstance(block, GridConsumer) else self.attention_child
        return block.get_submodule(name)

    def arrangement(self, block: nn.Module) -> Arrangement:
        """How its tokens lie in windows."""
        return Arrangement()

    def bias(self, block: nn.Module, stream: Tensor) -> Tensor | None:
        """What is added to scores, (B·V or 1, H, n, n)."""
        return None

    def heads(self, block: nn.Module) -> int:
        """The attention's."""
        return int(self.attention(block).num_heads)

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
        """Attention in every window, fused where timm's is, unless the map itself is reused."""
        attention, arrangement = self.attention(block), self.arrangement(block)
        normed = cast(Any, block).norm1(stream)
        windows = arrangement.windows(normed)
        query, key, value = projected(attention, windows, 0, 3)
        bias, groups = self.bias(block, stream), None
        if rows is not None:
            assert not isinstance(rows, int), "a grid has no class token"
            groups = rows.groups(key.mean(dim=1))
            query, bias = _of_rows(query, groups), _bias_of_rows(bias, groups, len(windows))
        dropout = attention.attn_drop.p if attention.training else 0.0
        kept: dict[Wanted, Tensor] = {}
        if "map" in wanted or not attention.fused_attn:
            scores = query * attention.scale @ key.mT
            probabilities = (scores if bias is None else scores + bias).softmax(dim=-1)
            if "map" in wanted:
                whole = probabilities if groups is None else map_rows(probabilities, groups)
                kept["map"] = whole.reshape(stream.shape[0], -1, *whole.shape[1:])
            context = join_heads(F.dropout(probabilities, dropout) @ value)
        else:
            context = join_heads(
                F.scaled_dot_product_attention(
                    query, key, value, attn_mask=bias, dropout_p=dropout, scale=attention.scale
                )
            )
        context = context if groups is None else groups.copies(context)
        output = arrangement.grid(context, normed)
        if "output" in wanted:
            kept["output"] = output
        if groups is not None:
            kept["groups"] = groups.target.view(stream.shape[0], -1, key.shape[2])
        return output, kept

    def branch(self, block: nn.Module, output: Tensor) -> Tensor:
        """Projection."""
        attention = self.attention(block)
        projection = attention.proj_drop(attention.proj(output))
        return cast(Tensor, cast(Any, block).drop_path1(projection))

    def projection(self, block: nn.Module) -> nn.Linear:
        """The attention's."""
        return cast(nn.Linear, self.attention(block).proj)

    def make_consumer(self, block: nn.Module, form: ConsumerForm) -> Consumer:
        """There is no scale to fold."""
        return GridConsumer(self, block, form)

    def parts(self, block: nn.Module) -> Parts:
        """Q, K and V come from one layer; what scales or adds to scores only the map needs."""
        attention, name = self.attention(block), self.attention_child
        width = attention.qkv.out_features // 3
        return (
            (f"{name}.qkv", (("q", width), ("k", width), ("v", width))),
            (f"{name}.scores", "scores"),
            (f"{name}.softmax", "softmax"),
            (f"{name}.context", "context"),
            (f"{name}.proj", "proj"),
            (name, "map_input"),
            ("norm1", "norm1"),
            ("add", "residual1"),
            ("res_scale1", "residual1"),
            ("norm2", "norm2"),
            ("mlp.fc1", "fc1"),
            ("mlp.act", "activation"),
            ("mlp.fc2", "fc2"),
            ("add_2", "residual2"),
            ("res_scale2", "residual2"),
        )


def _of_rows(query_BHnE: Tensor, groups: Groups) -> Tensor:
    """The means of the queries that share rows, (B, H, rows, E)."""
    (rows,) = split_heads(groups.mean(join_heads(query_BHnE)), 1, query_BHnE.shape[1])
    return rows


def _bias_of_rows(bias: Tensor | None, groups: Groups, windows: int) -> Tensor | None:
    """The means of what is added to their scores, (B·V, H, rows, n)."""
    if bias is None:
        return None
    heads, keys = bias.shape[1], bias.shape[3]
    rows = groups.mean(bias.transpose(1, 2).flatten(2).expand(windows, -1, -1))
    return rows.view(windows, -1, heads, keys).transpose(1, 2)
