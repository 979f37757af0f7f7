"""Arrays described by constants for a whole crossbar, as TReX-Sim does (TReX, Table III)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from trex.config import FieldProblem, StrictModel, did_you_mean, raise_all
from trex.hardware.chip import NO_ERRORS, ArrayErrors, ArrayModel, Device, ReadTerm
from trex.hardware.corrections import CorrectionsSpec
from trex.hardware.quantities import (
    AgeS,
    AreaM2,
    Bits,
    Cells,
    Count,
    Cycles,
    EnergyJ,
    Fraction,
    LatencyS,
    PowerWPerM2,
    ResistanceOhm,
    Sourced,
    Steps,
    WireOhm,
)

#: Most bits a cell of each kind has been shown to hold in a compute array.
MOST_BITS: Final = {
    "SRAM": 1, "eDRAM": 1, "RRAM": 4, "FeFET": 4, "PCM": 4, "flash": 4, "PCM analogue": 8
}  # fmt: skip


def cell_problems(cell: str, bits: int) -> Iterator[FieldProblem]:
    """An unknown cell, or one that cannot hold so many bits."""
    if cell not in MOST_BITS:
        yield FieldProblem(
            ("cell",), f"unknown cell {cell!r}", did_you_mean(cell, list(MOST_BITS))
        )
    elif bits > MOST_BITS[cell]:
        yield FieldProblem(
            ("device", "bits_per_cell", "value"),
            f"a cell of {cell} cannot hold {bits} bits",
            f"at most {MOST_BITS[cell]}",
        )


class DeviceSpec(StrictModel):
    """The memory cell; resistances in ohms, variations as relative standard deviations."""

    bits_per_cell: Sourced[Bits]
    r_on_ohm: Sourced[ResistanceOhm] | None = None
    r_off_ohm: Sourced[ResistanceOhm] | None = None
    read_variation: Sourced[Fraction] | None = None
    write_variation: Sourced[Fraction] | None = None
    programming_variation: Sourced[Fraction] | None = None
    endurance_cycles: Sourced[Cycles] | None = None

    @model_validator(mode="after")
    def _resistances_are_apart(self) -> DeviceSpec:
        if self.r_on_ohm and self.r_off_ohm and self.r_off_ohm.value <= self.r_on_ohm.value:
            raise FieldProblem(
                ("r_off_ohm", "value"), "is not above r_on_ohm", "exchange the two values"
            )
        return self

    def device(self) -> Device:
        """The numbers without their sources."""
        return Device(
            bits_per_cell=self.bits_per_cell.value,
            r_on_ohm=self.r_on_ohm.value if self.r_on_ohm else None,
            r_off_ohm=self.r_off_ohm.value if self.r_off_ohm else None,
            read_variation=self.read_variation.value if self.read_variation else None,
            write_variation=self.write_variation.value if self.write_variation else None,
            programming_variation=(
                self.programming_variation.value if self.programming_variation else None
            ),
            endurance_cycles=self.endurance_cycles.value if self.endurance_cycles else None,
        )


#: of a table of programming errors: a share of the conductance range, a standard deviation in it
Point = Annotated[list[Fraction], Field(min_length=2, max_length=2)]


class ErrorsSpec(StrictModel):
    """Errors beside a cell's variations; see `trex.hardware.chip.ArrayErrors`."""

    stuck_on: Sourced[Fraction] | None = None
    stuck_off: Sourced[Fraction] | None = None
    drift_exponent: Sourced[Fraction] | None = None
    drift_exponent_deviation: Sourced[Fraction] | None = None
    drift_time_s: Sourced[AgeS] | None = None
    drift_start_s: Sourced[AgeS] | None = None
    drift_compensated: bool = False
    programming_error: Sourced[list[Point]] | None = None
    wire_ohm_per_cell: Sourced[WireOhm] | None = None
    adc_gain: Sourced[Fraction] | None = None
    adc_offset_lsb: Sourced[Steps] | None = None
    adc_noise_lsb: Sourced[Steps] | None = None

    @model_validator(mode="after")
    def _can_be(self) -> ErrorsSpec:
        raise_all(list(self._misfits()))
        return self

    def _misfits(self) -> Iterator[FieldProblem]:
        on, off = (of.value if of else 0.0 for of in (self.stuck_on, self.stuck_off))
        if on + off > 1:
            yield FieldProblem(
                ("stuck_off", "value"), "and stuck_on are more than all cells", "lower one of them"
            )
        if self.drift_exponent or self.drift_exponent_deviation:
            for name in ("drift_time_s", "drift_start_s"):
                if getattr(self, name) is None:
                    yield FieldProblem((name,), "is missing", "drift needs both of its times")
        if (
            self.drift_time_s
            and self.drift_start_s
            and self.drift_time_s.value < self.drift_start_s.value
        ):
            yield FieldProblem(
                ("drift_time_s", "value"), "is before drift_start_s", "exchange the two values"
            )
        if self.programming_error:
            shares = [share for share, _ in self.programming_error.value]
            if (
                len(shares) < 2
                or shares[0] != 0
                or shares[-1] != 1
                or shares != sorted(set(shares))
            ):
                yield FieldProblem(
                    ("programming_error", "value"),
                    "does not lead from 0 to 1",
                    "give [share of the conductance range, standard deviation] in rising order",
                )

    def errors(self) -> ArrayErrors:
        """The numbers without their sources."""
        given = {name: getattr(self, name) for name in type(self).model_fields}
        return ArrayErrors(
            **{
                name: _plain(of.value) if isinstance(of, Sourced) else of
                for name, of in given.items()
                if of is not None
            }
        )


