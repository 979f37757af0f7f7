"""One operation on a chip: its energy, its time and its area, component by component.

Components: `array_read` or an array's own parts (cells, drivers, adc, ...), `array_write`,
`softmax`, `accumulate`, `vector_unit`, `buffer`, `bus`, `array` (area). The same code prices both
accountings; `paper` leaves out everything the published equations have no term for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from trex.architecture import Operation
from trex.errors import ChipError
from trex.hardware.chip import ArrayModel, Chip
from trex.hardware.mapping import map_matmul

#: `paper`: the published equations (TReX, Table II). `paper_transform`: these and the transform's
#: crossbars. `full`: everything the chip must do.
Accounting = Literal["paper", "paper_transform", "full"]
ACCOUNTINGS: Final[tuple[Accounting, ...]] = get_args(Accounting)

#: Operation name -> density of ones in each input bit-plane, least significant first.
Densities = Mapping[str, Sequence[float]]

#: Functions that move or select values without arithmetic.
FREE_FUNCTIONS: Final = frozenset({"", "identity", "reshape", "concat", "split", "slice"})

#: What the units of the whole chip are called as resources.
SHARED_RESOURCES: Final = ("softmax", "vector_unit", "bus")


@dataclass(frozen=True, kw_only=True, slots=True)
class Busy:
    """Time a component is busy: `fill_s` for one vector, `total_s` for all of them.

    `resource` is one of `SHARED_RESOURCES`, or empty for the operation's own arrays or units.
    """

    component: str
    total_s: float
    fill_s: float
    resource: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class OperationPrice:
    """One operation of one image; `write_s` comes before its first vector."""

    operation: Operation
    energy_j: tuple[tuple[str, float], ...] = ()
    busy: tuple[Busy, ...] = ()
    write_s: float = 0.0
    area_m2: tuple[tuple[str, float], ...] = ()
    leakage_w: float = 0.0

    @property
    def busy_s(self) -> float:
        """Time without any overlap, writes left out."""
        return sum(b.total_s for b in self.busy)


def is_priced(op: Operation, accounting: Accounting, *, in_encoder: bool) -> bool:
    """Whether an accounting has a term for this operation."""
    if accounting == "full":
        return True
    if not in_encoder or op.kind == "elementwise":
        return False
    return op.part != "transform" or accounting == "paper_transform"


def is_known(op: Operation, chip: Chip) -> bool:
    """Whether the chip can price this operation at all."""
    return (
        op.kind != "elementwise"
        or op.function in FREE_FUNCTIONS
        or op.function in chip.periphery.function_energy_j
    )


def price_operation(
    op: Operation,
    chip: Chip,
    accounting: Accounting,
    *,
    densities: Densities | None = None,
    reused_map: bool = False,
) -> OperationPrice:
    """Price an operation that `is_priced` and `is_known`.

    Args:
        op: the operation.
        chip: the chip.
        accounting: what has a term.
        densities: measured input bit densities; the array's assumed one elsewhere.
        reused_map: the operation multiplies an attention map that an earlier encoder left in
            the buffer.

    Raises:
        ChipError: an operation's densities do not fit the array's input bits.
    """
    if op.kind == "softmax":
        return _softmax(op, chip, accounting)
    if op.kind == "elementwise":
        return _elementwise(op, chip)
    return _matmul(op, chip, accounting, densities or {}, reused_map)


def _matmul(
    op: Operation, chip: Chip, accounting: Accounting, densities: Densities, reused_map: bool
) -> OperationPrice:
    full, dynamic = accounting == "full", op.kind == "dynamic_matmul"
    array = chip.dynamic_array if dynamic else chip.static_array
    mapping = map_matmul(op, array, packed_heads=not full)
    planes = _planes(op, array, densities)
    reads = op.vectors * mapping.arrays
    energy = [(t.component, reads * sum(map(t.at, planes))) for t in array.read]
    busy = [
        Busy(
            component="array_read",
            total_s=op.vectors * array.vector_latency_s,
            fill_s=array.vector_latency_s,
        )
    ]
    write_s = 0.0
    placed = mapping.placed_arrays
    if dynamic:
        energy.append(("array_write", mapping.arrays * array.copies * array.write_energy_j))
        write_s = array.write_latency_s
        if full and chip.options.double_buffered_writes:
            placed *= 2
    area = [(name, placed * each) for name, each in array.area_m2.items()]
    leakage_w = placed * array.leakage_w
    if full:
        held_bits, buffer_area_m2 = _tile_buffers(op, chip, array, mapping.placed_arrays)
        # Every bit is written once and read once.
        tile_buffer_j = 2 * op.vectors * held_bits * chip.periphery.tile_buffer_j_per_bit
        energy.append(("tile_buffer", tile_buffer_j))
        area.append(("tile_buffer", buffer_area_m2))
        leakage_w += buffer_area_m2 * chip.periphery.leakage_w_per_m2
        sums = (mapping.row_blocks - 1) * op.elements
        energy.append(("accumulate", sums * array.accumulate_energy_j))
        reads_bits, writes_bits = _traffic_bits(op, chip, array.input_bits, reused_map)
        moved_energy, moved_busy = _move(op, chip, reads_bits, writes_bits)
        energy += moved_energy
        busy += moved_busy
    return OperationPrice(
        operation=op,
        energy_j=tuple(energy),
        busy=tuple(busy),
        write_s=write_s,
        area_m2=tuple(area),
        leakage_w=leakage_w if full else 0.0,
    )


def _tile_buffers(
    op: Operation, chip: Chip, array: ArrayModel, placed_arrays: int
) -> tuple[float, float]:
    """Bits of one input vector held in all tiles together, and the buffers' area.

    A tile holds the inputs of its arrays' rows, at most the whole vector, and room for two.
    """
    tiles = placed_arrays / array.arrays_per_tile / array.copies
    inputs = min(op.groups * op.in_features, array.arrays_per_tile * array.rows)
    held_bits = tiles * inputs * array.input_bits
    area_m2 = 2 * held_bits * array.copies * chip.periphery.tile_buffer_area_m2_per_bit
    return held_bits, area_m2


def _planes(op: Operation, array: ArrayModel, densities: Densities) -> Sequence[float]:
    """Density of ones in each pass of an input vector."""
    planes = densities.get(op.name)
    if planes is None or array.passes == 1:
        return [array.density] * array.passes
    if len(planes) != array.passes or not all(0 <= p <= 1 for p in planes):
        raise ChipError(
            f"{op.name}: {len(planes)} input bit densities for {array.passes} input bits",
            hint="give one density from 0 to 1 for each input bit",
        )
    return planes


def _traffic_bits(op: Operation, chip: Chip, bits: int, reused_map: bool) -> tuple[float, float]:
    """Bits a matrix product reads from the buffer and writes to it.

    A depth-first softmax takes scores from the array and hands probabilities on, so neither
    crosses the buffer, except for a map that later encoders reuse: it is written for them once
    and read by each.
    """
    inputs = float(op.groups * op.vectors * op.in_features * bits)
    outputs = float(op.elements * bits)
    if op.part == "scores" and chip.softmax.depth_first:
        outputs = 0.0
    if op.part == "context" and chip.softmax.depth_first:
        return (inputs, outputs + inputs) if reused_map else (0.0, outputs)
    return inputs, outputs


def _move(
    op: Operation, chip: Chip, read_bits: float, write_bits: float
) -> tuple[list[tuple[str, float]], list[Busy]]:
    """Buffer and bus of values read and written."""
    around, bits = chip.periphery, read_bits + write_bits
    if bits == 0:
        return [], []
    buffer_j = (
        read_bits * around.buffer_read_j_per_bit + write_bits * around.buffer_write_j_per_bit
    )
    seconds = bits / around.bus_bits_per_s
    return (
        [("buffer", buffer_j), ("bus", bits * around.bus_energy_j_per_bit)],
        [Busy(component="bus", resource="bus", total_s=seconds, fill_s=seconds / op.vectors)],
    )


def _softmax(op: Operation, chip: Chip, accounting: Accounting) -> OperationPrice:
    """One unit works through one score after another; `groups` heads share the units.

    Under `paper` every head has a unit (TReX, Table II: E counts heads, D does not).
    """
    unit, full = chip.softmax, accounting == "full"
    units = (unit.units if full else None) or op.groups
    total_s = op.elements * unit.latency_per_element_s / units
    energy = [("softmax", op.elements * unit.energy_per_element_j)]
    resource = "softmax" if unit.shared else ""
    busy = [
        Busy(component="softmax", resource=resource, total_s=total_s, fill_s=total_s / op.vectors)
    ]
    area: tuple[tuple[str, float], ...] = ()
    leakage_w = 0.0
    if full:
        if not unit.shared:
            area = (("softmax", units * unit.area_per_unit_m2),)
            leakage_w = area[0][1] * chip.periphery.leakage_w_per_m2
        if not unit.depth_first:
            bits = float(op.elements * chip.dynamic_array.input_bits)
            moved_energy, moved_busy = _move(op, chip, bits, bits)
            energy += moved_energy
            busy += moved_busy
    return OperationPrice(
        operation=op,
        energy_j=tuple(energy),
        busy=tuple(busy),
        area_m2=area,
        leakage_w=leakage_w,
    )


def _elementwise(op: Operation, chip: Chip) -> OperationPrice:
    """Functions work on values as they stream by; `add` fetches its second operand."""
    if op.function in FREE_FUNCTIONS:
        return OperationPrice(operation=op)
    around = chip.periphery
    energy = [("vector_unit", op.elements * around.function_energy_j[op.function])]
    seconds = op.elements / around.vector_unit_elements_per_s
    busy = [
        Busy(
            component="vector_unit",
            resource="vector_unit",
            total_s=seconds,
            fill_s=seconds / op.vectors,
        )
    ]
    if op.function in ("add", "multiply"):
        bits = float(op.elements * chip.static_array.input_bits)
        moved_energy, moved_busy = _move(op, chip, bits, 0.0)
        energy += moved_energy
        busy += moved_busy
    return OperationPrice(operation=op, energy_j=tuple(energy), busy=tuple(busy))
