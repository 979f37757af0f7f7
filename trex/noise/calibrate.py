"""From what a layer saw on calibration images to its input scale, ADC ranges and noise moments."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from trex.errors import DataError
from trex.noise.array import Cells, Converter, code_limits, reads, worst_case
from trex.noise.coding import InputCode, WeightCode
from trex.noise.errors import ConverterErrors
from trex.noise.moments import Moments, estimate
from trex.noise.physics import Physics
from trex.noise.source import NoiseSource

#: Input vectors of a layer that are read bit by bit for its ADC ranges and noise moments.
SAMPLED_VECTORS: Final = 256
#: Of a head's product with a computed matrix: matrices, and vectors of each.
SAMPLED_MATRICES: Final = 64
SAMPLED_ROWS: Final = 12

#: Converter spans that are tried, from a share of the largest sum up to all of it, and the
#: share of the sampled vectors they are tried on.
TRIED_SPANS: Final = 8
LEAST_SPAN: Final = 0.3
RANGE_STRIDE: Final = 4

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
        low, high = torch.aminmax(values.detach().float())
        if not bool((low.isfinite() & high.isfinite()).item()):
            raise DataError(
                "the model's activations on the calibration images are not finite",
                hint="check the weights and the preprocessing",
            )
        self.least = torch.minimum(self.least.to(low), low)
        self.greatest = torch.maximum(self.greatest.to(high), high)

    @property
    def magnitude(self) -> Tensor:
        """The greatest distance from zero."""
        return torch.maximum(self.least.abs(), self.greatest.abs())

    def code(self, physics: Physics) -> tuple[InputCode, Tensor]:
        """How these values enter an array, and the step of the integers."""
        code = InputCode(physics.input_bits, bool(self.least < 0), physics.encoding)
        return code, signed_scale(self.magnitude, code.limits[1])


class Sample:
    """Extremes of a layer's operands on all calibration images, and some of the vectors."""

    def __init__(self) -> None:
        self.inputs, self.matrices = Extremes(), Extremes()
        self._vectors: list[Tensor] = []
        self._matrices: list[Tensor] = []
        self._choice = torch.Generator().manual_seed(0)

    def see(self, inputs: Tensor, matrices: Tensor | None = None) -> None:
        """One batch of inputs (…, V, I); of their matrices (…, I, O) where each has its own."""
        self.inputs.see(inputs)
        if matrices is None:
            vectors = inputs.detach().flatten(0, -2)
            self._vectors.append(vectors[self._some(len(vectors), SAMPLED_VECTORS, vectors)])
            return
        self.matrices.see(matrices)
        left, right = inputs.detach().flatten(0, -3), matrices.detach().flatten(0, -3)
        pairs = self._some(len(left), SAMPLED_MATRICES, left)
        # of every matrix other rows: they are tokens, and tokens at one place are alike
        rows = [self._some(left.shape[1], SAMPLED_ROWS, left) for _ in pairs]
        self._vectors.append(left[pairs[:, None], torch.stack(rows)])
        self._matrices.append(right[pairs])

    def vectors(self) -> Tensor:
        """Sampled inputs (V, I), in equal shares from all batches."""
        everything = torch.cat(self._vectors)
        return everything[self._some(len(everything), SAMPLED_VECTORS, everything)]

    def pairs(self) -> tuple[Tensor, Tensor]:
        """Sampled inputs (P, V, I) and the matrices (P, I, O) they belong to."""
        left, right = torch.cat(self._vectors), torch.cat(self._matrices)
        some = self._some(len(left), SAMPLED_MATRICES, left)
        return left[some], right[some]

    def _some(self, available: int, wanted: int, like: Tensor) -> Tensor:
        return torch.randperm(available, generator=self._choice)[:wanted].to(like.device)


