"""Input-bit densities in `trex cost`: the flags, and how it is told what was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import argparse

    from trex.api.densities import MeasuredDensities
    from trex.hardware import Chip, Cost

# The same number as in trex.api.densities, which is too heavy to import for `--help`.
N_IMAGES: Final = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of a command that measures on images of its own."""
    group = parser.add_argument_group(
        "measured input densities (chips whose energy depends on the bits they are fed)"
    )
    group.add_argument("--calib", metavar="DATASET", help="images to measure with, unlabelled")
    group.add_argument(
        "--calib-images", type=int, default=N_IMAGES, metavar="N", help="how many of these images"
    )


def as_json(measured: MeasuredDensities | None, cost: Cost, chip: Chip) -> dict[str, object]:
    """What the products were priced with, as plain values; `mean` over the bit-planes."""
    return {
        "source": _source(measured, chip),
        "images": measured.images if measured else 0,
        "dataset": measured.origin if measured else None,
        "encoding": "two's complement" if measured else None,
        "mean": _means(measured, cost, chip),
        "not_measured": _not_measured(measured, cost),
    }


def as_text(measured: MeasuredDensities | None, cost: Cost, chip: Chip) -> list[str]:
    """The same for people."""
    if not chip.depends_on_density:
        return ["input densities: not used, the chip's constants do not depend on them"]
    assumed = f"{chip.static_array.density:g}"
    if measured is None:
        return [f"input densities: assumed {assumed}; --calib measures them"]
    means = [m for n, m in _means(measured, cost, chip).items() if n in measured.planes]
    lines = [
        f"input densities: measured on {measured.images} images of {measured.origin}",
        f"(two's complement; {min(means):.3f} to {max(means):.3f} in {len(means)} products, "
        f"the chip assumes {assumed})",
    ]
    if missing := _not_measured(measured, cost):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        lines.append(f"not measured, so assumed {assumed}: {missing[0]}{more}")
    return lines


def _source(measured: MeasuredDensities | None, chip: Chip) -> str:
    if not chip.depends_on_density:
        return "not used"
    return "measured" if measured else "assumed"


def _means(measured: MeasuredDensities | None, cost: Cost, chip: Chip) -> dict[str, float]:
    if not chip.depends_on_density:
        return {}
    means = {}
    for op in cost.operations:
        if op.macs:
            array = chip.dynamic_array if op.kind == "dynamic_matmul" else chip.static_array
            planes = measured.planes.get(op.name) if measured else None
            means[op.name] = sum(planes) / len(planes) if planes else array.density
    return means


def _not_measured(measured: MeasuredDensities | None, cost: Cost) -> list[str]:
    if measured is None:
        return []
    return [op.name for op in cost.operations if op.macs and op.name not in measured.planes]
