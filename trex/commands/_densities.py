"""Input-bit densities in the commands: when they are measured, and how it is told."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

    from torch import Tensor

    from trex.hardware import Chip, Cost, MeasuredDevice
    from trex.models.registry import LoadedModel
    from trex.training.data import Batches, ImageSet

_logger = logging.getLogger(__name__)

#: Images that densities are measured on. Four times as many change no product's mean density by
#: more than 0.02, and the energy by 0.1 % (DeiT-T).
N_IMAGES = 64

_BATCH_SIZE = 16


@dataclass(frozen=True, kw_only=True)
class MeasuredDensities:
    """Shares of ones in the bit-planes of operations' inputs, and what they were measured on.

    `planes`: by `Operation.name`, least significant bit first.
    """

    planes: Mapping[str, tuple[float, ...]]
    images: int
    origin: str

    def as_json(self) -> dict[str, object]:
        """Plain values that `from_json` reads."""
        return {"images": self.images, "origin": self.origin, "planes": dict(self.planes)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> MeasuredDensities:
        """What `as_json` wrote, exactly."""
        planes = {name: tuple(map(float, shares)) for name, shares in stored["planes"].items()}
        return cls(planes=planes, images=stored["images"], origin=stored["origin"])


def measure(loaded: LoadedModel, chip: Chip, images: ImageSet, n_images: int) -> MeasuredDensities:
    """Measure on at most `n_images` of the images; the same ones at every call.

    Raises:
        DataError: none can be read, or the model's activations are not finite.
    """
    from trex.noise.densities import measure_densities
    from trex.training.data import batches

    chosen = images.subset(min(n_images, len(images)), seed=0)
    parts = batches(chosen, _BATCH_SIZE)
    _logger.info("input densities: measuring on %d images of %s", len(chosen), images.origin)
    planes = measure_densities(
        loaded.model,
        loaded.adapter,
        _Pixels(parts),
        input_bits=chip.static_array.input_bits,
        dynamic_input_bits=chip.dynamic_array.input_bits,
    )
    return MeasuredDensities(
        planes={name: tuple(shares.tolist()) for name, shares in planes.items()},
        images=len(chosen) - len(parts.skipped),
        origin=images.origin,
    )


class _Pixels:
    """The images of batches, as often as they are asked for."""

    def __init__(self, parts: Batches) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[Tensor]:
        return (batch.images for batch in self._parts)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of a command that measures on images of its own."""
    group = parser.add_argument_group(
        "measured input densities (chips whose energy depends on the bits they are fed)"
    )
    group.add_argument("--calib", metavar="DATASET", help="images to measure with, unlabelled")
    group.add_argument(
        "--calib-images", type=int, default=N_IMAGES, metavar="N", help="how many of these images"
    )


def of_arguments(args: argparse.Namespace, chip: Chip) -> MeasuredDensities | None:
    """What the flags ask for; None where nothing is to be measured, aloud if flags are in vain.

    Raises:
        TrexError: the model, its weights or the images cannot be used.
    """
    from trex.errors import DataError

    if args.calib is None:
        if args.weights or args.mean or args.std:
            _logger.warning("without --calib, weights and preprocessing change no price")
        return None
    if args.calib_images < 1:
        raise DataError(f"--calib-images {args.calib_images} is too small", hint="give at least 1")
    if not chip.depends_on_density:
        _logger.warning(
            "--calib is not used: the constants of %s do not depend on input densities", chip.name
        )
        return None
    from trex.commands._arguments import check_sources, data_config
    from trex.models.registry import load
    from trex.training.data import open_dataset
    from trex.training.transforms import eval_transform

    check_sources(args.calib)
    loaded = load(
        args.model, weights=args.weights, num_classes=args.num_classes, img_size=args.img_size
    )
    images = open_dataset(
        args.calib, transform=eval_transform(data_config(args, loaded.model)), labels=False
    )
    return measure(loaded, chip, images, args.calib_images)


def settings(chip: Chip | MeasuredDevice) -> dict[str, object] | None:
    """What decides a search's densities, beside model and images; None where it needs none."""
    if not chip.depends_on_density:
        return None
    from trex.noise.densities import PRICED_ENCODING

    return {"images": N_IMAGES, "encoding": PRICED_ENCODING}


def of_search(
    loaded: LoadedModel,
    chip: Chip | MeasuredDevice,
    images: ImageSet,
    out: Path,
    asked: Mapping[str, Any],
) -> MeasuredDensities | None:
    """A search's densities: those in `out` if its run has these settings, else measured now.

    None where the chip does not depend on them. A run goes on with its own figures, since other
    processors may round an activation to the next code.

    Raises:
        DataError: no image can be read, or the model's activations are not finite.
    """
    from trex.hardware import MeasuredDevice
    from trex.settings import difference
    from trex.store.run import Run

    if isinstance(chip, MeasuredDevice) or not chip.depends_on_density:
        return None
    if (out / "manifest.json").exists():
        manifest = Run.open(out).manifest()
        same = difference(manifest.settings.as_json(), asked) is None
        if same and manifest.densities:
            return MeasuredDensities.from_json(manifest.densities.as_json())
    return measure(loaded, chip, images, N_IMAGES)


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
