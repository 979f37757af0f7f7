"""From an operator and its shapes to operations, for what is not plainly element by element.

A rule's operations carry a label as name and part ("scores", "linear", "pool"); `naming` puts the
module's path before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import ceil, prod
from typing import Final

from torch import Tensor

from trex.architecture import Operation, OperationKind
from trex.models.trace.call import Call
from trex.models.trace.operators import ELEMENTWISE, INTERPOLATIONS, REDUCTIONS, WINDOW_POOLS

#: Labels of matrix products: of any two activations, and of attention's.
MATMUL: Final = "matmul"
SCORES: Final = "scores"
CONTEXT: Final = "context"


def is_understood(operator: str) -> bool:
    """Whether `operations_of` can say what this operator does."""
    tables = (_RULES, ELEMENTWISE, REDUCTIONS, WINDOW_POOLS, INTERPOLATIONS)
    return any(operator in table for table in tables)


def operations_of(call: Call) -> list[Operation]:
    """What `call` does; its operator must be one that `is_understood`."""
    operator = call.operator
    if rule := _RULES.get(operator):
        return rule(call)
    shape = call.output.shape
    if operator in WINDOW_POOLS:
        return [_window_pool(call)]
    if operator in INTERPOLATIONS:
        return [elementwise("interpolate", shape, combined=INTERPOLATIONS[operator])]
    if operator in REDUCTIONS:
        values = next(call.tensors).numel()
        combined = ceil(values / call.output.numel())
        return [elementwise(REDUCTIONS[operator], shape, combined=combined)]
    return [elementwise(function, shape) for function in ELEMENTWISE[operator]]


def elementwise(function: str, shape: Sequence[int], combined: int = 0) -> Operation:
    """`function` put out in `shape`: C values a vector for (B, C, H, W), else the last axis.

    `combined` is how many values meet in each one put out, where that is more than one.
    """
    width = shape[1] if len(shape) == 4 else shape[-1] if shape else 1
    return Operation(
        name=function,
        part=function,
        kind="elementwise",
        function=function,
        vectors=prod(shape) // max(width, 1),
        in_features=combined,
        out_features=width,
    )


def _linear(call: Call) -> list[Operation]:
    inputs, weight = call.arguments["input"], call.arguments["weight"]
    features = inputs.shape[-1]
    operation = Operation(
        name="linear",
        part="linear",
        kind=_kind(call.varies("input") and call.varies("weight")),
        vectors=inputs.numel() // features,
        in_features=features,
        out_features=weight.numel() // features,
        bias=call.arguments["bias"] is not None,
    )
    return [operation]


def _convolution(call: Call) -> list[Operation]:
    inputs, weight = call.arguments["input"], call.arguments["weight"]
    groups = call.arguments["groups"]
    kernel = prod(weight.shape[2:])
    batch = inputs.shape[0]
    if call.arguments["transposed"]:
        # each input pixel spreads over a kernel of outputs, which then overlap and add
        vectors = batch * prod(inputs.shape[2:])
        in_features, out_features = weight.shape[0] // groups, weight.shape[1] * kernel
    else:
        vectors = batch * prod(call.output.shape[2:])
        in_features, out_features = weight.shape[1] * kernel, weight.shape[0] // groups
    operation = Operation(
        name="conv",
        part="conv",
        kind=_kind(call.varies("input") and call.varies("weight")),
        vectors=vectors,
        in_features=in_features,
        out_features=out_features,
        groups=groups,
        bias=call.arguments["bias"] is not None,
    )
    return [operation]


def _attention(call: Call) -> list[Operation]:
    """Fused attention, in the operations it stands for."""
    query, key, value = (call.arguments[name] for name in ("query", "key", "value"))
    *heads, rows, head_dim = query.shape
    keys = key.shape[-2]
    scores = (*heads, rows, keys)
    scores_vary = call.varies("query") or call.varies("key")
    context = _product(
        CONTEXT,
        (scores, scores_vary),
        ((*heads, keys, value.shape[-1]), call.varies("value")),
    )
    if not scores_vary:
        return [context]
    operations = []
    if call.arguments["scale"] != 1.0:
        operations.append(elementwise("scale", query.shape))
    # query heads that share keys and values still run one product each: (heads, ...) for all
    operations.append(
        _product(
            SCORES,
            (query.shape, call.varies("query")),
            ((*heads, head_dim, keys), call.varies("key")),
        )
    )
    if call.arguments["attn_mask"] is not None or call.arguments["is_causal"]:
        operations.append(elementwise("add", scores))
    return [*operations, _softmax_of(scores, -1), context]


def _matmul(call: Call, left: str = "self", right: str = "other") -> list[Operation]:
    a, b = call.arguments[left], call.arguments[right]
    shapes = (_distinct_shape(a), call.varies(left)), (_distinct_shape(b), call.varies(right))
    if call.provenance.is_probabilities(a):
        return [_product(CONTEXT, *shapes)]
    if call.provenance.is_probabilities(b):
        # V Aᵀ is (A Vᵀ)ᵀ: the probabilities stream through, V is what the arrays hold
        (a_shape, a_varies), (b_shape, b_varies) = shapes
        return [_product(CONTEXT, (_flipped(b_shape), b_varies), (_flipped(a_shape), a_varies))]
    return [_product(MATMUL, *shapes)]


def _bmm(call: Call) -> list[Operation]:
    return _matmul(call, "self", "mat2")


def _mv(call: Call) -> list[Operation]:
    return _matmul(call, "self", "vec")


def _addmm(call: Call) -> list[Operation]:
    (product,) = _matmul(call, "mat1", "mat2")
    if product.kind == "static_matmul" and not call.varies("self"):
        return [replace(product, bias=True)]
    return [product, elementwise("add", call.output.shape)]


def _baddbmm(call: Call) -> list[Operation]:
    return [*_matmul(call, "batch1", "batch2"), elementwise("add", call.output.shape)]


def _product(
    label: str, left: tuple[Sequence[int], bool], right: tuple[Sequence[int], bool]
) -> Operation:
    """(..., n, k) times (..., k, m), each with whether it varies; the right one is held.

    A constant is always what is held: one on the left turns the product round. Of a constant
    shared by several images or heads there is one copy, through which all of them stream.
    """
    (a, a_varies), (b, b_varies) = left, right
    if b_varies and not a_varies:
        return _product(label, (_flipped(_matrix(b, True)), True), (_flipped(_matrix(a)), False))
    a, b = _matrix(a), _matrix(b, True)
    rank = max(len(a), len(b))
    a_batch, b_batch = ((1,) * (rank - len(shape)) + tuple(shape[:-2]) for shape in (a, b))
    pairs = prod(max(sizes) for sizes in zip(a_batch, b_batch, strict=True))
    groups = pairs if b_varies else prod(b_batch)
    return Operation(
        name=label,
        part=label,
        kind=_kind(a_varies and b_varies),
        vectors=pairs // groups * a[-2],
        in_features=a[-1],
        out_features=b[-1],
        groups=groups,
    )


def _softmax(call: Call) -> list[Operation]:
    return [_softmax_of(call.output.shape, call.arguments["dim"])]


def _softmax_of(shape: Sequence[int], dim: int) -> Operation:
    scores = shape[dim]
    rows = prod(shape) // scores
    last = dim in (-1, len(shape) - 1)
    groups = prod(shape[:-2]) if last else 1
    return Operation(
        name="softmax",
        part="softmax",
        kind="softmax",
        vectors=rows // groups,
        out_features=scores,
        groups=groups,
    )


def _layer_norm(call: Call) -> list[Operation]:
    width = prod(call.arguments["normalized_shape"])
    return [elementwise("layer_norm", (call.output.numel() // width, width))]


def _multiply(call: Call) -> list[Operation]:
    both = call.varies("self") and call.varies("other")
    return [elementwise("multiply" if both else "scale", call.output.shape)]


def _divide(call: Call) -> list[Operation]:
    by_values = call.varies("other")
    return [elementwise("divide" if by_values else "scale", call.output.shape)]


def _glu(call: Call) -> list[Operation]:
    shape = call.output.shape
    return [elementwise("sigmoid", shape), elementwise("multiply", shape)]


def _fold(call: Call) -> list[Operation]:
    """`col2im` adds every value of its overlapping windows into the image."""
    return [elementwise("add", call.arguments["self"].shape)]


def _window_pool(call: Call) -> Operation:
    output, kernel = call.output, call.arguments["kernel_size"]
    spatial_rank = int(call.operator.split("d")[0][-1])
    sides = list(kernel) * (spatial_rank if len(kernel) == 1 else 1)
    return elementwise("pool", output.shape, combined=prod(sides))


def _kind(both_vary: bool) -> OperationKind:
    return "dynamic_matmul" if both_vary else "static_matmul"


def _matrix(shape: Sequence[int], on_the_right: bool = False) -> Sequence[int]:
    """A vector as the one-row (or one-column) matrix `matmul` takes it for."""
    if len(shape) > 1:
        return shape
    return (shape[0], 1) if on_the_right else (1, shape[0])


def _flipped(shape: Sequence[int]) -> tuple[int, ...]:
    return (*shape[:-2], shape[-1], shape[-2]) if len(shape) > 1 else tuple(shape)


def _distinct_shape(tensor: Tensor) -> tuple[int, ...]:
    """The shape with expanded batch dimensions, which repeat one matrix, back at 1."""
    strides = tensor.stride()
    return tuple(
        1 if stride == 0 and axis < tensor.dim() - 2 else size
        for axis, (size, stride) in enumerate(zip(tensor.shape, strides, strict=True))
    )


_RULES: Final[dict[str, Callable[[Call], list[Operation]]]] = {
    "addmm": _addmm,
    "baddbmm": _baddbmm,
    "bmm": _bmm,
    "col2im": _fold,
    "convolution": _convolution,
    "div": _divide,
    "glu": _glu,
    "layer_norm": _layer_norm,
    "linear": _linear,
    "log_softmax": _softmax,
    "matmul": _matmul,
    "mm": _bmm,
    "mul": _multiply,
    "mv": _mv,
    "scaled_dot_product_attention": _attention,
    "softmax": _softmax,
}
