"""What a matrix product moves: bits read and written, tiles' buffers, ways over a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trex.hardware.chip import ArrayModel, Chip, Periphery
from trex.hardware.mapping import ArrayMapping, MatmulShape, least, most
from trex.hardware.network import NETWORK, TILE_LINK, Links
from trex.hardware.prices import Busy, ReusedMap


@dataclass(frozen=True, kw_only=True, slots=True)
class Travel:
    """What a matrix product's values cost on their way.

    `write_s` is the least time in which a matrix can arrive at its arrays; 0 where none does.
    """

    energy_j: tuple[tuple[str, Any], ...]
    busy: tuple[Busy, ...]
    write_s: Any


def carry(
    op: MatmulShape,
    array: ArrayModel,
    mapping: ArrayMapping,
    links: Links,
    around: Periphery,
    moved_bits: tuple[Any, Any],
    *,
    follows: bool,
    written: bool,
) -> Travel:
    """The way of a product's inputs, outputs and, where it is `written`, matrix.

    Args:
        op: the product.
        array: that it runs on.
        mapping: how it lies there.
        links: of the chip.
        around: its buffer.
        moved_bits: read from the buffer and written to it, an image.
        follows: whether the inputs are on their way to another product already.
        written: whether its matrix is computed on the way and lies in the buffer.
    """
    network, bits = links.network, array.input_bits
    reads, writes = moved_bits
    tiles = mapping.placed_arrays / array.arrays_per_tile
    taking = most(tiles / array.copies, 1)  # one copy's: each vector goes to one
    held = least(op.groups * op.in_features, array.arrays_per_tile * array.rows) * bits
    in_bits = op.groups * op.in_features * bits
    out_bits = op.elements / op.vectors * bits
    further = most(taking * held / in_bits - 1, 0) + follows
    fetched = 0 * reads if follows else reads
    wire_m = fetched * links.distance_m + reads * further * links.pitch_m
    wire_m = wire_m + writes * links.distance_m
    buffer_j = fetched * around.buffer_read_j_per_bit + writes * around.buffer_write_j_per_bit
    linked = op.vectors * (taking * held + out_bits)
    link_s = (held + out_bits / taking) / network.link_bits_per_s
    # A tile's buffer holds two vectors: one arrives while the other is read.
    waiting_s = most(link_s * taking / tiles - array.vector_latency_s, 0)
    root_s = (fetched + writes) / links.bits_per_s
    busy = [
        Busy(component=NETWORK, resource="bus", total_s=root_s, fill_s=root_s / op.vectors),
        Busy(component=TILE_LINK, total_s=link_s + (op.vectors - 1) * waiting_s, fill_s=link_s),
    ]
    write_s: Any = 0.0
    if written:
        matrix = op.groups * op.in_features * op.out_features * array.weight_bits
        copied = matrix * array.copies
        wire_m = wire_m + matrix * (links.distance_m + (array.copies - 1) * links.pitch_m)
        buffer_j = buffer_j + matrix * around.buffer_read_j_per_bit
        linked = linked + copied
        arrival_s = matrix / links.bits_per_s
        busy.append(Busy(component=NETWORK, resource="bus", total_s=arrival_s, fill_s=arrival_s))
        write_s = copied / tiles / network.link_bits_per_s
    energy = (
        ("buffer", buffer_j),
        (NETWORK, wire_m * network.wire_j_per_bit_m),
        (TILE_LINK, linked * network.link_j_per_bit),
    )
    return Travel(energy_j=energy, busy=tuple(busy), write_s=write_s)


def tile_buffers(
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


def traffic_bits(
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
