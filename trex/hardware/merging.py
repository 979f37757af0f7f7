"""What merging tokens takes, as operations: matching, merging, attention by size, reused tensors.

ToMe (arXiv 2210.09461, section 3): tokens are divided in turn into two halves; every token of the
one finds the token of the other it is most like, by the cosine of their keys' means over heads;
the likest pairs become one token each, their mean weighted by size; and the logarithm of a key's
size joins its scores (equation 1). Its gathers and scatters move values without arithmetic.
"""

from __future__ import annotations

import math

from trex.architecture import Encoder, Operation
from trex.plan import ReusedTensor


def matching(encoder: Encoder, tokens: int, *, by_keys: bool) -> tuple[Operation, ...]:
    """Who is most like whom: products of the halves, each by both norms; every best, the likest.

    The products of mean keys are the means of products with every head's keys, and Kᵀ lies in its
    arrays for the scores: it is read, in the order of columns that puts the second half's side by
    side, and nothing is written. A consumer has no keys; its tokens are matched by what enters
    it, as wide as the model, of which one half is written.
    """
    name, half = f"blocks.{encoder.index}.matching", tokens // 2
    windows, heads, _, width = encoder.attention
    if not by_keys:
        windows, heads, width = 1, 0, encoder.dim
    mean = values(f"{name}.metric", "matching", "mean", tokens, width, heads, groups=windows)
    found = likest(
        name, tokens, tokens - half, half, width=width, windows=windows, resident=heads * windows
    )
    return (mean, *found) if by_keys else found


def likest(
    name: str,
    left: int,
    vectors: int,
    columns: int,
    *,
    width: int,
    windows: int,
    resident: int,
    between: tuple[Operation, ...] = (),
) -> tuple[Operation, ...]:
    """One round of matching, from the vectors that are compared on.

    Of n best likenesses the largest are found by sorting them: n·log2(n) comparisons.

    Args:
        name: before every operation's.
        left: vectors.
        vectors: of them in the first half; the others are the second.
        columns: of the matrix by which the first half is multiplied.
        width: of a vector.
        windows: that are matched apart.
        resident: matrices that lie in arrays already; 0 where they are written.
        between: what makes the products with the second half of those with the columns.
    """
    half = left - vectors
    comparisons = math.ceil(math.log2(max(vectors, 2)))

    def each(
        where: str,
        function: str,
        rows: int,
        out: int,
        combined: int = 0,
        operand: int | None = None,
    ) -> Operation:
        return values(
            f"{name}.{where}", "matching", function, rows, out, combined,
            groups=windows, operand=None if operand is None else operand * windows,
        )  # fmt: skip

    return (
        each("norm", "vector_norm", left, 1, width),
        Operation(
            name=f"{name}.similarity", kind="dynamic_matmul", part="matching",
            vectors=vectors, in_features=width, out_features=columns, groups=windows,
            resident_groups=resident,
        ),
        *between,
        each("scaled", "divide", vectors, half, operand=half),
        each("best", "max", vectors, 1, half),
        each("cosine", "divide", vectors, 1, operand=vectors),
        each("top", "compare", 1, vectors, comparisons),
    )  # fmt: skip


def merging(encoder: Encoder, pairs: int) -> tuple[Operation, ...]:
    """`pairs` of tokens become one each, by size; their sizes add up."""
    name = f"blocks.{encoder.index}.merging"
    return (
        *means(name, "merging", pairs, encoder.dim, weighted=2 * pairs),
        values(f"{name}.new_sizes", "merging", "add", 1, pairs),
    )


def reused_merging(
    encoder: Encoder, source_tokens: int, tokens: int, tensor: ReusedTensor, own_rows: int = 0
) -> tuple[Operation, ...]:
    """What a consumer does with a tensor of a source whose tokens have since become fewer.

    Rows of an output, or of a map, become their means by size; of a map, columns also add up.
    `own_rows` of the map are not needed; these are class tokens', which never merge.
    """
    name, gone = f"blocks.{encoder.index}.reused", source_tokens - tokens
    if tensor == "output":
        return means(name, "merging", gone, encoder.dim, weighted=2 * gone)
    columns = values(
        f"{name}.columns", "merging", "add", source_tokens - own_rows, gone, groups=encoder.heads
    )
    rows = means(name, "merging", gone, tokens, encoder.heads, weighted=2 * gone)
    return (columns, *rows)


def proportional(encoder: Encoder, tokens: int, rows: int) -> tuple[Operation, ...]:
    """The logarithm of every key's size, and its addition to all scores of that key."""
    name = f"blocks.{encoder.index}.attn"
    return (
        values(f"{name}.log_sizes", "proportional", "log", 1, tokens),
        values(
            f"{name}.proportional", "proportional", "add", rows, tokens,
            groups=encoder.heads, operand=tokens,
        ),
    )  # fmt: skip


def moved_places(encoder: Encoder, tokens: int) -> tuple[Operation, ...]:
    """Places of tokens of which some were merged: means of rotations, or of biases.

    In every encoder anew, from those of the model's first tokens. Of biases these are means of
    columns, then of rows.
    """
    name, whole = f"blocks.{encoder.index}.places", encoder.tokens
    gone, heads = whole - tokens, encoder.heads
    if not gone:
        return ()
    if width := places_width(encoder):
        return means(name, "merging", gone, width)
    if not any(op.part == "score_bias" for op in encoder.operations):
        return ()
    return (
        *means(f"{name}.columns", "merging", gone, whole, heads),
        *means(f"{name}.rows", "merging", gone, tokens, heads),
    )


def places_width(encoder: Encoder) -> int:
    """Sines and cosines of a token's place, of all heads that have their own; 0 without any."""
    tables = (op for op in encoder.operations if op.part == "key_input" and op.operand)
    return sum((op.operand or 0) // op.vectors for op in tables)


def means(
    name: str,
    part: str,
    gone: int,
    width: int,
    groups: int = 1,
    *,
    weighted: int = 0,
    divided: int | None = None,
) -> tuple[Operation, ...]:
    """Means of rows of which so many are gone: as many additions, at most as many divisions.

    At most twice as many rows take part, where all groups are pairs; by size, each of these is
    `weighted` first. A row is multiplied and divided by one size.
    """
    divided = gone if divided is None else divided
    by_size = values(
        f"{name}.weighted", part, "multiply", weighted, width, groups=groups, operand=weighted
    )
    return (
        *((by_size,) if weighted else ()),
        values(f"{name}.sum", part, "add", gone, width, groups=groups),
        values(f"{name}.mean", part, "divide", divided, width, groups=groups, operand=divided),
    )


def values(
    name: str,
    part: str,
    function: str,
    vectors: int,
    width: int,
    combined: int = 0,
    *,
    groups: int = 1,
    operand: int | None = None,
    stored: int = 0,
) -> Operation:
    """An element-wise operation; `combined`: values that make one."""
    return Operation(
        name=name, kind="elementwise", part=part, vectors=vectors, out_features=width,
        in_features=combined, groups=groups, function=function, operand=operand, stored=stored,
    )  # fmt: skip
