"""The fast model: an array's output as its mean plus normal noise of the same power.

The variance of one output has three parts, all sums over rows and input bits:

- read noise: σ_R² Σ weight_k²·plane_k² · Σ weight_s²·G_s², one more matrix product. What the
  converter's rounding passes on of it is a share for each slice.
- the converter's own error (rounding, clipping): a power for each input bit and column, counted
  for every row tile that is fed anything at that bit.
- write noise: exact, since it only changes the matrix.

Both factors are estimated from bit-by-bit reads of calibration vectors (`estimate`), so that the
power agrees whatever the error's distribution: near zero it is not uniform.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trex.hardware.noise.array import Cells, Converter, reads, store
from trex.hardware.noise.coding import InputCode, WeightCode, to_tiles
from trex.hardware.noise.physics import Physics
from trex.hardware.noise.source import NoiseSource


@dataclass(frozen=True, slots=True)
class Moments:
    """What the converters make of a layer's reads.

    Attributes:
        passed: (S,), the share of the read noise's power behind the converter.
        floor: (K, O) or (K, 1), error power a fed row tile, in the integers' units squared.
    """

    passed: Tensor
    floor: Tensor


def estimate(
    inputs: Tensor,
    cells: Cells,
    *,
    input_code: InputCode,
    weight_code: WeightCode,
    physics: Physics,
    converter: Converter,
    normal: NoiseSource,
    by_column: bool,
) -> Moments:
    """Read calibration vectors (…, V, I) bit by bit and measure what the converters add."""
    bits, slices = len(input_code.weights), len(weight_code.weights)
    device, columns = inputs.device, cells.levels.shape[-1]
    fed = input_code.active_bits(to_tiles(inputs, physics.rows)).flatten(0, -2).sum(0)
    errors = torch.zeros(slices, bits, columns, device=device, dtype=torch.float64)
    noises = torch.zeros_like(errors)
    slope = torch.zeros(slices, 2, device=device, dtype=torch.float64)
    for read in reads(inputs, cells, input_code, physics):
        noise = read.power * physics.read_sigma**2
        sums = read.sums + noise.sqrt() * normal(noise.shape, device) if _noisy(physics) else None
        error = (converter(read.sums if sums is None else sums, read.s) - read.sums).square_()
        errors[read.s, read.k] = error.flatten(0, -2).sum(0, dtype=torch.float64)
        noises[read.s, read.k] = noise.flatten(0, -2).sum(0, dtype=torch.float64)
        slope[read.s] += input_code.weights[read.k] ** 4 * _regression(noise, error)
    passed = (slope[:, 0] / slope[:, 1].clamp_min(1e-30)).clamp_(0, 1)
    own = errors - passed[:, None, None] * noises
    s_weights = torch.tensor(weight_code.weights, device=device, dtype=torch.float64).square()
    k_weights = torch.tensor(input_code.weights, device=device, dtype=torch.float64).square()
    reads_each = fed.clamp_min(1).double()
    if not by_column:
        own = own.mean(dim=-1, keepdim=True)
    floor = (own * s_weights[:, None, None]).sum(0) * (k_weights / reads_each)[:, None]
    return Moments(passed.float(), floor.float())


def _noisy(physics: Physics) -> bool:
    return physics.read_sigma > 0


def _regression(x: Tensor, y: Tensor) -> Tensor:
    """Covariance of x and y, variance of x, over the reads in which there is noise."""
    some = x > 0
    x, y = x[some].double(), y[some].double()
    if len(x) < 2:
        return torch.zeros(2, device=x.device, dtype=torch.float64)
    x = x - x.mean()
    return torch.stack([(x * y).mean(), x.square().mean()])


def power_of(cells: Cells, weight_code: WeightCode, passed: Tensor) -> Tensor:
    """Σ_s passed_s · weight_s² · G_s², (…, I, O)."""
    weights = torch.tensor(weight_code.weights, device=passed.device).square() * passed
    return torch.tensordot(weights, cells.power, dims=1)


def value_of(cells: Cells, weight_code: WeightCode, physics: Physics) -> Tensor:
    """The matrix the cells amount to, in the integers' units, write noise included; (…, I, O)."""
    weights = torch.tensor(weight_code.weights, device=cells.levels.device).float()
    value = torch.tensordot(weights, cells.levels, dims=1)
    if weight_code.encoding == "offset":
        value = value - (weight_code.offset + physics.pedestal * float(weights.sum()))
    return value


@dataclass(frozen=True, slots=True)
class WriteTables:
    """By integer, −limit first: what writing it does on average.

    Attributes:
        deviation: standard deviation of the stored value, in the integers' units.
        power: mean of Σ_s passed_s · weight_s² · G_s².
    """

    deviation: Tensor
    power: Tensor

    @classmethod
    def of(cls, physics: Physics, code: WeightCode, passed: Tensor) -> WriteTables:
        """The tables of an array whose matrix is written anew for every image."""
        integers = code.all_integers(passed.device)
        cells = store(integers, physics, code, None)
        levels = code.slices(integers).abs()
        variance = physics.write_sigma**2 * levels * physics.top_level
        written = Cells(cells.levels, cells.power + variance)
        weights = torch.tensor(code.weights, device=passed.device).float().square()
        return cls(
            deviation=torch.tensordot(weights, variance, dims=1).sqrt(),
            power=power_of(written, code, passed),
        )
