"""A linear layer that multiplies as a crossbar does, in place of a model's own.

The product goes forward with the array's errors, and backward as if there were none: rounding and
clipping pass gradients straight through, noise is a constant.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trex.noise.array import Cells, exact_product, store
from trex.noise.calibrate import LayerCalibration, Sample, calibrate_layer, signed_scale
from trex.noise.coding import WeightCode, to_tiles
from trex.noise.errors import ConverterErrors
from trex.noise.moments import offsets_of, power_of, value_of
from trex.noise.physics import Mode, Physics
from trex.noise.source import NoiseSource

#: numbers of products with computed matrices start here; those of layers lie below
_PRODUCTS: Final = 1 << 20


@dataclass(kw_only=True, slots=True)
class Instance:
    """One chip instance, shared by all layers of a model.

    Attributes:
        seed: of the whole instance.
        mode: `fast` or `exact`.
        noise: read and write noise, in the order in which layers run.
        products: with matrices computed on the way, as many as have been numbered.
    """

    seed: int
    mode: Mode
    noise: NoiseSource = field(init=False)
    products: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.noise = NoiseSource(self.seed)

    def programming(self, layer: int) -> NoiseSource:
        """The noise with which a layer was programmed: the same at every call."""
        return NoiseSource(self.seed, layer + 1)

    def converters(self, layer: int) -> NoiseSource:
        """What a layer's converters have for good: the same at every call."""
        return NoiseSource(self.seed, layer + 1, 1)

    def number_product(self) -> int:
        """A number for one more product, by which `programming` and `converters` know it."""
        self.products += 1
        return _PRODUCTS + self.products


def converter_errors(
    physics: Physics,
    code: WeightCode,
    columns: int,
    *,
    held: NoiseSource,
    normal: NoiseSource,
    device: torch.device,
) -> ConverterErrors | None:
    """Of the converters of an array's slices and columns; None where they only round and clip."""
    slices = len(code.weights)
    return ConverterErrors.draw(physics, slices, columns, held=held, normal=normal, device=device)


def fake_quantise(values: Tensor, step: Tensor, limits: tuple[int, int]) -> Tensor:
    """Integers of `values`, as float; gradients pass straight through."""
    if not (torch.is_grad_enabled() and values.requires_grad):
        return (values / step).round_().clamp_(*limits)
    scaled = values / step
    return scaled + (scaled.detach().round().clamp_(*limits) - scaled.detach())


@dataclass(slots=True)
class _Programmed:
    """A weight matrix on the chip: integers' step and what the two modes need, (O, I) or cells."""

    key: tuple[Any, ...]
    step_O: Tensor
    value: Tensor
    power: Tensor
    floor: Tensor
    cells: Cells | None
    errors: ConverterErrors | None
    #: what converters' offsets add to every output, (O,); None where they have none
    offset: Tensor | None


