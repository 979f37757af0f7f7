"""What merging tokens takes, as operations: matching, merging, attention by size, reused tensors.

ToMe (arXiv 2210.09461, section 3): tokens are divided in turn into two halves; every token of the
one finds the token of the other it is most like, by the cosine of their keys' means over heads;
the likest pairs become one token each, their mean weighted by size; and the logarithm of a key's
size joins its scores (equation 1). Its gathers and scatters move values without arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from trex.architecture import Encoder, Operation
from trex.plan import ReusedTensor


def matching(encoder: Encoder, tokens: int, *, by_keys: bool) -> tuple[Operation, ...]:
    """Who is most like whom: products of the halves, each by both norms; every best, the likest.

    The products of mean keys are the means of products with every head's keys, and Kᵀ lies in its
    arrays for the scores: it is read, in the order of columns that puts the second half's side by
    side, and nothing is written. A consumer has no keys; its tokens are matched by what enters
    it, as wide as the model, of which one half is written. Of n best likenesses the largest are
    found by sorting them: n·log2(n) comparisons.
    """
    name, half = f"blocks.{encoder.index}.matching", tokens // 2
    others = tokens - half
    width = encoder.dim // encoder.heads if by_keys else encoder.dim
    mean = [_values(f"{name}.metric", "matching", "mean", tokens, width, encoder.heads)]
    return (
        *(mean if by_keys else ()),
        _values(f"{name}.norm", "matching", "vector_norm", tokens, 1, width),
        Operation(
            name=f"{name}.similarity", kind="dynamic_matmul", part="matching",
            vectors=others, in_features=width, out_features=half,
            resident_groups=encoder.heads if by_keys else 0,
        ),
        _values(f"{name}.scaled", "matching", "divide", others, half, operand=half),
        _values(f"{name}.best", "matching", "max", others, 1, half),
        _values(f"{name}.cosine", "matching", "divide", others, 1, operand=others),
        _values(
            f"{name}.top", "matching", "compare", 1, others, math.ceil(math.log2(max(others, 2)))
        ),
    )  # fmt: skip


def merging(encoder: Encoder, pairs: int) -> tuple[Operation, ...]:
    """`pairs` of tokens become one each, by size; their sizes add up."""
    name = f"blocks.{encoder.index}.merging"
    return (
        *_means(name, pairs, encoder.dim, 1),
        _values(f"{name}.new_sizes", "merging", "add", 1, pairs),
    )


def reused_merging(
    encoder: Encoder, source_tokens: int, tokens: int, tensor: ReusedTensor
) -> tuple[Operation, ...]:
    """What a consumer does with a tensor of a source whose tokens have since become fewer.

    Rows of an output, or of a map, become their means by size; of a map, columns also add up.
    """
    name, gone = f"blocks.{encoder.index}.reused", source_tokens - tokens
    if tensor == "output":
        return tuple(_means(name, gone, encoder.dim, 1))
    columns = _values(
        f"{name}.columns", "merging", "add", source_tokens, gone, groups=encoder.heads
    )
    return (columns, *_means(name, gone, tokens, encoder.heads))


def proportional(encoder: Encoder, tokens: int, rows: int) -> tuple[Operation, ...]:
    """The logarithm of every key's size, and its addition to all scores of that key."""
    name = f"blocks.{encoder.index}.attn"
    return (
        _values(f"{name}.log_sizes", "proportional", "log", 1, tokens),
        _values(
            f"{name}.proportional", "proportional", "add", rows, tokens,
            groups=encoder.heads, operand=tokens,
        ),
    )  # fmt: skip


def _means(name: str, gone: int, width: int, groups: int) -> Sequence[Operation]:
    """Means by size of rows of which so many are gone.

    At most twice as many take part, where all groups are pairs; as many additions and divisions
    are made. A row is multiplied and divided by one size.
    """
    return (
        _values(
            f"{name}.weighted", "merging", "multiply", 2 * gone, width,
            groups=groups, operand=2 * gone,
        ),
        _values(f"{name}.sum", "merging", "add", gone, width, groups=groups),
        _values(f"{name}.mean", "merging", "divide", gone, width, groups=groups, operand=gone),
    )  # fmt: skip


def _values(
    name: str,
    part: str,
    function: str,
    vectors: int,
    width: int,
    combined: int = 0,
    *,
    groups: int = 1,
    operand: int | None = None,
) -> Operation:
    return Operation(
        name=name, kind="elementwise", part=part, vectors=vectors, out_features=width,
        in_features=combined, groups=groups, function=function, operand=operand,
    )  # fmt: skip
