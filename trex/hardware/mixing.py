"""What a consumer of maps makes itself, as operations: mixed and average maps, own class rows.

Its average maps are constants in a memory of their own, 8 bit each. What of the source's maps is
mixed into them is multiplied and added to them on the vector unit, as it is read. Own class
rows need no keys: the scores of a query q are its products with W_k of every input, which are the
products of W_kᵀq with the inputs. W_k lies transposed in its arrays; the products of so few
vectors with all inputs are done on the vector unit too, for which nothing is written to arrays
(docs/hardware.md compares both).
"""

from __future__ import annotations

from dataclasses import replace

from trex.architecture import Encoder, Operation
from trex.hardware.merging import means, moved_places, proportional, values
from trex.plan import Transform


def own_maps(
    encoder: Encoder, transform: Transform, tokens: int, own_rows: int
) -> tuple[Operation, ...]:
    """What `mixed` and `average` add to a map consumer: its constants and, mixed, the source's.

    Where tokens were merged, constants follow them: means of rows, sums of columns.

    Args:
        encoder: the original.
        transform: of its maps; others add nothing.
        tokens: in its attention.
        own_rows: of the map, that it computes.
    """
    if transform not in ("mixed", "average"):
        return ()
    name, heads, whole = f"blocks.{encoder.index}.mixing", encoder.heads, encoder.tokens
    rows, gone = tokens - own_rows, whole - tokens
    stored = heads * whole**2
    operations = [
        values(f"{name}.constants", "mixing", "", whole, whole, groups=heads, stored=stored)
    ]
    if gone:
        operations += [
            values(f"{name}.columns", "mixing", "add", whole - own_rows, gone, groups=heads),
            *means(name, "mixing", gone, tokens, heads, divided=min(gone, rows)),
        ]
    if transform == "mixed":  # sums that start from the constants
        fetched = heads * rows * tokens + heads**2
        operations.append(
            values(
                f"{name}.heads", "mixing", "multiply_add", rows, tokens, heads,
                groups=heads, operand=fetched,
            )
        )  # fmt: skip
    return tuple(operations)


def own_class_rows(encoder: Encoder, tokens: int, rows: int) -> tuple[Operation, ...]:
    """The class tokens' rows of a consumer's own map, from their queries on."""
    name, heads, dim = f"blocks.{encoder.index}.attn", encoder.heads, encoder.dim
    (query,) = (op for op in encoder.operations if op.part == "q")
    (softmax,) = (op for op in encoder.operations if op.part == "softmax")
    keys = Operation(
        name=f"{name}.class_keys", kind="static_matmul", part="k",
        vectors=rows, in_features=dim // heads, out_features=dim, groups=heads,
    )  # fmt: skip
    scores = values(
        f"{name}.class_scores", "own_rows", "multiply_add", tokens, heads * rows, dim,
        operand=tokens * dim,
    )  # fmt: skip
    sized = proportional(encoder, tokens, rows) if tokens < encoder.tokens else ()
    turned = [op for op in encoder.operations if op.part == "key_input"]
    if turned:  # keys are turned one by one, so they are computed
        (key,) = (op for op in encoder.operations if op.part == "k")
        whole = encoder.at(tokens, tokens)
        return (
            *moved_places(encoder, tokens),
            replace(query, vectors=rows),
            replace(key, vectors=tokens),
            *(op for op in whole.operations if op.part == "key_input"),
            values(
                f"{name}.class_scores", "own_rows", "multiply_add", tokens, heads * rows,
                dim // heads, operand=tokens * key.out_features,
            ),
            *sized,
            replace(softmax, vectors=rows, out_features=tokens),
        )  # fmt: skip
    biased = [op for op in encoder.operations if op.part == "score_bias"]
    if biased:
        sized = (
            *(replace(op, vectors=rows, out_features=tokens) for op in biased),
            *moved_places(encoder, tokens),
            *sized,
        )
    return (
        replace(query, vectors=rows),
        keys,
        scores,
        *sized,
        replace(softmax, vectors=rows, out_features=tokens),
    )
