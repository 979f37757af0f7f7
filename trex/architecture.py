"""What a model computes, as plain numbers: the operations of its encoders and of all around them.

Models make an `Architecture` of themselves; the cost model prices it. No torch in here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple

from trex.plan import Layout, ReusedTensor

OperationKind = Literal["static_matmul", "dynamic_matmul", "softmax", "elementwise"]

#: What each reused tensor spares its consumer, by `Operation.part` (TReX §III; PSViT).
#: `map_input`: what else only the map needs, such as a convolution of the queries, or what turns
#: them by their places; `key_input`: what turns keys; `score_bias`: what is added to scores.
_OF_MAPS: Final = frozenset(
    {"q", "k", "map_input", "key_input", "scores", "score_bias", "softmax"}
)
PARTS_SPARED: Final[dict[ReusedTensor, frozenset[str]]] = {
    "output": frozenset({"norm1", "v", "context"}) | _OF_MAPS,
    "map": _OF_MAPS,
}

#: Parts that an encoder computes for all tokens of its attention, and for its rows only; the
#: others come behind the place where tokens merge.
_OF_KEYS: Final = frozenset({"norm1", "k", "v", "key_input"})
_OF_ROWS: Final = frozenset(
    {
        "q", "map_input", "scores", "score_bias", "softmax", "context", "transform", "proj",
        "residual1",
    }
)  # fmt: skip
#: parts of as many columns as there are keys
_ON_KEYS: Final = frozenset({"scores", "score_bias", "softmax"})

#: Parts that are computed once for all tokens that share a row: in grids, whose queries and
#: projection stay as they are, and in others, whose queries are made of mean inputs.
_SHARED_IN_GRIDS: Final = frozenset({"scores", "softmax", "context"})
_SHARED: Final = _SHARED_IN_GRIDS | {"q", "map_input", "score_bias", "proj"}

#: A model without encoders.
NO_ENCODERS: Final = Layout(stages=(), tokens=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """One operation on one image.

    `static_matmul`: `vectors` inputs of `in_features` through a weight matrix
    `in_features × out_features`; `groups` such matrices side by side where grouped, each of that
    size (a depth-wise convolution of C channels and a 3×3 kernel: groups C, in 9, out 1).
    `dynamic_matmul`: the same with a matrix computed on the way (Kᵀ, V), one of `groups` heads.
    `softmax`: `groups × vectors` rows of `out_features` scores.
    `elementwise`: `vectors × out_features` values through `function`; pooling and other
    reductions put out one value for every `in_features` they read.
    """

    name: str
    kind: OperationKind
    #: what it is in its encoder or around: norm1 q k v scores softmax context proj residual1
    #: norm2 fc1 activation fc2 residual2 transform matching merging proportional sharing mixing
    #: own_rows stem head ...
    part: str
    vectors: int
    out_features: int
    in_features: int = 0
    groups: int = 1
    #: for elementwise: layer_norm, batch_norm, gelu, relu, add, scale, pool ...
    function: str = ""
    bias: bool = False
    #: for elementwise: values of a second operand that it fetches, such as one a row; None where
    #: these are as many as it puts out (of add and multiply), or none (of others)
    operand: int | None = None
    #: for dynamic_matmul: the matrices are means of so many in all that another operation has
    #: written: every one of them is read, nothing is written; 0 where it writes its own
    resident_groups: int = 0
    #: for elementwise: constants that it keeps in a memory of their own
    stored: int = 0
    #: whether it begins only when all that comes before it in its encoder is there
    waits: bool = False

    @property
    def macs(self) -> int:
        """Multiply-accumulates an image; matrix products only."""
        if self.kind not in ("static_matmul", "dynamic_matmul"):
            return 0
        return self.groups * self.vectors * self.in_features * self.out_features

    @property
    def elements(self) -> int:
        """Values it puts out, an image."""
        return self.groups * self.vectors * self.out_features


class AttentionShape(NamedTuple):
    """An encoder's maps: of each of its windows, for each head, `tokens` rows and columns.

    `width`: of a query.
    """

    windows: int
    heads: int
    tokens: int
    width: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoder:
    """One transformer block: `tokens` vectors of `dim` values, `heads` attention heads.

    `stage` names the part of the model in which encoders can exchange attention; reuse across
    stages is refused. Isotropic models have one stage.
    """

    index: int
    tokens: int
    dim: int
    heads: int
    operations: tuple[Operation, ...]
    stage: int = 0

    @property
    def attention(self) -> AttentionShape:
        """Its maps, as its operations compute them."""
        queries = next(op for op in self.operations if op.part == "q")
        scores = next(op for op in self.operations if op.part == "scores")
        windows = queries.vectors // scores.vectors
        return AttentionShape(
            windows, scores.groups // windows, scores.out_features, scores.in_features
        )

    def sharing(self, rows: int, *, grid: bool) -> Encoder:
        """The same where tokens share so many rows of attention, in every window.

        Queries, if they are made of mean inputs, come behind keys and values; what follows the
        rows waits for all of them, since each goes back to its tokens.

        Args:
            rows: of the map.
            grid: whether rows go back to their tokens right behind the products, queries being
                means of all tokens' own.
        """
        tokens, parts = self.attention.tokens, _SHARED_IN_GRIDS if grid else _SHARED
        names = [op.part for op in self.operations]
        on_scores = range(names.index("scores") + 1, names.index("softmax"))
        first_after = names.index("context" if grid else "proj") + 1
        operations = []
        for i, op in enumerate(self.operations):
            if op.part in parts:
                op = replace(op, vectors=rows)
            elif grid and i in on_scores:  # of all windows at once
                op = replace(op, vectors=op.vectors // tokens * rows)
            operations.append(replace(op, waits=True) if i == first_after else op)
        if not grid:
            last, query = names.index("v"), names.index("q")
            operations.insert(max(last, query), operations.pop(query))
        return replace(self, operations=tuple(operations))

    def at(self, attention: int, mlp: int, rows: int | None = None) -> Encoder:
        """The same encoder at other token counts; itself at its own.

        Only for encoders whose operations all work on whole tokens (ViTs, text encoders).

        Args:
            attention: tokens that enter: keys and values.
            mlp: tokens behind the attention's residual.
            rows: queries; as many as keys unless given.
        """
        rows = attention if rows is None else rows
        if attention == mlp == rows == self.tokens:
            return self
        operations = tuple(_at(op, attention, mlp, rows) for op in self.operations)
        return replace(self, tokens=attention, operations=operations)


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """A model's operations in order: single ones (stem, head, in between) and encoders."""

    model: str
    body: tuple[Operation | Encoder, ...]
    #: what decides which plans it can run; by default one of a model without encoders
    layout: Layout = NO_ENCODERS
    #: what the model also computes that is no operation here, a line each, for reports
    uncounted: tuple[str, ...] = ()

    @property
    def encoders(self) -> tuple[Encoder, ...]:
        """The encoders in order; `encoders[i].index == i`."""
        return tuple(item for item in self.body if isinstance(item, Encoder))

    @property
    def operations(self) -> tuple[Operation, ...]:
        """Every operation of the original model, in order."""
        flat: list[Operation] = []
        for item in self.body:
            flat.extend(item.operations if isinstance(item, Encoder) else (item,))
        return tuple(flat)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image through the original model."""
        return sum(op.macs for op in self.operations)

    def leaving(self, tokens: int) -> Architecture:
        """The model with so many tokens behind its last encoder, for a head of class tokens.

        A head that reads all tokens stays as it is: merged ones are copied back to their places.
        """
        layout, encoders = self.layout, self.encoders
        if not (layout.class_rows and encoders) or tokens == layout.tokens:
            return self
        end = self.body.index(encoders[-1]) + 1
        after = (
            replace(item, vectors=tokens)
            if isinstance(item, Operation) and item.vectors == layout.tokens
            else item
            for item in self.body[end:]
        )
        return replace(self, body=(*self.body[:end], *after))


def vit_encoder(
    index: int, *, tokens: int, dim: int, heads: int, mlp_hidden: int, qkv_bias: bool = True
) -> Encoder:
    """A pre-norm ViT encoder's operations (DeiT, LV-ViT)."""
    name = f"blocks.{index}"
    head_dim = dim // heads

    def linear(part: str, where: str, i: int, o: int, bias: bool = True) -> Operation:
        return Operation(
            name=f"{name}.{where}", kind="static_matmul", part=part,
            vectors=tokens, in_features=i, out_features=o, bias=bias,
        )  # fmt: skip

    def pointwise(part: str, where: str, function: str, width: int) -> Operation:
        return Operation(
            name=f"{name}.{where}", kind="elementwise", part=part,
            vectors=tokens, out_features=width, function=function,
        )  # fmt: skip

    operations = (
        pointwise("norm1", "norm1", "layer_norm", dim),
        linear("q", "attn.q", dim, dim, qkv_bias),
        linear("k", "attn.k", dim, dim, qkv_bias),
        linear("v", "attn.v", dim, dim, qkv_bias),
        Operation(
            name=f"{name}.attn.scores", kind="dynamic_matmul", part="scores",
            vectors=tokens, in_features=head_dim, out_features=tokens, groups=heads,
        ),
        Operation(
            name=f"{name}.attn.softmax", kind="softmax", part="softmax",
            vectors=tokens, out_features=tokens, groups=heads,
        ),
        Operation(
            name=f"{name}.attn.context", kind="dynamic_matmul", part="context",
            vectors=tokens, in_features=tokens, out_features=head_dim, groups=heads,
        ),
        linear("proj", "attn.proj", dim, dim),
        pointwise("residual1", "residual1", "add", dim),
        pointwise("norm2", "norm2", "layer_norm", dim),
        linear("fc1", "mlp.fc1", dim, mlp_hidden),
        pointwise("activation", "mlp.act", "gelu", mlp_hidden),
        linear("fc2", "mlp.fc2", mlp_hidden, dim),
        pointwise("residual2", "residual2", "add", dim),
    )  # fmt: skip
    return Encoder(index=index, tokens=tokens, dim=dim, heads=heads, operations=operations)


def with_encoders(
    traced: Architecture, prefix: str, encoders: tuple[Encoder, ...]
) -> Architecture:
    """A traced model whose operations named `prefix…` give their place to encoders."""
    inside = [i for i, item in enumerate(traced.body) if item_name(item).startswith(prefix)]
    before = traced.body[: inside[0]]
    after = tuple(
        item for item in traced.body[inside[0] :] if not item_name(item).startswith(prefix)
    )
    return replace(traced, body=(*before, *encoders, *after))


def _at(op: Operation, attention: int, mlp: int, rows: int) -> Operation:
    vectors = attention if op.part in _OF_KEYS else rows if op.part in _OF_ROWS else mlp
    if op.part in _ON_KEYS:
        return replace(op, vectors=vectors, out_features=attention)
    if op.part == "context":
        return replace(op, vectors=vectors, in_features=attention)
    if op.operand is not None:  # a row of a table for every vector
        return replace(op, vectors=vectors, operand=op.operand // op.vectors * vectors)
    return replace(op, vectors=vectors)


def item_name(item: Operation | Encoder) -> str:
    """An operation's name; an encoder has none of its own."""
    return item.name if isinstance(item, Operation) else ""
