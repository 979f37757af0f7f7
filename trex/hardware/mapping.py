"""How a matrix lies on crossbar arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trex.architecture import Operation
from trex.hardware.chip import ArrayModel


@dataclass(frozen=True, kw_only=True, slots=True)
class ArrayMapping:
    """`arrays` hold one copy of the matrix; `placed_arrays` are paid for in area.

    `row_blocks` arrays one below the other give partial sums of the same output. `used` is the
    share of the arrays' cells that hold weights.
    """

    arrays: int
    placed_arrays: int
    row_blocks: int
    used: float


def map_matmul(op: Operation, array: ArrayModel, *, packed_heads: bool) -> ArrayMapping:
    """Place a matrix product's matrices on arrays.

    Groups (heads, or the channels of a grouped convolution) have inputs of their own, so two can
    share an array only along its diagonal, where each has its own rows and its own columns; this
    is done where a group's matrix fits twice or more. With `packed_heads` the heads of a dynamic
    matrix share rows or columns as one t×d matrix, as the TReX paper counts them (Table II).
    """
    rows, columns, slices = array.rows, array.columns, array.weight_slices
    groups, height, width = op.groups, op.in_features, op.out_features
    if packed_heads and op.kind == "dynamic_matmul":
        if op.part == "scores":
            groups, height = 1, groups * height
        else:
            groups, width = 1, groups * width
    cells_wide = width * slices if array.slices_share_array else width
    on_diagonal = min(rows // height, columns // cells_wide) if groups > 1 else 0
    if on_diagonal >= 2:
        row_blocks, blocks = 1, math.ceil(groups / on_diagonal)
    else:
        row_blocks = math.ceil(height / rows)
        blocks = groups * row_blocks * math.ceil(cells_wide / columns)
    arrays = blocks * (1 if array.slices_share_array else slices)
    tile = array.arrays_per_tile
    return ArrayMapping(
        arrays=arrays,
        placed_arrays=math.ceil(arrays * array.copies / tile) * tile,
        row_blocks=row_blocks,
        used=op.groups * op.in_features * op.out_features * slices / (arrays * rows * columns),
    )
