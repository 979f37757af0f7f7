"""What a chip file may correct in `full` prices; what it leaves out is priced as in 0.2."""

from __future__ import annotations

from trex.config import StrictModel
from trex.hardware.chip import ArrayCorrections, Network, Signs
from trex.hardware.quantities import (
    AreaM2,
    BitsPerS,
    EnergyJ,
    Sourced,
    WireEnergyJPerM,
)


class CorrectionsSpec(StrictModel):
    """Of one array; see `trex.hardware.chip.ArrayCorrections`."""

    column_write: Sourced[bool] | None = None
    unused_rows_idle: bool = False
    partial_sum_energy_j_per_bit: Sourced[EnergyJ] | None = None
    tile_other_area_m2: Sourced[AreaM2] | None = None
    signs: Signs = "one column"

    def model(self) -> ArrayCorrections:
        """The numbers without their sources."""
        write, sums, tile = (
            of.value if of else None
            for of in (
                self.column_write,
                self.partial_sum_energy_j_per_bit,
                self.tile_other_area_m2,
            )
        )
        return ArrayCorrections(
            column_write=None if write is None else bool(write),
            unused_rows_idle=self.unused_rows_idle,
            partial_sum_j_per_bit=sums,
            tile_other_m2=tile,
            signs=self.signs,
        )


class NetworkSpec(StrictModel):
    """Tiles' own links and the network between them; see `trex.hardware.network`."""

    link_energy_j_per_bit: Sourced[EnergyJ]
    link_bits_per_s: Sourced[BitsPerS]
    wire_energy_j_per_bit_m: Sourced[WireEnergyJPerM]
    channel_bits_per_s: Sourced[BitsPerS]

    def model(self) -> Network:
        """The numbers without their sources."""
        return Network(
            link_j_per_bit=self.link_energy_j_per_bit.value,
            link_bits_per_s=self.link_bits_per_s.value,
            wire_j_per_bit_m=self.wire_energy_j_per_bit_m.value,
            channel_bits_per_s=self.channel_bits_per_s.value,
        )
