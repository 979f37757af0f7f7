"""What a price leaves out, in words, with its share of the model's multiply-accumulates."""

from __future__ import annotations

from collections.abc import Iterable

from trex.architecture import Operation
from trex.hardware.chip import REFERENCE_DENSITY
from trex.hardware.live import fullest
from trex.hardware.pricing import is_known
from trex.hardware.system import Pricer, unpriced
from trex.hardware.workload import Workload

_PAPER = (
    "softmax units' area",
    "global and tile buffers, interconnect, accumulators",
    "leakage",
    "layer norms, GELU, residual adds",
)
#: parts that the published equations have no term for, in words
_UNPUBLISHED = (
    (
        "matching and merging tokens, and attention by their sizes",
        ("matching", "merging", "proportional"),
    ),
    ("means of inputs that share rows", ("sharing",)),
    ("mixing maps and scores of own class rows, on the vector unit", ("mixing", "own_rows")),
)
_FULL = (
    "loading weights onto the chip, off-chip memory",
    "clock tree, control, input and output pins",
    "biases of linear layers (added in the accumulators)",
)
_ENDURANCE = "endurance of the cells that K and V are written to"


def not_modelled(work: Workload, pricer: Pricer, images: int = 1) -> tuple[str, ...]:
    """Everything the accounting or the chip leaves out of this workload's price.

    `images` are in flight at once.
    """
    missing = unpriced(work, pricer)
    macs = work.macs
    if pricer.accounting == "full":
        unknown = sorted({op.function for op in missing if not is_known(op, pricer.chip)})
        named = tuple(
            f"element-wise function {name!r} ({_named(o for o in missing if o.function == name)})"
            for name in unknown
        )
        signs = _second_columns(pricer)
        wear = (_ENDURANCE,) if pricer.chip.dynamic_array.device.endurance_cycles is None else ()
        lines = (*named, *_left_out(work), *_overflow(work, pricer, images), *signs)
        return (*work.architecture.uncounted, *lines, *_FULL, *wear)
    known = {part for _, parts in _UNPUBLISHED for part in parts}
    products = [op for op in missing if op.kind != "elementwise" and op.part not in known]
    grouped = (
        ("operations outside the encoders", [op for op in products if op.part != "transform"]),
        ("transforms", [op for op in products if op.part == "transform"]),
        *((what, [op for op in missing if op.part in parts]) for what, parts in _UNPUBLISHED),
    )
    lines = tuple(
        f"{what}: {_named(ops)}{_share(sum(op.macs for op in ops), macs)}"
        for what, ops in grouped
        if ops
    )
    signs = _second_columns(pricer)
    return (*work.architecture.uncounted, *lines, *_left_out(work), *signs, *_PAPER)


def _left_out(work: Workload) -> tuple[str, ...]:
    """Lines on what the plan adds that is not in its operations."""
    architecture, rows = work.architecture, work.plan.rows
    lines = []
    if work.plan.merges and not architecture.layout.class_rows:
        lines.append("copying merged tokens back to all their places for the head")
    if any(r.rows != "class" for r in rows):
        lines.append("copying shared rows to all their tokens")
    own_class = [r.encoder for r in rows if work.plan.at(r.encoder).own_class]
    if own_class and any(line.startswith("attn.k_norm") for line in architecture.uncounted):
        lines.append(
            f"keys of encoders {', '.join(map(str, own_class))}: their own class rows are priced "
            "without, but a norm of keys needs them"
        )
    return tuple(lines)


def _second_columns(pricer: Pricer) -> tuple[str, ...]:
    """A line if simulated accuracy puts signed weights on pairs of columns."""
    arrays = {a.name: a for a in (pricer.chip.static_array, pricer.chip.dynamic_array)}
    full = pricer.accounting == "full"
    pairs = [
        name
        for name, array in arrays.items()
        if not array.holds_bits_of_a_memory
        and not (full and array.corrections.signs != "one column")
    ]
    if not pairs:
        return ()
    return (
        f"second columns for signs on {', '.join(pairs)}: a slice takes one column here, two in "
        "non-ideal accuracy (encoding differential)",
    )


def _overflow(work: Workload, pricer: Pricer, images: int) -> tuple[str, ...]:
    """A line if the global buffer does not hold what is live in it."""
    live, room = fullest(work, pricer), pricer.chip.periphery.buffer_bits
    if live.bits * images <= room:
        return ()
    kept = f", with what encoders {_listed(live.kept_for)} reuse" if live.kept_for else ""
    flight = f" for each of {images} images in flight" if images > 1 else ""
    return (
        f"spilling out of the global buffer: {live.bits / 8e6:.3g} MB are live at "
        f"{live.operation}{kept}{flight}, the buffer holds {room / 8e6:.3g} MB",
    )


def _listed(encoders: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(set(encoders))))


def used_assumptions(work: Workload, pricer: Pricer) -> tuple[str, ...]:
    """The chip's assumptions that enter the numbers of this workload under this accounting."""
    chip, measured = pricer.chip, pricer.densities or {}
    unused = []
    if pricer.accounting != "full":
        unused += [
            f"{chip.periphery.name}.", ".leakage_w", ".area_per_unit_m2", ".accumulate_energy_j",
            ".network.", ".corrections.",
        ]  # fmt: skip
    elif pricer.links is not None:
        unused += [f"{chip.periphery.name}.bus.{part}" for part in ("energy", "bits")]
    unused += [
        f"arrays.{array.name}.accumulate_energy_j"
        for array in (chip.static_array, chip.dynamic_array)
        if array.corrections.partial_sum_j_per_bit is not None
    ]
    if chip.static_array.name != chip.dynamic_array.name:
        unused.append(f"arrays.{chip.static_array.name}.write_")
    if not chip.depends_on_density or all(op.name in measured for op in work if op.macs):
        unused.append(".input_bit_density")
    densities = {chip.static_array.density, chip.dynamic_array.density}
    if not chip.depends_on_density or not (measured or densities - {REFERENCE_DENSITY}):
        unused.append(".idle_fraction.")  # the figures are those of the reference density
    fields = [(line, line.partition(" = ")[0].partition(": ")[0]) for line in chip.assumptions]
    return tuple(
        line
        for line, field in fields
        if not any(part in f".{field}" for part in unused)
        # Of the cell, only the number of its bits costs anything.
        and (".device." not in field or field.endswith(".bits_per_cell"))
        and ".errors." not in field
    )


def _share(macs: int, of: int) -> str:
    return f", {macs / of:.1%} of the MACs" if macs else ""


def _named(operations: Iterable[Operation]) -> str:
    names = [op.name for op in operations]
    if len(names) <= 4:
        return ", ".join(names)
    return f"{', '.join(names[:3])} and {len(names) - 3} more"
