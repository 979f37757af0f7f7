"""One operation on a chip: its energy, its time and its area, component by component.

The same code prices every accounting; `paper` leaves out what the published equations have no
term for.
"""

from __future__ import annotations

from typing import Any, Final

from trex.architecture import Operation
from trex.hardware.chip import Chip
from trex.hardware.matmul import price_matmul
from trex.hardware.network import Links
from trex.hardware.prices import Accounting, Busy, Densities, OperationPrice, ReusedMap, move

#: Functions that move or select values without arithmetic.
FREE_FUNCTIONS: Final = frozenset({"", "identity", "reshape", "concat", "split", "slice"})

#: Functions made of others that one step of the vector unit takes on together.
_COMPOSED: Final[dict[str, tuple[str, ...]]] = {"multiply_add": ("multiply", "add")}


def is_priced(op: Operation, accounting: Accounting, *, in_encoder: bool) -> bool:
    """Whether an accounting has a term for this operation."""
    if accounting == "full":
        return True
    if not in_encoder or op.kind == "elementwise" or op.part == "matching":
        return False
    return op.part != "transform" or accounting == "paper_transform"


def is_known(op: Operation, chip: Chip) -> bool:
    """Whether the chip can price this operation at all."""
    known = chip.periphery.function_energy_j.keys() | FREE_FUNCTIONS
    return op.kind != "elementwise" or known.issuperset(_parts(op.function))


def _parts(function: str) -> tuple[str, ...]:
    return _COMPOSED.get(function, (function,))


def price_operation(
    op: Operation,
    chip: Chip,
    accounting: Accounting,
    *,
    densities: Densities | None = None,
    reused_map: ReusedMap | None = None,
    links: Links | None = None,
    follows: bool = False,
) -> OperationPrice:
    """Price an operation that `is_priced` and `is_known`.

    Args:
        op: the operation.
        chip: the chip.
        accounting: what has a term.
        densities: measured input bit densities; the array's assumed one elsewhere.
        reused_map: the attention map that lies in the buffer, where the operation multiplies one.
        links: of a chip with a network, under `full` accounting.
        follows: whether its inputs are on their way to another product already.

    Raises:
        ChipError: an operation's densities do not fit the array's input bits.
    """
    if op.kind == "softmax":
        return _softmax(op, chip, accounting, links)
    if op.kind == "elementwise":
        return _elementwise(op, chip, links)
    matmul = price_matmul(
        op,
        chip,
        accounting,
        densities=densities,
        reused_map=reused_map,
        links=links,
        follows=follows,
    )
    return OperationPrice(
        operation=op,
        energy_j=matmul.energy_j,
        busy=matmul.busy,
        write_s=matmul.write_s,
        write_hides=matmul.write_hides,
        area_m2=matmul.area_m2,
        leakage_w=matmul.leakage_w,
    )


def _softmax(
    op: Operation, chip: Chip, accounting: Accounting, links: Links | None
) -> OperationPrice:
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
            moved_energy, moved_busy = move(op.vectors, chip, bits, bits, links)
            energy += moved_energy
            busy += moved_busy
    return OperationPrice(
        operation=op,
        energy_j=tuple(energy),
        busy=tuple(busy),
        area_m2=area,
        leakage_w=leakage_w,
    )


def _elementwise(op: Operation, chip: Chip, links: Links | None) -> OperationPrice:
    """Functions work on values as they stream by; `add` and `multiply` fetch a second operand.

    Where values are combined (pooling, sums), each of them is worked on. An operation may say how
    many values its second operand has, such as one for each of its rows. Constants that it keeps
    take memory of the global buffer's kind, beside it.
    """
    around = chip.periphery
    area_m2 = op.stored * chip.static_array.input_bits * around.buffer_area_m2 / around.buffer_bits
    kept: dict[str, Any] = (
        {"area_m2": (("buffer", area_m2),), "leakage_w": area_m2 * around.leakage_w_per_m2}
        if op.stored
        else {}
    )
    if op.function in FREE_FUNCTIONS:
        return OperationPrice(operation=op, **kept)
    values = op.elements * max(op.in_features, 1)
    each_j = sum(around.function_energy_j[part] for part in _parts(op.function))
    energy = [("vector_unit", values * each_j)]
    seconds = values / around.vector_unit_elements_per_s
    busy = [
        Busy(
            component="vector_unit",
            resource="vector_unit",
            total_s=seconds,
            fill_s=seconds / op.vectors,
        )
    ]
    operand = op.operand
    if operand is None:
        operand = op.elements if op.function in ("add", "multiply") else 0
    if operand:
        bits = float(operand * chip.static_array.input_bits)
        moved_energy, moved_busy = move(op.vectors, chip, bits, 0.0, links)
        energy += moved_energy
        busy += moved_busy
    return OperationPrice(operation=op, energy_j=tuple(energy), busy=tuple(busy), **kept)
