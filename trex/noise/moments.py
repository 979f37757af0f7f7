"""The fast model: an array's output as its mean plus normal noise of the same power.

The variance of one output has three parts, all sums over rows and input bits:

- read noise: σ_R² Σ weight_k²·plane_k² · Σ weight_s²·G_s², one more matrix product. What the
  converter makes of it is a factor for each slice.
- the converter's own error (rounding, clipping): a power for each input bit and column, counted
  for every row tile that is fed anything at that bit.
- write noise: exact, since it only changes the matrix.

Both factors are estimated from bit-by-bit reads of calibration vectors (`estimate`), so that the
power agrees whatever the error's distribution: near zero it is not uniform.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trex.noise.array import Cells, Converter, excess_each, reads, store
from trex.noise.coding import InputCode, WeightCode, to_tiles
from trex.noise.errors import ConverterErrors
from trex.noise.physics import Physics
from trex.noise.source import NoiseSource


@dataclass(frozen=True, slots=True)
class Moments:
    """What the converters make of a layer's reads.

    Attributes:
        gain: (S,), the share of a slice's sums behind the converter: below one where small
            sums round to zero.
        kept: (S,), the same of what write noise adds to them: below one where rounding swallows
            it or the largest sums are clipped, whatever wrote them.
        passed: (S,), what a converter's error power grows by with the read noise's: below one
            where rounding swallows noise, above where larger currents are also clipped more.
        floor: (K, O) or (K, 1), error power a fed row tile, in the integers' units squared.
        through: (S,), the share of converters' gain and offset that rounding lets through; None
            where they have none.
    """

    gain: Tensor
    kept: Tensor
    passed: Tensor
    floor: Tensor
    through: Tensor | None = None

    def to(self, device: torch.device) -> Moments:
        """The same on a device."""
        return Moments(
            gain=self.gain.to(device),
            kept=self.kept.to(device),
            passed=self.passed.to(device),
            floor=self.floor.to(device),
            through=None if self.through is None else self.through.to(device),
        )


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
    worth: Tensor,
) -> Moments:
    """Read calibration vectors (…, V, I) bit by bit and measure what the converters add.

    `worth`, (…, V, 1) or a number, is what an integer of each vector is worth: errors count as
    they do outside the array.
    """
    bits, slices = len(input_code.weights), len(weight_code.weights)
    device, columns = inputs.device, cells.levels.shape[-1]
    worth = (worth / worth.square().mean().sqrt()).expand(*inputs.shape[:-1], 1)
    fed = input_code.active_bits(to_tiles(inputs, physics.rows)) * worth.square()
    fed = fed.flatten(0, -2).sum(0)
    #: sums over reads of the read noise's power before, and of all error's behind the converter
    totals = torch.zeros(2, slices, bits, columns, device=device, dtype=torch.float64)
    slope = torch.zeros(slices, 2, device=device, dtype=torch.float64)
    erring, moved = converter, torch.zeros(slices, 2, device=device, dtype=torch.float64)
    if converter.errors is not None:  # gain and offset are held, so they are no part of the noise
        converter = replace(converter, errors=converter.errors.without_gain_and_offset())
    error = torch.zeros(*inputs.shape[:-1], columns, device=device)
    for read in reads(inputs, cells, input_code, physics):
        sums = noisy = read.sums
        noise = read.power * physics.read_sigma**2 if physics.read_sigma else None
        if noise is not None:
            noisy = sums + noise.sqrt() * normal(noise.shape, device)
        off = converter(noisy, read.s).sub_(sums)
        for i, square in enumerate((noise, off * off)):
            if square is None:
                continue
            weighted = square.sum(dim=-3).mul_(worth.square())
            totals[i, read.s, read.k] = weighted.flatten(0, -2).sum(0, dtype=torch.float64)
        if erring.errors is not None:
            moved[read.s] += _let_through(sums, read.s, erring)
        if noise is not None:
            slope[read.s] += input_code.weights[read.k] ** 4 * _regression(noise, off)
        counted = input_code.weights[read.k] * weight_code.weights[read.s]
        error += off.sum(dim=-3) * (counted * worth)
    parts = _products(inputs * worth, cells, weight_code)
    extra = _least_squares(parts.flatten(1).double(), error.flatten().double())
    passed = (slope[:, 0] / slope[:, 1].clamp_min(1e-30)).clamp_min_(0)
    s_weights = torch.tensor(weight_code.weights, device=device, dtype=torch.float64).square()
    k_weights = torch.tensor(input_code.weights, device=device, dtype=torch.float64).square()
    noises, squares = totals if by_column else totals.mean(-1, keepdim=True)
    passed_noise = torch.einsum("s,k,sko->ko", s_weights * passed, k_weights, noises)
    shown = torch.einsum("s,k,sko->ko", s_weights, k_weights, squares)
    own = shown - passed_noise
    # That took reads to err independently; the outputs show what they come to together.
    together = (error - torch.tensordot(extra.float(), parts, dims=1)).double().square()
    together = together.flatten(0, -2).sum(0)
    measured = (together if by_column else together.mean()) - passed_noise.sum(0)
    # Shares of a difference of nearly equal powers mean nothing, so shares of the power itself.
    share = shown / shown.sum(0).clamp_min(1e-30)
    own = own + (measured - own.sum(0)) * share
    floor = own / fed.clamp_min(1e-6).double()[:, None]
    shares = (1 + extra).float()
    through = None
    if erring.errors is not None:
        through = (moved[:, 0] / moved[:, 1].clamp_min(1e-30)).float()
    return Moments(shares[:slices], shares[-slices:], passed.float(), floor.float(), through)


def _let_through(sums: Tensor, s: int, converter: Converter) -> Tensor:
    """Covariance of what gain and offset do behind and before rounding, and the latter's power."""
    errors = converter.errors
    assert errors is not None
    quiet = replace(errors, noise=0.0)
    plain = replace(converter, errors=None)(sums, s)
    off = replace(converter, errors=quiet)(sums, s).sub_(plain).double()
    before = (errors.gain[s] * sums + errors.offset[s] * converter.steps[s]).double()
    return torch.stack([(off * before).mean(), before.square().mean()])