class NonIdealLinear(nn.Linear):
    """A linear layer on crossbars. Parameters are those of the layer it stands for.

    Until it is calibrated it computes the plain layer and keeps samples of its inputs.

    Args:
        linear: the layer.
        physics: of the static array.
        instance: of the chip.
        index: of the layer on the chip.
        matrices: how many matrices lie side by side in the weight (3 for fused Q, K, V).
    """

    def __init__(
        self, linear: nn.Linear, physics: Physics, instance: Instance, index: int, matrices: int
    ) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.training = linear.training
        self.physics, self.instance = physics, instance
        self.index, self.matrices = index, matrices
        self.code = WeightCode.of(physics)
        self.seen: Sample | None = Sample()
        self.calibration: LayerCalibration | None = None
        self._programmed: _Programmed | None = None

    def calibrate(self) -> None:
        """From the samples seen to ranges and moments; forgets the samples."""
        assert self.seen is not None
        _, integers = self._integers()
        # the same whatever the instance: converters are designed once
        some_instance = NoiseSource(0, self.index + 1)
        cells = store(integers.T, self.physics, self.code, some_instance)
        self.calibration = calibrate_layer(
            self.seen.inputs,
            self.seen.vectors(),
            cells,
            self.physics,
            matrices=self.matrices,
            errors=converter_errors(
                self.physics,
                self.code,
                self.out_features,
                held=NoiseSource(0, self.index + 1, 1),
                normal=NoiseSource(0, self.index + 1, 2),
                device=self.weight.device,
            ),
        )
        self.seen = None

    def forward(self, x: Tensor) -> Tensor:
        """(…, I) to (…, O)."""
        if self.calibration is None:
            if self.seen is not None:
                self.seen.see(x)
            return F.linear(x, self.weight, self.bias)
        known = self.calibration.to(x.device)
        programmed = self._program()
        code = known.input_code
        step = known.step_of(x)
        integers = fake_quantise(x, step, code.limits)
        weight = programmed.value
        if torch.is_grad_enabled() and self.weight.requires_grad:
            own = self.weight * step
            weight = own + (weight - own.detach())
        ideal = F.linear(integers, weight, self.bias)
        with torch.no_grad():
            if self.instance.mode == "exact":
                noise = self._read(integers, programmed).sub_(ideal)
            else:
                noise = self._deviation(integers, programmed)
                noise.mul_(self.instance.noise(noise.shape, noise.device))
                if programmed.offset is not None:
                    noise.add_(programmed.offset)
        return ideal + noise

    def _deviation(self, integers: Tensor, programmed: _Programmed) -> Tensor:
        """Standard deviation of every output."""
        assert self.calibration is not None
        code = self.calibration.input_code
        fed = code.active_bits(to_tiles(integers, self.physics.rows))
        variance = F.linear(fed, programmed.floor)
        if self.physics.read_sigma:
            variance += F.linear(self.calibration.input_power(integers), programmed.power)
        return variance.clamp_min_(0).sqrt_()

    def _read(self, integers: Tensor, programmed: _Programmed) -> Tensor:
        assert self.calibration is not None
        assert programmed.cells is not None
        product = exact_product(
            integers.flatten(0, -2),
            programmed.cells,
            input_code=self.calibration.input_code,
            weight_code=self.code,
            physics=self.physics,
            converter=replace(self.calibration.converter, errors=programmed.errors),
            normal=self.instance.noise,
        )
        output = product.mul_(programmed.step_O).reshape(*integers.shape[:-1], -1)
        return output if self.bias is None else output.add_(self.bias)

    @torch.no_grad()
    def _integers(self) -> tuple[Tensor, Tensor]:
        """The step of each column (O) and the weights as integers (O, I)."""
        largest = self.weight.abs().reshape(self.matrices, -1).amax(dim=1)
        step = signed_scale(largest.float(), self.code.limit)
        step_O = step.repeat_interleave(self.out_features // self.matrices)
        integers: Tensor = (self.weight / step_O[:, None]).round_()
        return step_O, integers

    @torch.no_grad()
    def _program(self) -> _Programmed:
        """The weights on the chip, made anew when weights, chip instance or mode have changed."""
        exact = self.instance.mode == "exact"
        key = (self.weight.data_ptr(), self.weight._version, self.instance.seed, exact)
        if self._programmed is not None and self._programmed.key == key:
            return self._programmed
        assert self.calibration is not None
        moments = self.calibration.moments
        step_O, integers = self._integers()
        cells = store(integers.T, self.physics, self.code, self.instance.programming(self.index))
        assert self.calibration.input_step is not None
        scale_O = step_O * self.calibration.input_step
        noisy = self.physics.read_sigma**2 * cells.scale**2
        power = power_of(cells, self.code, moments.passed).T * noisy
        floor = moments.floor.T if cells.scale == 1 else moments.floor.T * cells.scale**2
        errors = converter_errors(
            self.physics,
            self.code,
            self.out_features,
            held=self.instance.converters(self.index),
            normal=self.instance.noise,
            device=self.weight.device,
        )
        offset = None
        if errors is not None and not exact:
            known = self.calibration
            added = offsets_of(self.code, known.converter.steps, moments, errors)
            tiles = -(-self.in_features // self.physics.rows)
            reads = tiles * sum(known.input_code.weights) * cells.scale
            offset = added * reads * scale_O
        behind = (None, None) if exact else (moments, errors)
        self._programmed = _Programmed(
            key=key,
            step_O=scale_O,
            value=value_of(cells, self.code, self.physics, *behind).T * scale_O[:, None],
            power=(power * scale_O[:, None].square()).contiguous(),
            floor=floor * scale_O[:, None].square(),
            cells=cells if exact else None,
            errors=errors,
            offset=offset,
        )
        return self._programmed
