"""The parts of a price: energy, busy time and area of one operation, component by component.

Components: `array_read` (constants, or the time of a read) or an array's own parts (cells,
drivers, mux, adc, shift_add, and array_other for what a table's total holds beyond them),
`array_write`, `accumulate`, `softmax`, `vector_unit`, `buffer`, `tile_buffer`, `bus` (or `network`
and `tile_link` where a chip has these), `tile_other` for what its tiles have beside arrays, and
`array` for the area of a crossbar given as one figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, get_args

from trex.architecture import Operation
from trex.hardware.chip import Chip
from trex.hardware.network import NETWORK, Links

#: `paper`: the published equations (TReX, Table II). `paper_transform`: these and the transform's
#: crossbars. `full`: everything the chip must do.
Accounting = Literal["paper", "paper_transform", "full"]
ACCOUNTINGS: Final[tuple[Accounting, ...]] = get_args(Accounting)
#: what a price can be of: a chip's accounting, or a measured machine, which has one way alone
DeviceAccounting = Accounting | Literal["measured"]

#: Operation name -> density of ones in each input bit-plane, least significant first.
Densities = Mapping[str, Sequence[float]]

#: What the units of the whole chip are called as resources.
SHARED_RESOURCES: Final = ("softmax", "vector_unit", "bus")


@dataclass(frozen=True, kw_only=True, slots=True)
class Busy:
    """Time a component is busy: `fill_s` for one vector, `total_s` for all of them.

    `resource` is one of `SHARED_RESOURCES`, or empty for the operation's own arrays or units.
    """

    component: str
    total_s: Any
    fill_s: Any
    resource: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class MatmulPrice:
    """A matrix product's price: numbers, or arrays with one entry a shape."""

    energy_j: tuple[tuple[str, Any], ...]
    busy: tuple[Busy, ...]
    write_s: Any
    write_hides: bool
    area_m2: tuple[tuple[str, Any], ...]
    leakage_w: Any


@dataclass(frozen=True, kw_only=True, slots=True)
class OperationPrice:
    """One operation of one image; `write_s` comes before its first vector.

    `write_hides`: whether a second set of arrays can be written while the vectors stream in.
    """

    operation: Operation
    energy_j: tuple[tuple[str, float], ...] = ()
    busy: tuple[Busy, ...] = ()
    write_s: float = 0.0
    write_hides: bool = True
    area_m2: tuple[tuple[str, float], ...] = ()
    leakage_w: float = 0.0


class ReusedMap(NamedTuple):
    """Values of an attention map that an encoder does not compute.

    Attributes:
        read: that its product with the values takes from the buffer.
        written: as its source put it out; 0 of constants.
    """

    read: int
    written: int


def move(
    vectors: Any, chip: Chip, read_bits: Any, write_bits: Any, links: Links | None = None
) -> tuple[list[tuple[str, Any]], list[Busy]]:
    """Buffer and bus of values read and written; with `links`, by a unit beside the buffer."""
    around, bits = chip.periphery, read_bits + write_bits
    buffer_j = (
        read_bits * around.buffer_read_j_per_bit + write_bits * around.buffer_write_j_per_bit
    )
    if links is None:
        name, per_bit_j, rate = "bus", around.bus_energy_j_per_bit, around.bus_bits_per_s
    else:
        name, per_bit_j, rate = NETWORK, links.network.link_j_per_bit, links.bits_per_s
    seconds = bits / rate
    return (
        [("buffer", buffer_j), (name, bits * per_bit_j)],
        [Busy(component=name, resource="bus", total_s=seconds, fill_s=seconds / vectors)],
    )
