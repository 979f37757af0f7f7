"""Models that drop tokens from encoder to encoder, as operations: pruning, priced.

A plan merges tokens and drops none, so pruning has its counts here. A token counts where it is
computed on: `Counts` says, for every encoder, how many tokens enter its attention and how many its
MLP. What chooses the tokens (ranking, a predictor) is an operation of its own behind the encoder
it works in, so that `full` accounting prices it; the published equations of `paper` have no term
for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from trex.architecture import Architecture, Encoder, Operation

#: For every encoder: tokens in its attention, tokens in its MLP.
Counts = Sequence[tuple[int, int]]


def stages(num_encoders: int) -> tuple[int, int, int]:
    """The encoders in which EViT and DynamicViT prune: 3, 6 and 9 of 12; 4, 8 and 12 of 16."""
    return num_encoders // 4, num_encoders // 2, 3 * num_encoders // 4


def evit_counts(num_encoders: int, tokens: int, keep: float) -> list[tuple[int, int]]:
    """EViT: three encoders keep a share of the tokens behind the class token, and fuse the rest.

    As in its code: ⌈keep·(N−1)⌉ tokens are kept, and one fused one joins them (arXiv 2202.07800).
    """
    counts, at = [], stages(num_encoders)
    for index in range(num_encoders):
        before = tokens
        if index in at and (kept := kept_tokens(tokens, keep)) < tokens - 1:
            tokens = 1 + kept + 1
        counts.append((before, tokens))
    return counts


def kept_tokens(tokens: int, keep: float) -> int:
    """How many tokens EViT keeps beside the class token: ⌈keep·(N−1)⌉."""
    return math.ceil(round(keep * (tokens - 1), 9))


def dynamicvit_counts(num_encoders: int, tokens: int, keep: float) -> list[tuple[int, int]]:
    """DynamicViT: three predictors leave keep, keep², keep³ of the patches (arXiv 2106.02034)."""
    patches, at, counts = tokens - 1, stages(num_encoders), []
    left = tokens
    for index in range(num_encoders):
        if index in at:
            share = keep ** (at.index(index) + 1)
            left = 1 + max(1, math.floor(round(patches * share, 9)))
        counts.append((left, left))
    return counts


def with_tokens(
    model: Architecture,
    counts: Counts,
    added: Mapping[int, Sequence[Operation]] | None = None,
) -> Architecture:
    """The model with fewer tokens.

    What follows the encoders works on the tokens, or on the patches, that are left; pruned ones
    come back nowhere.

    Args:
        model: of encoders that all have the same tokens.
        counts: for every encoder.
        added: what chooses the tokens, behind the encoder it belongs to; -1 is before all.
    """
    added = added or {}
    first = model.encoders[0]
    left = counts[-1][1]
    body: list[Operation | Encoder] = []
    for item in model.body:
        if isinstance(item, Encoder):
            if item.index == 0:
                body.extend(added.get(-1, ()))
            body.append(item.at(*counts[item.index]))
            body.extend(added.get(item.index, ()))
        elif body and any(isinstance(done, Encoder) for done in body):
            body.append(_scaled(item, first.tokens, left))
        else:
            body.append(item)
    return replace(model, body=tuple(body))


def evit_operations(encoder: Encoder, before: int, after: int) -> tuple[Operation, ...]:
    """EViT's choice: mean class attention over heads, a comparison a token, the fused token."""
    if before == after:
        return ()
    name = f"blocks.{encoder.index}.evit"
    fused = before - after + 1
    return (
        _pointwise(f"{name}.attention", "sum", 1, before - 1, encoder.heads),
        _pointwise(f"{name}.top", "compare", 1, before - 1),
        _pointwise(f"{name}.weighted", "multiply", fused, encoder.dim),
        _pointwise(f"{name}.fused", "sum", 1, encoder.dim, fused),
    )


def dynamicvit_operations(encoder: Encoder, tokens: int) -> tuple[Operation, ...]:
    """DynamicViT's predictor on the patches before an encoder: d→d, then d→d/2→d/4→2, GELUs."""
    name, dim, patches = f"blocks.{encoder.index}.predictor", encoder.dim, tokens - 1

    def linear(where: str, inputs: int, outputs: int) -> Operation:
        return Operation(
            name=f"{name}.{where}", kind="static_matmul", part="token_choice",
            vectors=patches, in_features=inputs, out_features=outputs, bias=True,
        )  # fmt: skip

    return (
        _pointwise(f"{name}.norm", "layer_norm", patches, dim),
        linear("in", dim, dim),
        _pointwise(f"{name}.act", "gelu", patches, dim),
        _pointwise(f"{name}.global", "mean", 1, dim // 2, patches),
        linear("out1", dim, dim // 2),
        _pointwise(f"{name}.act1", "gelu", patches, dim // 2),
        linear("out2", dim // 2, dim // 4),
        _pointwise(f"{name}.act2", "gelu", patches, dim // 4),
        linear("out3", dim // 4, 2),
        _pointwise(f"{name}.top", "compare", 1, patches),
    )


def _pointwise(name: str, function: str, vectors: int, width: int, combined: int = 0) -> Operation:
    return Operation(
        name=name, kind="elementwise", part="token_choice", vectors=vectors,
        out_features=width, in_features=combined, function=function,
    )  # fmt: skip


def _scaled(op: Operation, tokens: int, left: int) -> Operation:
    """An operation behind the encoders; with one class token there are as many patches less."""
    patches = {tokens: left, tokens - 1: left - 1}
    return replace(
        op,
        vectors=patches.get(op.vectors, op.vectors),
        in_features=patches.get(op.in_features, op.in_features)
        if op.kind == "elementwise"
        else op.in_features,
    )