@dataclass(frozen=True, slots=True)
class LayerCalibration:
    """All a layer needs to run on an array.

    Attributes:
        input_code: of its inputs.
        input_step: what one integer of the inputs is worth; None where every vector has a step
            of its own, that its largest value reaches the greatest integer.
        power_table: of the input code.
        converter: its ADCs.
        moments: of their errors, for the fast model.
    """

    input_code: InputCode
    input_step: Tensor | None
    power_table: Tensor
    converter: Converter
    moments: Moments

    def step_of(self, vectors: Tensor) -> Tensor:
        """What an integer of the inputs (…, V, I) is worth: one number, or one a vector."""
        return step_of(vectors, self.input_code, self.input_step)

    def input_power(self, integers: Tensor) -> Tensor:
        """Σ_k weight_k² · plane_k² of integers, same shape."""
        index = self.input_code.table_index(integers).flatten()
        return self.power_table.index_select(0, index).view(integers.shape)

    def to(self, device: torch.device) -> LayerCalibration:
        """The same on a device."""
        if self.power_table.device == device:
            return self
        return replace(
            self,
            input_step=None if self.input_step is None else self.input_step.to(device),
            power_table=self.power_table.to(device),
            converter=replace(self.converter, steps=self.converter.steps.to(device)),
            moments=self.moments.to(device),
        )


def step_of(vectors: Tensor, code: InputCode, step: Tensor | None) -> Tensor:
    """`step`, or where it is None one a vector, (…, V, 1)."""
    if step is not None:
        return step
    return signed_scale(vectors.detach().abs().amax(dim=-1, keepdim=True), code.limits[1])


def calibrate_layer(
    seen: Extremes,
    vectors: Tensor,
    cells: Cells,
    physics: Physics,
    *,
    matrices: int = 0,
    by_vector: bool = False,
    by_column: bool = True,
    errors: ConverterErrors | None = None,
) -> LayerCalibration:
    """Read sampled vectors (…, V, I) bit by bit from the layer's cells (S, …, I, O).

    Args:
        seen: of the inputs of all calibration images.
        vectors: the sample.
        cells: the layer's matrix, or one for each group of vectors.
        physics: of the array.
        matrices: how many weight matrices of equal width lie side by side, each with ADC ranges
            of its own; 0 for a matrix computed on the way.
        by_vector: every vector has an input step of its own.
        by_column: every column errs in its own way; else all do alike.
        errors: of some instance's converters; ranges are set without.
    """
    code, common = seen.code(physics)
    step = None if by_vector else common
    worth = step_of(vectors, code, step)
    integers = (vectors / worth).round_().clamp_(*code.limits)
    converter = _converter(integers, cells, code, physics, matrices)
    moments = estimate(
        integers,
        cells,
        input_code=code,
        weight_code=WeightCode.of(physics),
        physics=physics,
        converter=replace(converter, errors=errors),
        normal=NoiseSource(0),
        by_column=by_column,
        worth=worth,
    )
    return LayerCalibration(code, step, code.power_table(common.device), converter, moments)


def _converter(
    integers: Tensor, cells: Cells, code: InputCode, physics: Physics, matrices: int
) -> Converter:
    codes = code_limits(physics)
    slices, columns = len(cells.levels), cells.levels.shape[-1]
    if physics.adc_range == "worst_case":
        # the one sum that needs one more code than there are saturates
        step = max(1.0, worst_case(physics) / (codes[1] + 1))
        return Converter(torch.full((slices, 1), step, device=integers.device), codes)
    groups = max(1, matrices)
    most = min(integers.shape[-1], physics.rows) * cells.levels.abs().amax()
    if most <= codes[1]:  # no sum needs a step above one, which the search would find too
        return Converter(torch.ones(slices, columns if matrices else 1, device=most.device), codes)
    largest = torch.zeros(slices, groups, device=integers.device)
    for read in reads(integers, cells, code, physics):
        seen = read.sums.abs().flatten(0, -2).amax(dim=0)
        largest[read.s] = torch.maximum(largest[read.s], seen.reshape(groups, -1).amax(1))
    shares = torch.linspace(LEAST_SPAN, 1, TRIED_SPANS, device=integers.device)
    # (tried spans, S, groups)
    tried = (shares[:, None, None] * largest / codes[1]).clamp_min(1.0)
    errors = torch.zeros_like(tried)
    for read in reads(integers[..., ::RANGE_STRIDE, :], cells, code, physics):
        sums = torch.unflatten(read.sums, -1, (groups, -1))
        weight = code.weights[read.k] ** 2
        for i, step in enumerate(tried[:, read.s, :, None]):
            off = (sums / step).round_().clamp_(*codes).mul_(step).sub_(sums)
            errors[i, read.s] += off.square_().sum(-1).flatten(0, -2).sum(0) * weight
    steps = tried.gather(0, errors.argmin(dim=0, keepdim=True))[0]
    if matrices:
        steps = steps.repeat_interleave(columns // groups, dim=1)
    return Converter(steps, codes)
