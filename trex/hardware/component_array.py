"""Arrays put together from component figures: cells, drivers, converters, shift-add."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from trex.config import FieldProblem, StrictModel, did_you_mean, raise_all
from trex.datafiles import data_folder
from trex.hardware.chip import ArrayModel, ReadTerm
from trex.hardware.constant_array import (
    DeviceSpec,
    ErrorsSpec,
    cell_problems,
    error_problems,
    errors_of,
)
from trex.hardware.corrections import CorrectionsSpec
from trex.hardware.quantities import (
    AreaM2,
    Bits,
    Cells,
    Count,
    EnergyJ,
    Fraction,
    FreeEnergyJ,
    LatencyS,
    PowerW,
    Sourced,
)
from trex.hardware.subarray_table import Circuit, find_row


class TableRow(StrictModel):
    """What tells one row of a subarray table from another."""

    technode_nm: int = Field(ge=1)
    cell: str
    size: int = Field(ge=1)
    adc: str
    levels: int = Field(ge=2)


class CircuitSpec(StrictModel):
    """The figures of one array written out, where they come from no table.

    Energies of one pass: one input bit of every row, all columns converted.
    """

    adc: str = Field(min_length=1)
    size: Sourced[Cells]
    adc_levels: Sourced[Count]
    clock_s: Sourced[LatencyS]
    cells_energy_j: Sourced[EnergyJ]
    drivers_energy_j: Sourced[FreeEnergyJ]
    adc_energy_per_conversion_j: Sourced[EnergyJ]
    shift_add_energy_j: Sourced[FreeEnergyJ]
    cells_area_m2: Sourced[AreaM2]
    drivers_area_m2: Sourced[AreaM2]
    adc_area_m2: Sourced[AreaM2]
    shift_add_area_m2: Sourced[AreaM2]
    leakage_w: Sourced[PowerW]

    @model_validator(mode="after")
    def _adc_has_a_bit(self) -> CircuitSpec:
        if self.adc_levels.value < 2:
            raise FieldProblem(
                ("adc_levels", "value"), "the ADC is narrower than one bit", "give at least 2"
            )
        return self

    def circuit(self) -> Circuit:
        """The numbers without their sources."""
        size = self.size.value
        return Circuit(
            size=size,
            levels=self.adc_levels.value,
            clock_s=self.clock_s.value,
            energy_j={
                "cells": self.cells_energy_j.value,
                "drivers": self.drivers_energy_j.value,
                "adc": self.adc_energy_per_conversion_j.value * size,
                "shift_add": self.shift_add_energy_j.value,
            },
            area_m2={
                "cells": self.cells_area_m2.value,
                "drivers": self.drivers_area_m2.value,
                "adc": self.adc_area_m2.value,
                "shift_add": self.shift_add_area_m2.value,
            },
            leakage_w=self.leakage_w.value,
        )


class IdleFractions(StrictModel):
    """The part of a component's energy that remains when every input bit is zero.

    `adc` by the converter's kind, so that another row of a table finds its own.
    """

    cells: Sourced[Fraction]
    drivers: Sourced[Fraction]
    adc: dict[str, Sourced[Fraction]]


class ComponentArraySpec(StrictModel):
    """One type of array: a `row` of a `table`, or a `circuit` written out.

    `column_mux` columns share a converter and are read in turn. `copies` arrays hold the same
    weights and take vectors in turn. `area_m2` is a whole array's, for a row of energies only.
    """

    cell: str
    table: str | None = None
    row: TableRow | None = None
    circuit: CircuitSpec | None = None
    weight_bits: Sourced[Bits]
    input_bits: Sourced[Bits]
    input_bit_density: Sourced[Fraction]
    idle_fraction: IdleFractions
    column_mux: Sourced[Count]
    copies: Sourced[Count]
    arrays_per_tile: Sourced[Count]
    accumulate_energy_j: Sourced[EnergyJ]
    write_energy_j_per_bit: Sourced[EnergyJ]
    write_latency_s_per_row: Sourced[LatencyS]
    device: DeviceSpec
    errors: ErrorsSpec | None = None
    corrections: CorrectionsSpec = CorrectionsSpec()
    area_m2: Sourced[AreaM2] | None = None
    weight_mapping: Literal["neighbouring columns"] = "neighbouring columns"

    @model_validator(mode="after")
    def _parts_fit(self) -> ComponentArraySpec:
        raise_all(list(self._misfits()))
        return self

    def _misfits(self) -> Iterator[FieldProblem]:
        yield from cell_problems(self.cell, self.device.bits_per_cell.value)
        yield from error_problems(self.errors, self.device)
        from_table = self.table is not None and self.row is not None
        if from_table == (self.circuit is not None) or (self.table is None) != (self.row is None):
            yield FieldProblem(
                (),
                "needs either a table and a row of it, or a circuit",
                "give `table:` and `row:`, or `circuit:`",
            )
            return
        if self.row is not None and self.row.cell != self.cell:
            yield FieldProblem(
                ("row", "cell"),
                f"{self.row.cell} is not the array's cell {self.cell}",
                "correct one of them",
            )
        if self.adc_kind not in self.idle_fraction.adc:
            yield FieldProblem(
                ("idle_fraction", "adc"),
                f"nothing for a converter of kind {self.adc_kind!r}",
                f"known: {', '.join(self.idle_fraction.adc)}",
            )
        if self.size % self.column_mux.value:
            yield FieldProblem(
                ("column_mux", "value"),
                f"converters of {self.column_mux.value} columns each do not share {self.size} "
                "columns evenly",
                "give a divisor of the array's size",
            )

    @property
    def size(self) -> int:
        """Rows, and columns, of the square array."""
        if self.circuit is not None:
            return self.circuit.size.value
        assert self.row is not None
        return self.row.size

    @property
    def adc_kind(self) -> str:
        """The converter's kind, `flash` or `sar`, as the table or the circuit calls it."""
        if self.circuit is not None:
            return self.circuit.adc
        assert self.row is not None
        return self.row.adc

    def model(self, name: str, folder: Path) -> ArrayModel:
        """The array as the cost model sees it; tables are shipped ones or lie in `folder`.

        Raises:
            FieldProblem: there is no such table, or no such row in it, or no areas or two.
            ChipError: the table itself is wrong.
        """
        circuit = self._circuit(folder)
        idle = {
            "cells": self.idle_fraction.cells.value,
            "drivers": self.idle_fraction.drivers.value,
            "adc": self.idle_fraction.adc[self.adc_kind].value,
        }
        size, passes = circuit.size, self.input_bits.value
        pass_s = self.column_mux.value * circuit.clock_s
        return ArrayModel(
            name=name,
            cell=self.cell,
            rows=size,
            columns=size,
            weight_slices=math.ceil(self.weight_bits.value / self.device.bits_per_cell.value),
            slices_share_array=True,
            arrays_per_tile=self.arrays_per_tile.value,
            copies=self.copies.value,
            read=tuple(
                ReadTerm(component=part, energy_j=joules, idle_fraction=idle.get(part, 1.0))
                for part, joules in circuit.energy_j.items()
            ),
            passes=passes,
            vector_latency_s=passes * pass_s / self.copies.value,
            accumulate_energy_j=self.accumulate_energy_j.value,
            write_energy_j=self.write_energy_j_per_bit.value
            * size
            * size
            * self.device.bits_per_cell.value,
            write_latency_s=self.write_latency_s_per_row.value * size,
            area_m2=self._areas(circuit),
            leakage_w=circuit.leakage_w,
            weight_bits=self.weight_bits.value,
            input_bits=self.input_bits.value,
            adc_bits=math.ceil(math.log2(circuit.levels)),
            device=self.device.device(),
            density=self.input_bit_density.value,
            errors=errors_of(self.errors),
            corrections=self.corrections.model(),
        )

    def _areas(self, circuit: Circuit) -> Mapping[str, float]:
        if circuit.area_m2 is None:
            if self.area_m2 is None:
                raise FieldProblem(
                    ("row",),
                    "gives energies and no areas",
                    "add `area_m2: {value: ..., source: ...}` of one array",
                )
            return {"array": self.area_m2.value}
        if self.area_m2 is not None:
            raise FieldProblem(
                ("area_m2",), "stands beside the areas of the array's parts", "leave it out"
            )
        return circuit.area_m2

    def _circuit(self, folder: Path) -> Circuit:
        if self.circuit is not None:
            return self.circuit.circuit()
        assert self.table is not None
        assert self.row is not None
        shipped = {path.stem: path for path in (data_folder("hw_models") / "tables").glob("*.csv")}
        path = shipped.get(self.table, folder / self.table)
        if not path.is_file():
            raise FieldProblem(
                ("table",),
                f"no table {self.table!r}, shipped or beside this file",
                did_you_mean(self.table, [*shipped, *(p.name for p in folder.glob("*.csv"))]),
            )
        return find_row(path, self.row.model_dump(), self.column_mux.value)
