"""How a matrix lies on crossbar arrays; for one matrix, or for many shapes at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from trex.hardware.chip import ArrayModel

#: A whole number, or an integer array with one entry a shape.
Whole = Any


class MatmulShape(Protocol):
    """What mapping needs of a matrix product: an `Operation`, or many shapes as arrays."""

    @property
    def name(self) -> str:
        """The operation's name."""

    @property
    def kind(self) -> str:
        """`static_matmul` or `dynamic_matmul`."""

    @property
    def part(self) -> str:
        """What it is in its encoder."""

    @property
    def vectors(self) -> Whole:
        """Input vectors."""

    @property
    def in_features(self) -> Whole:
        """Rows of one matrix."""

    @property
    def out_features(self) -> Whole:
        """Columns of one matrix."""

    @property
    def groups(self) -> Whole:
        """Matrices side by side."""

    @property
    def resident_groups(self) -> int:
        """Groups' matrices that another operation has written and this one reads the mean of."""

    @property
    def elements(self) -> Whole:
        """Values put out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ArrayMapping:
    """`arrays` hold one copy of the matrix; `placed_arrays` are paid for in area.

    `row_blocks` arrays one below the other give partial sums of the same output. `used` is the
    share of the arrays' cells that hold weights, `used_rows` that of their rows.
    """

    arrays: Whole
    placed_arrays: Whole
    row_blocks: Whole
    used: Any
    used_rows: Any


def map_matmul(
    op: MatmulShape, array: ArrayModel, *, packed_heads: bool, columns_a_slice: int = 1
) -> ArrayMapping:
    """Place a matrix product's matrices on arrays.

    Groups (heads, or the channels of a grouped convolution) have inputs of their own, so two can
    share an array only along its diagonal, where each has its own rows and its own columns; this
    is done where a group's matrix fits twice or more. With `packed_heads` the heads of a dynamic
    matrix share rows or columns as one t×d matrix, as the TReX paper counts them (Table II).
    A slice takes `columns_a_slice`: two where signs take a second one.
    """
    rows, columns, slices = array.rows, array.columns, array.weight_slices
    groups, height, width = op.resident_groups or op.groups, op.in_features, op.out_features
    if packed_heads and op.kind == "dynamic_matmul":
        if op.part == "scores":
            groups, height = groups * 0 + 1, groups * height
        else:
            groups, width = groups * 0 + 1, groups * width
    cells_wide = (width * slices if array.slices_share_array else width) * columns_a_slice
    fitting = least(rows // height, columns // cells_wide)
    on_diagonal = (groups > 1) & (fitting >= 2)
    row_blocks = _choose(on_diagonal, 1, _ceil_div(height, rows))
    blocks = _choose(
        on_diagonal,
        _ceil_div(groups, _choose(on_diagonal, fitting, 1)),
        groups * row_blocks * _ceil_div(cells_wide, columns),
    )
    arrays = blocks if array.slices_share_array else blocks * slices
    tile = array.arrays_per_tile
    return ArrayMapping(
        arrays=arrays,
        placed_arrays=_ceil_div(arrays * array.copies, tile) * tile,
        row_blocks=row_blocks,
        used=op.groups
        * op.in_features
        * op.out_features
        * slices
        * columns_a_slice
        / (arrays * rows * columns),
        used_rows=_choose(
            on_diagonal,
            groups * height / (blocks * rows),
            height / (row_blocks * rows),
        ),
    )


def least(one: Whole, other: Whole) -> Whole:
    """The smaller number, entry by entry where they are arrays."""
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return np.minimum(one, other)
    return min(one, other)


def most(one: Any, other: Any) -> Any:
    """The larger number, entry by entry where they are arrays."""
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return np.maximum(one, other)
    return max(one, other)


def _ceil_div(number: Whole, by: Whole) -> Whole:
    return -(-number // by)


def _choose(where: Any, one: Whole, other: Whole) -> Whole:
    if isinstance(where, np.ndarray):
        return np.where(where, one, other)
    return one if where else other
