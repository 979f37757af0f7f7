"""The shared component files: digital units, buffer, bus and leakage of one technology."""

from __future__ import annotations

from pydantic import Field, model_validator

from trex.config import FieldProblem, StrictModel
from trex.hardware.chip import Periphery
from trex.hardware.quantities import (
    AreaM2,
    BitsPerS,
    BufferBits,
    Count,
    EnergyJ,
    FrequencyHz,
    PowerWPerM2,
    Ratio,
    Sourced,
)


class FunctionSpec(StrictModel):
    """Arithmetic of one element of an element-wise function."""

    adds: float = Field(ge=0, le=1000)
    multiplies: float = Field(ge=0, le=1000)

    @model_validator(mode="after")
    def _does_something(self) -> FunctionSpec:
        if self.adds == self.multiplies == 0:
            raise FieldProblem((), "is free", "leave it out: reports then name it as not priced")
        return self


class VectorUnitSpec(StrictModel):
    """`lanes` lanes, each one element a clock; an element's energy follows its arithmetic."""

    lanes: Sourced[Count]
    clock_hz: Sourced[FrequencyHz]
    adder_energy_j: Sourced[EnergyJ]
    adders_per_multiplier: Sourced[Ratio]
    lane_area_m2: Sourced[AreaM2]
    functions: Sourced[dict[str, FunctionSpec]]


class BufferSpec(StrictModel):
    """The global activation buffer."""

    capacity_bits: Sourced[BufferBits]
    read_energy_j_per_bit: Sourced[EnergyJ]
    write_energy_j_per_bit: Sourced[EnergyJ]
    area_m2_per_bit: Sourced[AreaM2]


class TileBufferSpec(StrictModel):
    """The input buffer of a tile; it holds two vectors, one arriving while one is read."""

    energy_j_per_bit: Sourced[EnergyJ]
    area_m2_per_bit: Sourced[AreaM2]


class BusSpec(StrictModel):
    """What carries activations between the buffer and the tiles."""

    energy_j_per_bit: Sourced[EnergyJ]
    bits_per_s: Sourced[BitsPerS]
    area_m2: Sourced[AreaM2]


class PeripherySpec(StrictModel):
    """One technology's components around the arrays."""

    name: str = Field(min_length=1)
    technology_nm: Sourced[Count]
    vector_unit: VectorUnitSpec
    buffer: BufferSpec
    tile_buffer: TileBufferSpec
    bus: BusSpec
    leakage_w_per_m2: Sourced[PowerWPerM2]

    def model(self) -> Periphery:
        """The components as the cost model sees them."""
        unit, buffer = self.vector_unit, self.buffer
        add_j = unit.adder_energy_j.value
        multiply_j = add_j * unit.adders_per_multiplier.value
        return Periphery(
            name=self.name,
            function_energy_j={
                name: f.adds * add_j + f.multiplies * multiply_j
                for name, f in unit.functions.value.items()
            },
            vector_unit_elements_per_s=unit.lanes.value * unit.clock_hz.value,
            vector_unit_area_m2=unit.lanes.value * unit.lane_area_m2.value,
            buffer_read_j_per_bit=buffer.read_energy_j_per_bit.value,
            buffer_write_j_per_bit=buffer.write_energy_j_per_bit.value,
            buffer_bits=buffer.capacity_bits.value,
            buffer_area_m2=buffer.capacity_bits.value * buffer.area_m2_per_bit.value,
            tile_buffer_j_per_bit=self.tile_buffer.energy_j_per_bit.value,
            tile_buffer_area_m2_per_bit=self.tile_buffer.area_m2_per_bit.value,
            bus_energy_j_per_bit=self.bus.energy_j_per_bit.value,
            bus_bits_per_s=self.bus.bits_per_s.value,
            bus_area_m2=self.bus.area_m2.value,
            leakage_w_per_m2=self.leakage_w_per_m2.value,
        )
