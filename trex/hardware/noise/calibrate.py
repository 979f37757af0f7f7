"""From what a layer saw on calibration images to its input scale, ADC ranges and noise moments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from trex.errors import DataError
from trex.hardware.noise.array import Cells, Converter, code_limits, reads, worst_case
from trex.hardware.noise.coding import InputCode
from trex.hardware.noise.moments import Moments, estimate
from trex.hardware.noise.physics import Physics
from trex.hardware.noise.source import NoiseSource

#: Input vectors of a layer that are read bit by bit for its ADC ranges and noise moments.
SAMPLED_VECTORS: Final = 256

_TINY: Final = 1e-12


def signed_scale(magnitude: Tensor, limit: int) -> Tensor:
    """The step in which `limit` integers on each side of zero reach `magnitude`."""
    return magnitude.clamp_min(_TINY) / limit


class Extremes:
    """The least and the greatest value of a tensor over all calibration images."""

    def __init__(self) -> None:
        self.least = torch.tensor(torch.inf)
        self.greatest = torch.tensor(-torch.inf)

    def see(self, values: Tensor) -> None:
        """One batch.

        Raises:
            DataError: a value is not finite.
        """
        low, high = (extreme.float().cpu() for extreme in torch.aminmax(values))
        if not bool((low.isfinite() & high.isfinite()).item()):
            raise DataError(
                "the model's activations on the calibration images are not finite",
                hint="check the weights and the preprocessing",
            )
        self.least = torch.minimum(self.least, low)
        self.greatest = torch.maximum(self.greatest, high)

    @property
    def magnitude(self) -> Tensor:
        """The greatest distance from zero."""
        return torch.maximum(self.least.abs(), self.greatest.abs())

    def code(self, physics: Physics) -> tuple[InputCode, Tensor]:
        """How these values enter an array, and the step of the integers."""
        code = InputCode(physics.input_bits, bool(self.least < 0), physics.encoding)
        return code, signed_scale(self.magnitude, code.limits[1])


@dataclass(frozen=True, slots=True)
class LayerCalibration:
    """All a layer needs to run on an array.

    Attributes:
        input_code: of its inputs.
        input_step: what one integer of the inputs is worth.
        converter: its ADCs.
        moments: of their errors, for the fast model.
    """

    input_code: InputCode
    input_step: Tensor
    converter: Converter
    moments: Moments


def converter_for(
    inputs: Tensor, cells: Cells, code: InputCode, physics: Physics, matrices: int
) -> Converter:
    """ADCs for sampled integers (…, V, I) on cells (S, …, I, O), by the chip's range rule.

    Args:
        inputs: sampled integers.
        cells: the matrix.
        code: of the inputs.
        physics: of the array.
        matrices: how many of equal width lie side by side; each has its own ranges.
    """
    codes = code_limits(physics)
    slices, columns = len(cells.levels), cells.levels.shape[-1]
    if physics.adc_range == "worst_case":
        span = torch.full((slices, 1), worst_case(physics), device=inputs.device)
    else:
        largest = torch.zeros(slices, columns, device=inputs.device)
        for read in reads(inputs, cells, code, physics):
            seen = read.sums.abs().flatten(0, -2).amax(dim=0)
            largest[read.s] = torch.maximum(largest[read.s], seen)
        span = largest.unflatten(1, (matrices, -1)).amax(dim=-1)
        span = span.repeat_interleave(columns // matrices, dim=1) if matrices > 1 else span
    return Converter((span / codes[1]).clamp_min(1.0), codes)


def moments_for(
    inputs: Tensor,
    cells: Cells,
    converter: Converter,
    code: InputCode,
    physics: Physics,
    *,
    by_column: bool,
) -> Moments:
    """The converters' errors on the sampled integers; always from the same random numbers."""
    from trex.hardware.noise.coding import WeightCode

    return estimate(
        inputs,
        cells,
        input_code=code,
        weight_code=WeightCode.of(physics),
        physics=physics,
        converter=converter,
        normal=NoiseSource(0),
        by_column=by_column,
    )