def _plain(value: Any) -> Any:
    """Tuples for lists, which a frozen value needs."""
    return tuple(map(_plain, value)) if isinstance(value, list) else value


def errors_of(spec: ErrorsSpec | None) -> ArrayErrors:
    """An array's errors; none where its file has none."""
    return NO_ERRORS if spec is None else spec.errors()


def error_problems(spec: ErrorsSpec | None, device: DeviceSpec) -> Iterator[FieldProblem]:
    """What an array's errors need of its cells, or cannot have beside them."""
    if spec is None:
        return
    if spec.wire_ohm_per_cell and not (device.r_on_ohm and device.r_off_ohm):
        yield FieldProblem(
            ("errors", "wire_ohm_per_cell"),
            "needs device.r_on_ohm and r_off_ohm: a wire's drop follows the cells' currents",
            "add them with their source",
        )
    variation = device.programming_variation
    if spec.programming_error and variation is not None and variation.value > 0:
        yield FieldProblem(
            ("errors", "programming_error"),
            "stands beside device.programming_variation: two errors of one programming",
            "set programming_variation to 0.0",
        )


class ConstantArraySpec(StrictModel):
    """A crossbar of `rows × columns` cells whose read, write and area are single figures.

    One read takes `input_bits_per_read` bits of every input. `arrays_read_in_turn` crossbars
    share a reader, so a vector takes that many read times; writes likewise. A weight takes
    `weight_slices` cells, or as many as its bits need: in crossbars of their own, or in
    neighbouring columns. `adc_bits` of `none`: digital, every sum is exact.
    """

    cell: str = Field(min_length=1)
    rows: Sourced[Cells]
    columns: Sourced[Cells]
    weight_bits: Sourced[Bits]
    input_bits: Sourced[Bits]
    adc_bits: Sourced[Bits | Literal["none"]]
    weight_slices: Sourced[Bits] | None = None
    weight_mapping: Literal["own arrays", "neighbouring columns"] = "own arrays"
    one_conversion: bool = False
    input_bits_per_read: Sourced[Bits]
    read_energy_j: Sourced[EnergyJ]
    read_latency_s: Sourced[LatencyS]
    write_energy_j: Sourced[EnergyJ]
    write_latency_s: Sourced[LatencyS]
    arrays_read_in_turn: Sourced[Count]
    arrays_per_tile: Sourced[Count]
    accumulate_energy_j: Sourced[EnergyJ]
    area_m2: Sourced[AreaM2]
    leakage_w_per_m2: Sourced[PowerWPerM2]
    device: DeviceSpec
    errors: ErrorsSpec | None = None
    corrections: CorrectionsSpec = CorrectionsSpec()

    @model_validator(mode="after")
    def _cells_hold_their_bits(self) -> ConstantArraySpec:
        raise_all(list(self._misfits()))
        return self

    def _misfits(self) -> Iterator[FieldProblem]:
        cell_bits, weight_bits = self.device.bits_per_cell.value, self.weight_bits.value
        yield from cell_problems(self.cell, cell_bits)
        yield from error_problems(self.errors, self.device)
        if self.corrections.unused_rows_idle:
            yield FieldProblem(
                ("corrections", "unused_rows_idle"),
                "a crossbar of one read energy has no energy of rows",
                "leave it out; arrays of kind component have it",
            )
        if self.adc_bits.value == "none" and self.cell not in ("SRAM", "eDRAM"):
            yield FieldProblem(
                ("adc_bits", "value"),
                f"cells of {self.cell} are analogue, and sums of theirs need a converter",
                "give its bits, or a cell that holds bits: SRAM, eDRAM",
            )
        slices = self.slices
        if slices * cell_bits < weight_bits:
            yield FieldProblem(
                ("weight_slices", "value"),
                f"{slices} cells of {cell_bits} bit cannot hold a weight of {weight_bits} bits",
                f"give at least {self._slices_needed}, or fewer weight_bits",
            )
        if slices > weight_bits:
            yield FieldProblem(
                ("weight_slices", "value"),
                f"a weight of {weight_bits} bits does not fill {slices} cells",
                f"give at most {weight_bits}",
            )

    @property
    def slices(self) -> int:
        """Cells a weight takes."""
        return self.weight_slices.value if self.weight_slices else self._slices_needed

    @property
    def _slices_needed(self) -> int:
        return math.ceil(self.weight_bits.value / self.device.bits_per_cell.value)

    def model(self, name: str, folder: Path) -> ArrayModel:
        """The array as the cost model sees it; `folder` is not needed for constants."""
        reads = math.ceil(self.input_bits.value / self.input_bits_per_read.value)
        turn = self.arrays_read_in_turn.value
        return ArrayModel(
            name=name,
            cell=self.cell,
            rows=self.rows.value,
            columns=self.columns.value,
            weight_slices=self.slices,
            slices_share_array=self.weight_mapping == "neighbouring columns",
            arrays_per_tile=self.arrays_per_tile.value,
            copies=1,
            read=(ReadTerm(component="array_read", energy_j=self.read_energy_j.value),),
            passes=reads,
            vector_latency_s=self.read_latency_s.value * turn * reads,
            accumulate_energy_j=self.accumulate_energy_j.value,
            write_energy_j=self.write_energy_j.value,
            write_latency_s=self.write_latency_s.value * turn,
            area_m2={"array": self.area_m2.value},
            leakage_w=self.area_m2.value * self.leakage_w_per_m2.value,
            weight_bits=self.weight_bits.value,
            input_bits=self.input_bits.value,
            adc_bits=None if self.adc_bits.value == "none" else self.adc_bits.value,
            device=self.device.device(),
            errors=errors_of(self.errors),
            one_conversion=self.one_conversion,
            corrections=self.corrections.model(),
        )
