"""What each PyTorch operator is to a cost model, by its name without overload and `_` suffix.

An operator that is in none of these tables, has no rule in `rules`, and does not decompose into
operators that are, is reported as uncounted. So a table that lacks a name costs a line in the
report, never a silent zero: add only what has been looked at.
"""

from __future__ import annotations

from typing import Final

# fmt: off

#: Move, copy, reinterpret or look up values; no arithmetic.
FREE: Final = frozenset({
    # the same values under another shape
    "alias", "as_strided", "chunk", "contiguous", "detach", "diagonal", "expand", "expand_as",
    "flatten", "lift", "lift_fresh", "moveaxis", "movedim", "narrow", "permute", "reshape",
    "reshape_as", "select", "slice", "split", "split_with_sizes", "squeeze", "swapaxes",
    "swapdims", "t", "tensor_split", "transpose", "unbind", "unflatten", "unfold", "unsafe_chunk",
    "unsafe_split", "unsafe_split_with_sizes", "unsqueeze", "view", "view_as",
    # copies of them, in another order, number, place or type
    "_to_copy", "cat", "channel_shuffle", "clone", "column_stack", "concat", "concatenate",
    "constant_pad_nd", "copy", "flip", "hstack", "im2col", "pad", "pixel_shuffle",
    "pixel_unshuffle", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "repeat",
    "repeat_interleave", "replication_pad1d", "replication_pad2d", "replication_pad3d", "roll",
    "rot90", "select_scatter", "slice_scatter", "stack", "tile", "to", "tril", "triu", "type_as",
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "vstack",
    # look-ups
    "embedding", "gather", "index", "index_select", "take_along_dim",
    # nothing in evaluation mode
    "alpha_dropout", "dropout", "feature_alpha_dropout", "feature_dropout",
})

#: Take a tensor for its shape, type or device only: the result does not depend on its values.
SHAPE_ONLY: Final = frozenset({
    "empty_like", "full_like", "new_empty", "new_empty_strided", "new_full", "new_ones",
    "new_zeros", "ones_like", "zeros_like",
})

#: Slide a window over the image; `kernel_size` says how many values meet in each one put out.
WINDOW_POOLS: Final = frozenset({
    "avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool1d", "max_pool1d_with_indices",
    "max_pool2d", "max_pool2d_with_indices", "max_pool3d", "max_pool3d_with_indices",
})

# fmt: on

#: One function applied to each value put out, and what `Operation.function` calls it.
ELEMENTWISE: Final[dict[str, tuple[str, ...]]] = {
    "abs": ("abs",),
    "add": ("add",),
    "addcdiv": ("divide", "add"),
    "addcmul": ("multiply", "add"),
    "batch_norm": ("batch_norm",),
    "celu": ("elu",),
    "clamp": ("clamp",),
    "clamp_max": ("clamp",),
    "clamp_min": ("clamp",),
    "clip": ("clamp",),
    "cos": ("cos",),
    "elu": ("elu",),
    "eq": ("compare",),
    "erf": ("erf",),
    "exp": ("exp",),
    "ge": ("compare",),
    "gelu": ("gelu",),
    "group_norm": ("group_norm",),
    "gt": ("compare",),
    "hardsigmoid": ("hard_sigmoid",),
    "hardswish": ("hard_swish",),
    "hardtanh": ("relu6",),
    "instance_norm": ("instance_norm",),
    "le": ("compare",),
    "leaky_relu": ("leaky_relu",),
    "log": ("log",),
    "lt": ("compare",),
    "masked_fill": ("select",),
    "maximum": ("max",),
    "minimum": ("min",),
    "mish": ("mish",),
    "ne": ("compare",),
    "neg": ("negate",),
    "pow": ("pow",),
    "prelu": ("prelu",),
    "reciprocal": ("divide",),
    "relu": ("relu",),
    "relu6": ("relu6",),
    "rms_norm": ("rms_norm",),
    "rsqrt": ("rsqrt",),
    "rsub": ("add",),
    "selu": ("elu",),
    "sigmoid": ("sigmoid",),
    "silu": ("silu",),
    "sin": ("sin",),
    "softplus": ("softplus",),
    "sqrt": ("sqrt",),
    "square": ("pow",),
    "sub": ("add",),
    "tanh": ("tanh",),
    "where": ("select",),
}

#: Combine several values into each one put out, and what `Operation.function` calls it.
REDUCTIONS: Final[dict[str, str]] = {
    "adaptive_avg_pool1d": "pool",
    "adaptive_avg_pool2d": "pool",
    "adaptive_avg_pool3d": "pool",
    "adaptive_max_pool1d": "pool",
    "adaptive_max_pool2d": "pool",
    "adaptive_max_pool3d": "pool",
    "amax": "max",
    "amin": "min",
    "linalg_vector_norm": "vector_norm",
    "logsumexp": "logsumexp",
    "max": "max",
    "mean": "pool",
    "min": "min",
    "norm": "vector_norm",
    "prod": "multiply",
    "std": "variance",
    "std_mean": "variance",
    "sum": "sum",
    "var": "variance",
    "var_mean": "variance",
}

#: Interpolation between pixels: how many of them meet in each value put out.
INTERPOLATIONS: Final[dict[str, int]] = {
    "upsample_linear1d": 2,
    "upsample_bilinear2d": 4,
    "upsample_trilinear3d": 8,
    "upsample_bicubic2d": 16,
}
