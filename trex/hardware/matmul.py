"""A matrix product on crossbar arrays: its reads, writes, traffic and area."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from trex.errors import ChipError
from trex.hardware.chip import NOT_CORRECTED, ArrayCorrections, ArrayModel, Chip
from trex.hardware.mapping import MatmulShape, map_matmul, most
from trex.hardware.network import Links
from trex.hardware.prices import Accounting, Busy, Densities, MatmulPrice, ReusedMap, move
from trex.hardware.traffic import carry, tile_buffers, traffic_bits

#: parts of an array that a pair of columns has once
_ONE_A_PAIR: Final = ("mux", "adc", "shift_add")
#: parts whose energy is a row's
_OF_ROWS: Final = ("cells", "drivers")


def price_matmul(
    op: MatmulShape,
    chip: Chip,
    accounting: Accounting,
    *,
    densities: Densities | None = None,
    reused_map: ReusedMap | None = None,
    links: Links | None = None,
    follows: bool = False,
) -> MatmulPrice:
    """Price a matrix product, or many shapes at once (see `trex.hardware.layers`).

    Args:
        op: the product.
        chip: the chip.
        accounting: what has a term.
        densities: measured input bit densities.
        reused_map: the attention map that lies in the buffer, where the product reads one.
        links: of a chip with a network, under `full` accounting.
        follows: whether its inputs are on their way to another product already.
    """
    full, dynamic = accounting == "full", op.kind == "dynamic_matmul"
    array = chip.dynamic_array if dynamic else chip.static_array
    known = array.corrections if full else NOT_CORRECTED
    pair = _columns_a_slice(known)
    mapping = map_matmul(op, array, packed_heads=not full, columns_a_slice=pair)
    planes = _planes(op, array, densities or {})
    reads = op.vectors * mapping.arrays
    # Energies are linear in the density, so the bit-planes' mean tells their sum.
    density = sum(planes) / len(planes)
    energy = [(t.component, reads * array.passes * t.at(density)) for t in array.read]
    if known.unused_rows_idle:
        energy = [(n, j * mapping.used_rows if n in _OF_ROWS else j) for n, j in energy]
    if pair > 1:
        energy = [(n, j / pair if n in _ONE_A_PAIR else j) for n, j in energy]
    busy = [
        Busy(
            component="array_read",
            total_s=op.vectors * array.vector_latency_s,
            fill_s=array.vector_latency_s,
        )
    ]
    write_s: Any = 0.0
    resident = op.resident_groups > 0
    placed = mapping.placed_arrays * 0 if resident else mapping.placed_arrays
    if dynamic and not resident:
        energy.append(("array_write", mapping.arrays * array.copies * array.write_energy_j))
        write_s = array.write_latency_s
        if full and chip.options.double_buffered_writes:
            placed = 2 * placed
    area = [
        (name, placed * (each / pair if name in _ONE_A_PAIR else each))
        for name, each in array.area_m2.items()
    ]
    leakage_w = placed * array.leakage_w
    if full:
        around = chip.periphery
        held_bits, buffer_area_m2 = tile_buffers(op, chip, array, placed)
        # Every bit is written once and read once.
        tile_buffer_j = 2 * op.vectors * held_bits * around.tile_buffer_j_per_bit
        energy.append(("tile_buffer", tile_buffer_j))
        if known.tile_other_m2 is None:
            area.append(("tile_buffer", buffer_area_m2))
            leakage_w += buffer_area_m2 * around.leakage_w_per_m2
        else:
            other_m2 = placed / array.arrays_per_tile * known.tile_other_m2
            area.append(("tile_other", other_m2))
            leakage_w += other_m2 * around.leakage_w_per_m2
        # partial sums of row blocks, and of the matrices whose mean is read
        joined = op.resident_groups // op.groups if resident else 1
        summed = mapping.row_blocks * joined
        sums = (summed - 1) * op.elements
        energy.append(("accumulate", sums * _sum_j(array, known, summed)))
        moved_bits = traffic_bits(op, chip, array.input_bits, reused_map)
        if links is None:
            moved_energy, moved_busy = move(op.vectors, chip, *moved_bits)
        else:
            written = dynamic and not resident
            way = carry(
                op, array, mapping, links, around, moved_bits, follows=follows, written=written
            )
            moved_energy, moved_busy = list(way.energy_j), list(way.busy)
            write_s = most(write_s, way.write_s)
        energy += moved_energy
        busy += moved_busy
    return MatmulPrice(
        energy_j=tuple(energy),
        busy=tuple(busy),
        write_s=write_s,
        # rows of V are tokens, which are written as they come; those of Kᵀ are features of all
        write_hides=known.column_write is not False or op.part == "context",
        area_m2=tuple(area),
        leakage_w=leakage_w if full else 0.0,
    )


def tiles_of(op: MatmulShape, chip: Chip) -> Any:
    """Tiles that a product takes under `full` accounting, those of a second set among them."""
    dynamic = op.kind == "dynamic_matmul"
    array = chip.dynamic_array if dynamic else chip.static_array
    pair = _columns_a_slice(array.corrections)
    mapping = map_matmul(op, array, packed_heads=False, columns_a_slice=pair)
    sets = 2 if dynamic and chip.options.double_buffered_writes else 1
    return sets * mapping.placed_arrays / array.arrays_per_tile


def _columns_a_slice(known: ArrayCorrections) -> int:
    return 2 if known.signs == "pair of columns" else 1


def _sum_j(array: ArrayModel, known: ArrayCorrections, summed: Any) -> Any:
    """Joules of one addition to an output's partial sums, of so many in all."""
    if known.partial_sum_j_per_bit is None:
        return array.accumulate_energy_j
    grown = np.ceil(np.log2(summed))
    if array.adc_bits is None:  # whole products come out
        bits = array.weight_bits + array.input_bits + math.ceil(math.log2(array.rows)) + grown
        return bits * known.partial_sum_j_per_bit
    each = (array.adc_bits + grown) * known.partial_sum_j_per_bit
    return array.weight_slices * array.passes * each


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
