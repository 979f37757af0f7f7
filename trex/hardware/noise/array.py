"""Reads of a crossbar, bit by bit: the reference that the fast model is measured against.

Letters in tensor names as in `trex.hardware.noise.coding`; R row tiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from trex.hardware.noise.coding import InputCode, WeightCode, to_tiles
from trex.hardware.noise.physics import Physics
from trex.hardware.noise.source import NoiseSource


@dataclass(frozen=True, slots=True)
class Cells:
    """A matrix as an array holds it, in levels.

    Attributes:
        levels: (S, …, I, O), what a column's current counts; with offset encoding also Gmin.
        power: (S, …, I, O), the sum of G² over the cells of a weight's slice.
    """

    levels: Tensor
    power: Tensor


def store(
    integers: Tensor, physics: Physics, code: WeightCode, normal: NoiseSource | None
) -> Cells:
    """Write a matrix (…, I, O) of integers into cells, with write noise unless `normal` is None.

    G' = G + γσ·√((G−Gmin)(Gmax−Gmin))·N(0, 1) (ClipFormer): a cell at Gmin stays where it is.
    """
    slices = code.slices(integers)
    conductance = slices.abs()
    if normal is not None and physics.write_sigma:
        deviation = physics.write_sigma * (conductance * physics.top_level).sqrt()
        conductance = conductance + deviation * normal(conductance.shape, conductance.device)
    raised = conductance + physics.pedestal
    if code.encoding == "offset":
        return Cells(raised, raised.square())
    return Cells(conductance * slices.sign(), raised.square() + physics.pedestal**2)


@dataclass(frozen=True, slots=True)
class Converter:
    """The ADCs of a layer.

    Attributes:
        steps: (S, O) or (S, 1), the least difference told apart, in levels.
        codes: the least and the greatest code.
    """

    steps: Tensor
    codes: tuple[int, int]

    def __call__(self, sums: Tensor, s: int) -> Tensor:
        """What the converters of slice `s` put out for column sums (…, O), in levels."""
        return (sums / self.steps[s]).round_().clamp_(*self.codes).mul_(self.steps[s])


def code_limits(physics: Physics) -> tuple[int, int]:
    """Signed codes behind a pair of columns, unsigned ones behind a single one."""
    if physics.encoding == "offset":
        return 0, (1 << physics.adc_bits) - 1
    return -(1 << (physics.adc_bits - 1)), (1 << (physics.adc_bits - 1)) - 1


def worst_case(physics: Physics) -> float:
    """The greatest column sum a full array of full cells can give, in levels."""
    pedestal = physics.pedestal if physics.encoding == "offset" else 0.0
    return physics.rows * (physics.top_level + pedestal)


@dataclass(frozen=True, slots=True)
class Read:
    """The reads of all tiles of one slice for one input bit, (…, R, V, O).

    Attributes:
        k: the input bit.
        s: the slice.
        sums: the columns' sums without read noise, in levels.
        power: Σ plane²·G², what the read noise's variance is σ_R² times of.
    """

    k: int
    s: int
    sums: Tensor
    power: Tensor


def reads(inputs: Tensor, cells: Cells, code: InputCode, physics: Physics) -> Iterator[Read]:
    """Every read it takes to multiply integers (…, V, I) by a stored (…, I, O)."""
    levels = _matrix_tiles(cells.levels, physics.rows)
    power = _matrix_tiles(cells.power, physics.rows)
    tiles = to_tiles(inputs, physics.rows).transpose(-3, -2)
    for k in range(len(code.weights)):
        plane = code.plane(tiles, k)
        fed = plane.square()
        for s in range(len(levels)):
            yield Read(k, s, plane @ levels[s], fed @ power[s])


def exact_product(
    inputs: Tensor,
    cells: Cells,
    *,
    input_code: InputCode,
    weight_code: WeightCode,
    physics: Physics,
    converter: Converter,
    normal: NoiseSource,
) -> Tensor:
    """What the array puts out for integers (…, V, I) times its matrix, (…, V, O).

    The read noise of a column is one normal number per read: a sum of independent normal noises
    of cells that no other column shares.
    """
    total: Tensor | None = None
    for read in reads(inputs, cells, input_code, physics):
        sums = read.sums
        if physics.read_sigma:
            deviation = read.power.sqrt_().mul_(physics.read_sigma)
            sums = sums.addcmul_(deviation, normal(sums.shape, sums.device))
        counted = input_code.weights[read.k] * weight_code.weights[read.s]
        part = converter(sums, read.s).sum(dim=-3).mul_(counted)
        total = part if total is None else total.add_(part)
    assert total is not None
    # known exactly, so subtracted digitally
    return total - inputs.sum(dim=-1, keepdim=True) * excess_each(weight_code, physics)


def excess_each(code: WeightCode, physics: Physics) -> float:
    """What offset storage adds to every weight, in the integers' units."""
    if code.encoding != "offset":
        return 0.0
    return code.offset + physics.pedestal * sum(code.weights)


def _matrix_tiles(matrix: Tensor, rows: int) -> Tensor:
    """(…, I, O) to (…, R, rows, O)."""
    missing = -matrix.shape[-2] % rows
    padded = torch.nn.functional.pad(matrix, (0, 0, 0, missing)) if missing else matrix
    return torch.unflatten(padded, -2, (-1, rows))
