"""Arrays described by constants for a whole crossbar, as TReX-Sim does (TReX, Table III)."""

from __future__ import annotations

from pydantic import Field

from trex.config import StrictModel
from trex.hardware.chip import ArrayModel, Device, ReadTerm
from trex.hardware.quantities import (
    AreaM2,
    Bits,
    Count,
    EnergyJ,
    Fraction,
    LatencyS,
    PositiveFloat,
    Sourced,
)


class DeviceSpec(StrictModel):
    """The memory cell; resistances in ohms, variations as relative standard deviations."""

    bits_per_cell: Sourced[Bits]
    r_on_ohm: Sourced[PositiveFloat] | None = None
    r_off_ohm: Sourced[PositiveFloat] | None = None
    read_variation: Sourced[Fraction] | None = None
    write_variation: Sourced[Fraction] | None = None

    def device(self) -> Device:
        """The numbers without their sources."""
        return Device(
            bits_per_cell=self.bits_per_cell.value,
            r_on_ohm=self.r_on_ohm.value if self.r_on_ohm else None,
            r_off_ohm=self.r_off_ohm.value if self.r_off_ohm else None,
            read_variation=self.read_variation.value if self.read_variation else 0.0,
            write_variation=self.write_variation.value if self.write_variation else 0.0,
        )


class ConstantArraySpec(StrictModel):
    """A crossbar of `rows × columns` cells whose read, write and area are single figures.

    The read figures cover one input vector with all its bits. `arrays_read_in_turn` crossbars
    share a reader, so a vector takes that many read times; writes likewise.
    """

    cell: str = Field(min_length=1)
    rows: Sourced[Count]
    columns: Sourced[Count]
    weight_bits: Sourced[Bits]
    input_bits: Sourced[Bits]
    adc_bits: Sourced[Bits]
    weight_slices: Sourced[Bits]
    read_energy_j: Sourced[EnergyJ]
    read_latency_s: Sourced[LatencyS]
    write_energy_j: Sourced[EnergyJ]
    write_latency_s: Sourced[LatencyS]
    arrays_read_in_turn: Sourced[Count]
    arrays_per_tile: Sourced[Count]
    area_m2: Sourced[AreaM2]
    leakage_w_per_m2: Sourced[PositiveFloat]
    device: DeviceSpec

    def model(self, name: str) -> ArrayModel:
        """The array as the cost model sees it."""
        turn = self.arrays_read_in_turn.value
        return ArrayModel(
            name=name,
            cell=self.cell,
            rows=self.rows.value,
            columns=self.columns.value,
            weight_slices=self.weight_slices.value,
            slices_share_array=False,
            arrays_per_tile=self.arrays_per_tile.value,
            copies=1,
            read=(ReadTerm(component="array_read", energy_j=self.read_energy_j.value),),
            passes=1,
            vector_latency_s=self.read_latency_s.value * turn,
            write_energy_j=self.write_energy_j.value,
            write_latency_s=self.write_latency_s.value * turn,
            area_m2={"array": self.area_m2.value},
            leakage_w=self.area_m2.value * self.leakage_w_per_m2.value,
            weight_bits=self.weight_bits.value,
            input_bits=self.input_bits.value,
            adc_bits=self.adc_bits.value,
            device=self.device.device(),
        )