def _products(inputs: Tensor, cells: Cells, weight_code: WeightCode) -> Tensor:
    """By slice, what was meant to be stored makes of the inputs, (S, …, V, O).

    Where writing has changed it, that change's share follows: (2S, …, V, O).
    """
    weights = torch.tensor(weight_code.weights, device=inputs.device)
    weights = weights.view(-1, *(1,) * (cells.levels.dim() - 1))
    meant = inputs @ (cells.meant * weights)
    if cells.levels is cells.meant:
        return meant
    return torch.cat([meant, inputs @ ((cells.levels - cells.meant) * weights)])


def _least_squares(parts: Tensor, error: Tensor) -> Tensor:
    """The share of each part (P, n) that the error (n) amounts to; zero of an empty part."""
    gram = parts @ parts.T
    scale = gram.diagonal().sqrt().clamp_min(1e-15)
    gram = gram / (scale * scale[:, None]) + 1e-6 * torch.eye(len(gram)).to(gram)
    share: Tensor = torch.linalg.solve(gram, parts @ error / scale) / scale
    return share


def _regression(noise: Tensor, error: Tensor) -> Tensor:
    """Covariance of noise power and error², variance of noise power, where there is noise."""
    some = noise > 0
    x, y = noise[some].double(), error[some].double().square()
    if len(x) < 2:
        return torch.zeros(2, device=noise.device, dtype=torch.float64)
    x = x - x.mean()
    return torch.stack([(x * y).mean(), x.square().mean()])


def power_of(cells: Cells, weight_code: WeightCode, passed: Tensor) -> Tensor:
    """Σ_s passed_s · weight_s² · G_s², (…, I, O)."""
    weights = torch.tensor(weight_code.weights, device=passed.device).square() * passed
    power: Tensor = torch.tensordot(weights, cells.power, dims=1)
    return power


def value_of(
    cells: Cells,
    weight_code: WeightCode,
    physics: Physics,
    moments: Moments | None = None,
    errors: ConverterErrors | None = None,
) -> Tensor:
    """The matrix the cells amount to, in the integers' units, (…, I, O).

    Behind the converters where `moments` are given, else in front of them; with their gains where
    `errors` are given too.
    """
    weights = torch.tensor(weight_code.weights, device=cells.levels.device, dtype=torch.float32)
    if moments is None:
        value: Tensor = torch.tensordot(weights, cells.levels, dims=1)
    else:
        value = torch.tensordot(weights * moments.gain, cells.meant, dims=1)
        if cells.levels is not cells.meant:
            changed = cells.levels - cells.meant
            value = value + torch.tensordot(weights * moments.kept, changed, dims=1)
        if errors is not None and moments.through is not None:
            gains = (weights * moments.through)[:, None] * errors.gain
            value = value + torch.einsum("so,s...io->...io", gains, cells.levels)
    if cells.scale != 1:
        value = value * cells.scale
    return value - excess_each(weight_code, physics)


def offsets_of(
    weight_code: WeightCode, steps: Tensor, moments: Moments, errors: ConverterErrors
) -> Tensor:
    """What the converters' offsets add to a read of all slices, in the integers' units, (O,)."""
    assert moments.through is not None
    weights = torch.tensor(weight_code.weights, device=steps.device, dtype=torch.float32)
    return torch.einsum("s,so->o", weights * moments.through, errors.offset * steps)


@dataclass(frozen=True, slots=True)
class WriteTables:
    """By integer, −limit first: what writing it does on average.

    Attributes:
        value: mean of the stored value behind the converters, in the integers' units.
        deviation: its standard deviation.
        power: mean of Σ_s passed_s · weight_s² · G_s².
    """

    value: Tensor
    deviation: Tensor
    power: Tensor

    def to(self, device: torch.device) -> WriteTables:
        """The same on a device."""
        if self.value.device == device:
            return self
        return WriteTables(self.value.to(device), self.deviation.to(device), self.power.to(device))

    @classmethod
    def of(cls, physics: Physics, code: WeightCode, moments: Moments) -> WriteTables:
        """The tables of an array whose matrix is written anew for every image."""
        device = moments.passed.device
        integers = code.all_integers(device)
        cells = store(integers, physics, code, None)
        levels = code.slices(integers).abs()
        variance = physics.write_sigma**2 * levels * physics.top_level
        written = replace(cells, power=cells.power + variance)
        weights = (torch.tensor(code.weights, device=device) * moments.kept).square()
        return cls(
            value=value_of(cells, code, physics, moments),
            deviation=torch.tensordot(weights, variance, dims=1).sqrt(),
            power=power_of(written, code, moments.passed),
        )
