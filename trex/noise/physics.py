"""What the noise model needs of an array, and the choices the chip does not make."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

from trex.errors import ChipError
from trex.hardware.chip import NO_ERRORS, ArrayErrors, ArrayModel, Device

Mode = Literal["fast", "exact"]
MODES: Final[tuple[Mode, ...]] = get_args(Mode)
Encoding = Literal["differential", "offset"]
ENCODINGS: Final[tuple[Encoding, ...]] = get_args(Encoding)
AdcRange = Literal["calibrated", "worst_case"]
ADC_RANGES: Final[tuple[AdcRange, ...]] = get_args(AdcRange)
MapStep = Literal["row", "layer"]
MAP_STEPS: Final[tuple[MapStep, ...]] = get_args(MapStep)


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseSettings:
    """Choices that neither the chip file nor the TReX paper makes.

    Attributes:
        encoding: how signs are stored and fed. `differential`: a weight's magnitude on one of a
            pair of columns whose currents are subtracted before the converter, an input's
            magnitude bit by bit with the line driven by its sign. `offset`: 2^(b-1) added to
            every weight, inputs in two's complement, the excess subtracted digitally. None:
            offset where cells are bits of a memory (SRAM, eDRAM), differential elsewhere.
        adc_range: `calibrated`: a converter spans what gives the least squared error for its
            layer and slice on the calibration images, in steps of at least one level of a cell.
            `worst_case`: it spans what a full array of full cells would give.
        map_step: the step of the attention probabilities where they enter the array. `row`: the
            largest of every row is the greatest integer, which is what the exponents are before
            the softmax divides them; the division follows SV. `layer`: one step for all rows.
        write_gain: γ in G' = G + γ·√((G−Gmin)(Gmax−Gmin))·N(0, σ²) (ClipFormer, arXiv
            2402.02586). Assumption: one; the paper prints no value.
    """

    encoding: Encoding | None = None
    adc_range: AdcRange = "calibrated"
    map_step: MapStep = "row"
    write_gain: float = 1.0

    def __post_init__(self) -> None:
        for field, known in (
            ("encoding", ENCODINGS),
            ("adc_range", ADC_RANGES),
            ("map_step", MAP_STEPS),
        ):
            if getattr(self, field) not in (*known, None):
                raise ChipError(
                    f"{getattr(self, field)!r} is not a value of {field}",
                    hint=f"choose {' or '.join(known)}",
                )
        if not (math.isfinite(self.write_gain) and self.write_gain >= 0):
            raise ChipError(
                f"a write gain of {self.write_gain} cannot be", hint="give zero or more"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Physics:
    """One array in units of a cell's level: (Gmax − Gmin) / (2^bits_per_cell − 1).

    Attributes:
        rows: cells whose currents add up on a column.
        read_sigma: σ_R in G' = G·(1 + N(0, σ_R²)), new at every read.
        write_sigma: γ·σ of the write or programming noise.
        pedestal: Gmin in levels.
        errors: what else goes wrong in this array.
        level_siemens: a level; 0 where resistances are not known.
        line_activity: share of the rows that are fed at a time, where a mean will do.
    """

    rows: int
    weight_bits: int
    input_bits: int
    adc_bits: int
    cell_bits: int
    read_sigma: float
    write_sigma: float
    pedestal: float
    encoding: Encoding
    adc_range: AdcRange
    map_step: MapStep
    errors: ArrayErrors = NO_ERRORS
    level_siemens: float = 0.0
    line_activity: float = 0.5

    @property
    def cells_err(self) -> bool:
        """Whether cells or wires err beyond their variations."""
        of = self.errors
        drift = of.drift_exponent or of.drift_exponent_deviation
        return bool(
            of.stuck_on or of.stuck_off or drift or of.programming_error or of.wire_ohm_per_cell
        )

    @property
    def converters_err(self) -> bool:
        """Whether converters have an offset, a gain of their own, or noise."""
        of = self.errors
        return bool(of.adc_gain or of.adc_offset_lsb or of.adc_noise_lsb)

    @property
    def top_level(self) -> int:
        """A full cell, in levels."""
        return (1 << self.cell_bits) - 1

    @classmethod
    def of(cls, array: ArrayModel, settings: NoiseSettings, *, static: bool) -> Physics:
        """The array as it holds weights (`static`) or a matrix computed on the way.

        Raises:
            ChipError: the device's variations or resistances are not in the chip file, or the
                array's bits or its one conversion an output cannot be simulated.
        """
        device, where = array.device, f"arrays.{array.name}"
        if array.one_conversion:
            raise ChipError(
                f"{where} converts once an output, after inputs and slices are added up; "
                "accuracy is simulated with a conversion for each of them",
                hint="price it, and take another chip for accuracy",
            )
        for name, bits, least, most in (
            ("weight_bits", array.weight_bits, 2, 12),
            ("input_bits", array.input_bits, 2, 12),
            ("adc_bits", array.adc_bits, 2, 16),
        ):
            if bits is not None and not least <= bits <= most:
                raise ChipError(
                    f"{where}.{name}: non-ideal accuracy needs {least} to {most} bits, not {bits}",
                    hint="set another value for the simulation",
                )
        read = _variation(device, "read_variation", where)
        write = _variation(
            device, "write_variation" if static is False else "programming_variation", where
        )
        errors = array.errors
        if not static:  # written for every image: no time to drift, and nothing is verified
            errors = replace(
                errors, drift_exponent=0.0, drift_exponent_deviation=0.0, programming_error=()
            )
        grows = read > 0 or write > 0 or errors.drift_exponent > 0
        grows = grows or errors.drift_exponent_deviation > 0 or bool(errors.programming_error)
        return cls(
            rows=array.rows,
            weight_bits=array.weight_bits,
            input_bits=array.input_bits,
            adc_bits=_exact_bits(array) if array.adc_bits is None else array.adc_bits,
            cell_bits=device.bits_per_cell,
            read_sigma=read,
            write_sigma=write * settings.write_gain,
            pedestal=_pedestal(device, where, needed=grows),
            encoding=settings.encoding or _usual_encoding(array),
            adc_range=settings.adc_range,
            map_step=settings.map_step,
            errors=errors,
            level_siemens=_level_siemens(device),
            line_activity=array.density,
        )


def _exact_bits(array: ArrayModel) -> int:
    """Bits of a converter that tells all sums of full columns apart, a sign's among them."""
    return (array.rows * ((1 << array.device.bits_per_cell) - 1)).bit_length() + 1


