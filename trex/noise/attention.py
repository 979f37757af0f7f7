"""Attention whose two products run on arrays that are written for every image and head."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from trex.models.adapter import Products
from trex.noise.array import exact_product, store
from trex.noise.calibrate import LayerCalibration, Sample, calibrate_layer, signed_scale
from trex.noise.coding import WeightCode, to_tiles
from trex.noise.errors import ConverterErrors
from trex.noise.linear import Instance, converter_errors, fake_quantise
from trex.noise.moments import WriteTables, offsets_of, power_of, value_of
from trex.noise.physics import Physics
from trex.noise.source import NoiseSource


class NonIdealProduct(nn.Module):
    """Vectors times a matrix that is written into the array for every image.

    Args:
        physics: of the dynamic array.
        instance: of the chip.
        by_vector: every vector has an input step of its own.
        by_column: every column has its own statistics: features have, tokens have not.
    """

    def __init__(
        self, physics: Physics, instance: Instance, *, by_vector: bool = False, by_column: bool
    ) -> None:
        super().__init__()
        self.physics, self.instance = physics, instance
        self.by_vector, self.by_column = by_vector, by_column
        self.code = WeightCode.of(physics)
        self.number = instance.number_product()
        self.seen: Sample | None = Sample()
        self.calibration: LayerCalibration | None = None
        self._matrix_step = torch.ones(())
        self._tables: WriteTables | None = None

    def calibrate(self) -> None:
        """From the samples seen to ranges and moments; forgets the samples."""
        assert self.seen is not None
        self._matrix_step = signed_scale(self.seen.matrices.magnitude, self.code.limit)
        vectors, matrices = self.seen.pairs()
        integers = (matrices / self._matrix_step).round_()
        cells = store(integers, self.physics, self.code, NoiseSource(0, 0))
        self.calibration = calibrate_layer(
            self.seen.inputs,
            vectors,
            cells,
            self.physics,
            by_vector=self.by_vector,
            by_column=self.by_column,
            errors=self._converter_errors(matrices, NoiseSource(0, 1), NoiseSource(0, 2)),
        )
        self._tables = WriteTables.of(self.physics, self.code, self.calibration.moments)
        self.seen = None

    def forward(self, vectors: Tensor, matrix: Tensor) -> Tensor:
        """(…, V, I) times (…, I, O)."""
        if self.calibration is None:
            if self.seen is not None:
                self.seen.see(vectors, matrix)
            return vectors @ matrix
        known = self.calibration.to(vectors.device)
        self._matrix_step = self._matrix_step.to(vectors.device)
        limit = self.code.limit
        step = known.step_of(vectors)
        integers = fake_quantise(vectors, step, known.input_code.limits)
        stored = fake_quantise(matrix, self._matrix_step, (-limit, limit))
        scale = step * self._matrix_step
        if self.instance.mode == "exact":
            with torch.no_grad():
                output = self._read(integers, stored)
            if not torch.is_grad_enabled():
                return output * scale
            ideal = integers @ stored
            return (ideal + (output - ideal.detach())) * scale
        with torch.no_grad():
            errors = self._converter_errors(stored)
            erring = errors is not None or self.physics.cells_err
            error, power = self._store(stored, errors) if erring else self._write(stored)
            noise = self._deviation(integers, power)
            noise.mul_(self.instance.noise(noise.shape, noise.device))
            if errors is not None:
                noise.add_(self._offset(integers, errors))
        return (integers @ (stored + error) + noise) * scale

    def _write(self, stored: Tensor) -> tuple[Tensor, Tensor]:
        """What writing adds to the integers, and their read noise power."""
        assert self._tables is not None
        tables = self._tables.to(stored.device)
        self._tables = tables
        index = (stored + self.code.limit).to(torch.int32).flatten()
        shape = stored.shape
        error = tables.value.index_select(0, index).view(shape) - stored
        if self.physics.write_sigma:
            deviation = tables.deviation.index_select(0, index).view(shape)
            error.addcmul_(deviation, self.instance.noise(shape, stored.device))
        return error, tables.power.index_select(0, index).view(shape)

    def _store(self, stored: Tensor, errors: ConverterErrors | None) -> tuple[Tensor, Tensor]:
        """What `_write` gives, cell by cell: for errors that depend on a cell's place."""
        assert self.calibration is not None
        moments, code, physics = self.calibration.moments, self.code, self.physics
        cells = store(stored, physics, code, self.instance.noise, self._held())
        value = value_of(cells, code, physics, moments, errors)
        return value - stored, power_of(cells, code, moments.passed)

    def _held(self) -> NoiseSource:
        return self.instance.programming(self.number)

    def _converter_errors(
        self, matrix: Tensor, held: NoiseSource | None = None, normal: NoiseSource | None = None
    ) -> ConverterErrors | None:
        return converter_errors(
            self.physics,
            self.code,
            matrix.shape[-1],
            held=held or self.instance.converters(self.number),
            normal=normal or self.instance.noise,
            device=matrix.device,
        )

    def _offset(self, integers: Tensor, errors: ConverterErrors) -> Tensor:
        """What converters' offsets add to every output, (O,)."""
        assert self.calibration is not None
        known = self.calibration
        added = offsets_of(self.code, known.converter.steps, known.moments, errors)
        tiles = -(-integers.shape[-1] // self.physics.rows)
        return added * (tiles * sum(known.input_code.weights))

    def _deviation(self, integers: Tensor, power: Tensor) -> Tensor:
        assert self.calibration is not None
        known = self.calibration
        fed = known.input_code.active_bits(to_tiles(integers, self.physics.rows))
        variance = fed @ known.moments.floor
        if self.physics.read_sigma:
            read = known.input_power(integers) @ power
            variance = read.mul_(self.physics.read_sigma**2).add_(variance)
        return variance.expand(*integers.shape[:-1], power.shape[-1]).clamp_min(0).sqrt_()

    def _read(self, integers: Tensor, stored: Tensor) -> Tensor:
        assert self.calibration is not None
        return exact_product(
            integers,
            store(stored, self.physics, self.code, self.instance.noise, self._held()),
            input_code=self.calibration.input_code,
            weight_code=self.code,
            physics=self.physics,
            converter=replace(self.calibration.converter, errors=self._converter_errors(stored)),
            normal=self.instance.noise,
        )


class NonIdealProducts(Products):
    """QKᵀ and SV on the chip's dynamic arrays, Kᵀ and V written for every image.

    Each head has arrays, and so converters, of its own.
    """

    def __init__(
        self, physics: Physics, instance: Instance, num_heads: int, *, own_scores: bool = True
    ) -> None:
        super().__init__()
        by_row = physics.map_step == "row"
        if own_scores:
            self.qk = nn.ModuleList(
                NonIdealProduct(physics, instance, by_column=False) for _ in range(num_heads)
            )
        self.sv = nn.ModuleList(
            NonIdealProduct(physics, instance, by_vector=by_row, by_column=True)
            for _ in range(num_heads)
        )

    def scores(self, query_BHNE: Tensor, key_BHNE: Tensor) -> Tensor:
        """QKᵀ of queries that are scaled already, (B, H, N, N)."""
        return _by_head(self.qk, query_BHNE, key_BHNE.transpose(-2, -1))

    def context(self, map_BHNN: Tensor, value_BHNE: Tensor) -> Tensor:
        """The attention probabilities' mean of the values, (B, H, N, E)."""
        return _by_head(self.sv, map_BHNN, value_BHNE)


def _by_head(products: nn.ModuleList, left_BHVI: Tensor, right_BHIO: Tensor) -> Tensor:
    pairs = zip(products, left_BHVI.unbind(1), right_BHIO.unbind(1), strict=True)
    return torch.stack([product(left, right) for product, left, right in pairs], dim=1)
