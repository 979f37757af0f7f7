"""A matrix product on crossbar arrays: its reads, writes, traffic and area."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trex.errors import ChipError
from trex.hardware.chip import ArrayModel, Chip
from trex.hardware.mapping import MatmulShape, least, map_matmul
from trex.hardware.prices import Accounting, Busy, Densities, MatmulPrice, ReusedMap, move


def price_matmul(
    op: MatmulShape,
    chip: Chip,
    accounting: Accounting,
    *,
    densities: Densities | None = None,
    reused_map: ReusedMap | None = None,
) -> MatmulPrice:
    """Price a matrix product, or many shapes at once (see `trex.hardware.layers`)."""
    full, dynamic = accounting == "full", op.kind == "dynamic_matmul"
    array = chip.dynamic_array if dynamic else chip.static_array
    mapping = map_matmul(op, array, packed_heads=not full)
    planes = _planes(op, array, densities or {})
    reads = op.vectors * mapping.arrays
    # Energies are linear in the density, so the bit-planes' mean tells their sum.
    density = sum(planes) / len(planes)
    energy = [(t.component, reads * array.passes * t.at(density)) for t in array.read]
    busy = [
        Busy(
            component="array_read",
            total_s=op.vectors * array.vector_latency_s,
            fill_s=array.vector_latency_s,
        )
    ]
    write_s = 0.0
    resident = op.resident_groups > 0
    placed = mapping.placed_arrays * 0 if resident else mapping.placed_arrays
    if dynamic and not resident:
        energy.append(("array_write", mapping.arrays * array.copies * array.write_energy_j))
        write_s = array.write_latency_s
        if full and chip.options.double_buffered_writes:
            placed = 2 * placed
    area = [(name, placed * each) for name, each in array.area_m2.items()]
    leakage_w = placed * array.leakage_w
    if full:
        held_bits, buffer_area_m2 = _tile_buffers(op, chip, array, placed)
        # Every bit is written once and read once.
        tile_buffer_j = 2 * op.vectors * held_bits * chip.periphery.tile_buffer_j_per_bit
        energy.append(("tile_buffer", tile_buffer_j))
        area.append(("tile_buffer", buffer_area_m2))
        leakage_w += buffer_area_m2 * chip.periphery.leakage_w_per_m2
        # partial sums of row blocks, and of the matrices whose mean is read
        joined = op.resident_groups // op.groups if resident else 1
        sums = (mapping.row_blocks * joined - 1) * op.elements
        energy.append(("accumulate", sums * array.accumulate_energy_j))
        reads_bits, writes_bits = _traffic_bits(op, chip, array.input_bits, reused_map)
        moved_energy, moved_busy = move(op.vectors, chip, reads_bits, writes_bits)
        energy += moved_energy
        busy += moved_busy
    return MatmulPrice(
        energy_j=tuple(energy),
        busy=tuple(busy),
        write_s=write_s,
        area_m2=tuple(area),
        leakage_w=leakage_w if full else 0.0,
    )


def _tile_buffers(
    op: MatmulShape, chip: Chip, array: ArrayModel, placed_arrays: Any
) -> tuple[Any, Any]:
    """Bits of one input vector held in all tiles together, and the buffers' area.

    A tile holds the inputs of its arrays' rows, at most the whole vector, and room for two.
    """
    tiles = placed_arrays / array.arrays_per_tile / array.copies
    inputs = least(op.groups * op.in_features, array.arrays_per_tile * array.rows)
    held_bits = tiles * inputs * array.input_bits
    area_m2 = 2 * held_bits * array.copies * chip.periphery.tile_buffer_area_m2_per_bit
    return held_bits, area_m2


def _planes(op: MatmulShape, array: ArrayModel, densities: Densities) -> Sequence[float]:
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


def _traffic_bits(
    op: MatmulShape, chip: Chip, bits: int, reused_map: ReusedMap | None
) -> tuple[Any, Any]:
    """Bits a matrix product reads from the buffer and writes to it.

    A depth-first softmax takes scores from the array and hands probabilities on, so neither
    crosses the buffer, except for a map that later encoders reuse: every consumer is charged for
    writing it and for reading it, whichever encoder does the writing.
    """
    inputs = op.groups * op.vectors * op.in_features * bits
    outputs = op.elements * bits
    if op.part == "scores" and chip.softmax.depth_first:
        outputs = 0
    if op.part == "context" and chip.softmax.depth_first:
        if reused_map is None:
            return 0, outputs
        return reused_map.read * bits, outputs + reused_map.written * bits
    return inputs, outputs