def _level_siemens(device: Device) -> float:
    if device.r_on_ohm is None or device.r_off_ohm is None:
        return 0.0
    return (1 / device.r_on_ohm - 1 / device.r_off_ohm) / ((1 << device.bits_per_cell) - 1)


def _usual_encoding(array: ArrayModel) -> Encoding:
    return "offset" if array.holds_bits_of_a_memory else "differential"


def _variation(device: Device, field: str, where: str) -> float:
    value: float | None = getattr(device, field)
    if value is None:
        raise ChipError(
            f"non-ideal accuracy needs {where}.device.{field}, which the chip file does not give",
            hint="add it with its source; 0.0 where the device has no such variation",
        )
    return value


def _pedestal(device: Device, where: str, *, needed: bool) -> float:
    """Gmin in levels; a cell without resistances and variations does not conduct when off."""
    for field in ("r_on_ohm", "r_off_ohm"):
        if getattr(device, field) is None:
            if not needed:
                return 0.0
            raise ChipError(
                f"non-ideal accuracy needs {where}.device.{field}: the cell's variations grow "
                "with its conductance",
                hint="add it with its source",
            )
    assert device.r_on_ohm is not None
    assert device.r_off_ohm is not None
    if device.r_off_ohm <= device.r_on_ohm:
        raise ChipError(
            f"{where}.device.r_off_ohm is not above r_on_ohm", hint="exchange the two values"
        )
    g_max, g_min = 1 / device.r_on_ohm, 1 / device.r_off_ohm
    return g_min / (g_max - g_min) * ((1 << device.bits_per_cell) - 1)
