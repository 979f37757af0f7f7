"""Errors of cells, wires and converters that a chip file may add (`errors:`); off unless it does.

Letters in tensor names as in `trex.noise.coding`; R row tiles. A conductance is in levels of a
cell, its least one included.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trex.noise.physics import Physics
from trex.noise.source import NoiseSource


@dataclass(frozen=True, slots=True)
class Disturbed:
    """A matrix as erring cells hold it.

    Attributes:
        levels: what a column's current counts: the difference of a pair's conductances, or with
            offset encoding the conductance itself.
        power: the sum of G² over the cells of a weight's slice.
        scale: what the array's outputs are multiplied by, digitally, against drift.
    """

    levels: Tensor
    power: Tensor
    scale: float


def disturb(meant: Tensor, physics: Physics, normal: NoiseSource, held: NoiseSource) -> Disturbed:
    """Write levels (S, …, I, O), signed for pairs of columns, into cells that err.

    In the order of their lives: programming error, stuck cells, drift, the drop of voltage along
    the columns.

    Args:
        meant: levels, without the least conductance.
        physics: of the array.
        normal: of writing; the first draws are those of `trex.noise.array.store`.
        held: of what an instance has for good: stuck cells, drift exponents.
    """
    pairs = physics.encoding == "differential"
    targets = (meant.clamp_min(0), meant.neg().clamp_min(0)) if pairs else (meant,)
    conductances, before, after = [], 0.0, 0.0
    for target in targets:
        g = _written(target, physics, normal) + physics.pedestal
        g = _stuck(g, physics, held)
        aged = _drifted(g, physics, held)
        if physics.errors.drift_compensated:
            before, after = before + g.sum().item(), after + aged.sum().item()
        conductances.append(_dropped(aged, physics))
    scale = before / after if after > 0 else 1.0
    levels = conductances[0] - conductances[1] if pairs else conductances[0]
    power = torch.stack([g.square() for g in conductances]).sum(0)
    return Disturbed(levels, power, scale)


def _written(target: Tensor, physics: Physics, normal: NoiseSource) -> Tensor:
    """Levels after writing: an error that depends on the level, by a table or the formula."""
    table, top = physics.errors.programming_error, float(physics.top_level)
    if not table:
        if not physics.write_sigma:
            return target
        deviation = physics.write_sigma * (target * top).sqrt()
    else:
        points = torch.tensor(table, device=target.device, dtype=target.dtype)
        share = (target / top).contiguous()
        at = torch.searchsorted(points[:, 0].contiguous(), share).clamp(1, len(points) - 1)
        (x0, y0), (x1, y1) = points[at - 1].unbind(-1), points[at].unbind(-1)
        deviation = (y0 + (y1 - y0) * (share - x0) / (x1 - x0)) * top
    written = target + deviation * normal(target.shape, target.device)
    return written.clamp_min(-physics.pedestal)  # a conductance is never negative


def _stuck(g: Tensor, physics: Physics, held: NoiseSource) -> Tensor:
    on, off = physics.errors.stuck_on, physics.errors.stuck_off
    if not on + off:
        return g
    # one draw for both, so that more of one never moves the other's cells
    share = torch.special.ndtr(held(g.shape[:1] + g.shape[-2:], g.device))
    share = share.view(g.shape[:1] + (1,) * (g.dim() - 3) + g.shape[-2:])
    full = physics.top_level + physics.pedestal
    g = torch.where(share < on, torch.full_like(g, full), g)
    return torch.where(share > 1 - off, torch.full_like(g, physics.pedestal), g)


def _drifted(g: Tensor, physics: Physics, held: NoiseSource) -> Tensor:
    """G(t) = G·(t/t0)^−ν, ν of each cell its own."""
    errors = physics.errors
    if not errors.drift_exponent and not errors.drift_exponent_deviation:
        return g
    exponent = torch.full_like(g, errors.drift_exponent)
    if errors.drift_exponent_deviation:
        exponent += errors.drift_exponent_deviation * held(g.shape, g.device)
    age = math.log(errors.drift_time_s / errors.drift_start_s)
    return g * exponent.clamp_min(0).mul(-age).exp()


def _dropped(g: Tensor, physics: Physics) -> Tensor:
    """Conductances as seen through a column's wire, whose current lowers the cells' voltage.

    To first order a cell d segments from the converter loses r·Σ_k min(d, d_k)·a·G_k of its
    voltage, a being the share of lines that are fed; 1/(1 + x) for 1 − x is the same to first
    order and never negative.
    """
    if not physics.errors.wire_ohm_per_cell:
        return g
    rows, height = physics.rows, g.shape[-2]
    padded = torch.nn.functional.pad(g, (0, 0, 0, -height % rows))
    tiles = torch.unflatten(padded, -2, (-1, rows))
    beyond = tiles.flip(-2).cumsum(-2).flip(-2)  # what flows through a segment
    lost = beyond.cumsum(-2) * (
        physics.errors.wire_ohm_per_cell * physics.level_siemens * physics.line_activity
    )
    return (tiles / (1 + lost)).flatten(-3, -2)[..., :height, :]


@dataclass(frozen=True, slots=True)
class ConverterErrors:
    """Of the converters of an instance: one a column and slice.

    Attributes:
        gain: (S, O), relative.
        offset: (S, O), in steps.
        noise: standard deviation of a conversion, in steps.
        normal: where that noise comes from.
    """

    gain: Tensor
    offset: Tensor
    noise: float
    normal: NoiseSource

    @classmethod
    def draw(
        cls,
        physics: Physics,
        slices: int,
        columns: int,
        *,
        held: NoiseSource,
        normal: NoiseSource,
        device: torch.device,
    ) -> ConverterErrors | None:
        """An instance's; None where the chip's converters do not err."""
        errors = physics.errors
        if not physics.converters_err:
            return None
        gain, offset = (held((slices, columns), device) for _ in range(2))
        return cls(errors.adc_gain * gain, errors.adc_offset_lsb * offset,
                   errors.adc_noise_lsb, normal)  # fmt: skip

    def without_gain_and_offset(self) -> ConverterErrors:
        """Noise alone."""
        zero = torch.zeros_like(self.gain)
        return ConverterErrors(zero, zero, self.noise, self.normal)

    def __call__(self, steps: Tensor, s: int) -> Tensor:
        """What the converters of slice `s` take for sums (…, O) in steps."""
        seen = steps * (1 + self.gain[s]) + self.offset[s]
        if self.noise:
            seen = seen + self.noise * self.normal(steps.shape, steps.device)
        return seen
