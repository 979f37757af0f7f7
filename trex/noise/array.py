"""Reads of a crossbar, bit by bit: the reference that the fast model is measured against.

Letters in tensor names as in `trex.noise.coding`; R row tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

import torch
from torch import Tensor

from trex.noise.coding import InputCode, WeightCode, to_tiles
from trex.noise.errors import ConverterErrors, disturb
from trex.noise.physics import Physics
from trex.noise.source import NoiseSource
from trex.reuse.precision import fastest_precision

#: bf16 holds every whole number up to this.
_WHOLE_IN_BF16: Final = 256
#: Few enough for a core's cache.
_READS_AT_ONCE: Final = 1 << 20

_Number = TypeVar("_Number", Tensor, float)


@dataclass(frozen=True, slots=True)
class Cells:
    """A matrix as an array holds it, in levels.

    Attributes:
        levels: (S, …, I, O), what a column's current counts; with offset encoding also Gmin.
        meant: (S, …, I, O), levels before write noise; the same tensor where there is none.
        power: (S, …, I, O), the sum of G² over the cells of a weight's slice.
        whole: (S, …, I, O), levels without Gmin where writing left them whole numbers.
        scale: what the array's outputs are multiplied by, digitally, against drift.
    """

    levels: Tensor
    meant: Tensor
    power: Tensor
    whole: Tensor | None = None
    scale: float = 1.0


def store(
    integers: Tensor,
    physics: Physics,
    code: WeightCode,
    normal: NoiseSource | None,
    held: NoiseSource | None = None,
) -> Cells:
    """Write a matrix (…, I, O) of integers into cells, with write noise unless `normal` is None.

    G' = G + γσ·√((G−Gmin)(Gmax−Gmin))·N(0, 1) (ClipFormer): a cell at Gmin stays where it is.
    `held` is where what an instance has for good comes from (stuck cells); `normal` unless given.
    """
    slices = code.slices(integers)
    offset = code.encoding == "offset"
    meant = slices + physics.pedestal if offset else slices
    levels, conductance = meant, slices.abs()
    whole: Tensor | None = slices
    if normal is not None and physics.cells_err:
        found = disturb(slices, physics, normal, held or normal)
        return Cells(found.levels, meant, found.power, None, found.scale)
    if normal is not None and physics.write_sigma:
        whole = None
        deviation = physics.write_sigma * (conductance * physics.top_level).sqrt()
        conductance = conductance + deviation * normal(conductance.shape, conductance.device)
        levels = conductance + physics.pedestal if offset else conductance * slices.sign()
    power = (conductance + physics.pedestal).square()
    return Cells(levels, meant, power if offset else power + physics.pedestal**2, whole)


@dataclass(frozen=True, slots=True)
class Converter:
    """The ADCs of a layer.

    Attributes:
        steps: (S, O) or (S, 1), the least difference told apart, in levels.
        codes: the least and the greatest code.
        errors: of an instance's converters; None where they only round and clip.
    """

    steps: Tensor
    codes: tuple[int, int]
    errors: ConverterErrors | None = None

    def __call__(self, sums: Tensor, s: int) -> Tensor:
        """What the converters of slice `s` put out for column sums (…, O), in levels."""
        steps = sums / self.steps[s]
        if self.errors is not None:
            steps = self.errors(steps, s)
        return steps.round_().clamp_(*self.codes).mul_(self.steps[s])


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
    return _reads(inputs, _columns(cells, physics), code, physics)


#: What columns of slice `s` make of lines (…, R, V, rows): sums and power, (…, R, V, O).
_Columns = Callable[[Tensor, int], tuple[Tensor, Tensor]]


def _reads(inputs: Tensor, columns: _Columns, code: InputCode, physics: Physics) -> Iterator[Read]:
    tiles = to_tiles(inputs, physics.rows).transpose(-3, -2)
    slices = len(WeightCode.of(physics).weights)
    for k in range(len(code.weights)):
        plane = code.plane(tiles, k)
        for s in range(slices):
            yield Read(k, s, *columns(plane, s))


def _columns(cells: Cells, physics: Physics) -> _Columns:
    most = physics.rows * max(physics.top_level, _pairs(physics.top_level))
    if cells.whole is not None and most <= _WHOLE_IN_BF16:
        return _whole_columns(cells.whole, physics)
    levels = _matrix_tiles(cells.levels, physics.rows)
    power = _matrix_tiles(cells.power, physics.rows)

    def read(plane: Tensor, s: int) -> tuple[Tensor, Tensor]:
        sums = plane @ levels[s]
        return sums, plane.square() @ power[s] if physics.read_sigma else _nothing(sums)

    return read


def _whole_columns(whole: Tensor, physics: Physics) -> _Columns:
    """The same in whole numbers, which half precision holds exactly and multiplies faster.

    With L levels and Gmin = p, (L + p)² = L(1 + 2p) + 2·L(L − 1)/2 + p².
    """
    fastest = getattr(torch, fastest_precision())
    levels = _matrix_tiles(whole, physics.rows).to(fastest)
    sizes = levels.abs()
    pairs = _pairs(sizes)
    p, offset = physics.pedestal, physics.encoding == "offset"

    def read(plane: Tensor, s: int) -> tuple[Tensor, Tensor]:
        lines = plane.to(fastest)
        sums = (lines @ levels[s]).float()
        if offset and not p and not physics.read_sigma:
            return sums, _nothing(sums)
        fed = lines.abs()
        count = fed.sum(dim=-1, keepdim=True, dtype=torch.float32)
        if not physics.read_sigma:
            power = _nothing(sums)
        else:
            power = sums if offset else (fed @ sizes[s]).float()
            power = torch.add(count * ((1 if offset else 2) * p * p), power, alpha=1 + 2 * p)
            if physics.top_level > 1:
                power.add_(fed @ pairs[s], alpha=2)
        return sums.add_(count, alpha=p) if offset else sums, power

    return read


def _pairs(levels: _Number) -> _Number:
    return levels * (levels - 1) / 2


def _nothing(sums: Tensor) -> Tensor:
    return sums.new_zeros(()).expand_as(sums)


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
    columns = _columns(cells, physics)
    matrices, width = cells.levels.shape[1:-2].numel(), cells.levels.shape[-1]
    reads_of_vector = matrices * -(-inputs.shape[-1] // physics.rows) * width
    blocks = torch.split(inputs, max(1, _READS_AT_ONCE // reads_of_vector), dim=-2)
    outputs = []
    for block in blocks:
        total = block.new_zeros(*block.shape[:-1], width)
        for read in _reads(block, columns, input_code, physics):
            sums = read.sums
            if physics.read_sigma:
                deviation = read.power.sqrt_()
                noise = normal(sums.shape, sums.device)
                sums = sums.addcmul_(deviation, noise, value=physics.read_sigma)
            counted = input_code.weights[read.k] * weight_code.weights[read.s]
            total.add_(converter(sums, read.s).sum(dim=-3), alpha=counted)
        outputs.append(total if cells.scale == 1 else total.mul_(cells.scale))
    # known exactly, so subtracted digitally
    excess = inputs.sum(dim=-1, keepdim=True) * excess_each(weight_code, physics)
    return torch.cat(outputs, dim=-2).sub_(excess)


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
