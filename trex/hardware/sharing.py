"""What sharing rows of attention takes, as operations: matching in rounds, means of inputs.

Tokens that are alike share a row: they are matched as for merging, again and again, until so many
groups are left; a row's query is made of its tokens' mean input (in grids it is the mean of their
queries), and its output goes back to each of them. Moves cost nothing.
"""

from __future__ import annotations

from dataclasses import replace

from trex.architecture import Encoder, Operation
from trex.hardware.merging import likest, matching, means, places_width, values
from trex.plan import most_pairs


def repeated_matching(
    encoder: Encoder, tokens: int, rows: int, protected: int
) -> tuple[Operation, ...]:
    """Rounds of matching by keys until so many rows are left; the first is that of merging.

    In later rounds the keys of groups are compared, which are sums of tokens' keys but for a
    factor that cosines ignore. Products with sums are sums of products, so every round reads Kᵀ
    where it lies: at most all tokens but one for each group of the first half are in groups of the
    second, and as many columns, less one a group, are added up. Where tokens were merged before,
    keys and columns are weighted by their sizes first.
    """
    found = matching(encoder, tokens, by_keys=True)
    pairs = _pairs(tokens, rows, protected)
    left, number = tokens - pairs, 1
    while left > rows:
        found += _later_round(encoder, number, tokens, left, pairs)
        pairs = _pairs(left, rows, protected)
        left, number = left - pairs, number + 1
    return found


def _later_round(
    encoder: Encoder, number: int, tokens: int, left: int, pairs: int
) -> tuple[Operation, ...]:
    """A round of matching so many groups as are `left`, of which the last one joined `pairs`."""
    windows, heads, whole, width = encoder.attention
    name = f"blocks.{encoder.index}.matching.{number}"
    half = left // 2
    vectors, columns = left - half, tokens - (left - half)

    def each(
        where: str, function: str, many: int, out: int, operand: int | None = None
    ) -> Operation:
        return values(
            f"{name}.{where}", "matching", function, many, out, groups=windows, operand=operand
        )

    by_size = tokens < whole
    keys = [each("keys", "add", pairs, width)]
    if by_size and number == 1:  # sums of weighted keys are weighted
        keys.insert(0, each("weighted", "multiply", tokens, width, tokens))
    sums = [each("columns", "add", vectors, columns - half, 0)]
    if by_size:
        sums.insert(0, each("by_size", "multiply", vectors, columns, columns))
    compared = likest(
        name, left, vectors, columns,
        width=width, windows=windows, resident=windows * heads, between=tuple(sums),
    )  # fmt: skip
    return (replace(keys[0], waits=True), *keys[1:], *compared)


def shared_inputs(
    encoder: Encoder, tokens: int, rows: int, *, grid: bool
) -> tuple[Operation, ...]:
    """Means of what queries are made of, by size where tokens were merged before.

    In grids these are the queries themselves, and constants that are added to their scores.
    """
    name, (windows, _, whole, width) = f"blocks.{encoder.index}.sharing", encoder.attention
    gone = tokens - rows
    groups = min(gone, rows)  # of more than one token
    weighted = gone + groups if tokens < whole else 0
    wide = {name: width if grid else encoder.dim}
    if grid:
        wide |= {f"{name}.{constant}": whole for constant in _constants(encoder)}
    elif places := places_width(encoder):
        wide |= {f"{name}.places": places}
    elif _constants(encoder):
        wide |= {f"{name}.bias": encoder.heads * tokens}
    first, *others = (
        replace(op, operand=None if op.operand is None else op.operand * windows)
        for of, width in wide.items()
        for op in means(of, "sharing", gone, width, windows, weighted=weighted, divided=groups)
    )
    return (replace(first, waits=True), *others)


def _pairs(tokens: int, rows: int, protected: int) -> int:
    """How many pairs a round of matching makes, as `trex.reuse.merge.Sharing` does."""
    return min(tokens - rows, most_pairs(tokens, protected))


def _constants(encoder: Encoder) -> list[str]:
    """Names of what is added to all scores."""
    parts = [op.part for op in encoder.operations]
    on_scores = encoder.operations[parts.index("scores") + 1 : parts.index("softmax")]
    return [op.name.rpartition(".")[2] for op in on_scores if op.function == "add"]
