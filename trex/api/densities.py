"""Input-bit densities: when prices and searches measure them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from trex.api.data import Data, DataOptions, check_sources, open_unlabelled
from trex.api.models import Model, ModelOptions, data_config, load_model
from trex.errors import DataError
from trex.hardware import Chip, MeasuredDevice
from trex.models.registry import LoadedModel
from trex.noise import densities
from trex.settings import difference
from trex.store.run import Run
from trex.training.data import Batches, ImageSet, batches

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
    chosen = images.subset(min(n_images, len(images)), seed=0)
    parts = batches(chosen, _BATCH_SIZE)
    _logger.info("input densities: measuring on %d images of %s", len(chosen), images.origin)
    planes = densities.measure_densities(
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


def of_given(
    model: Model,
    options: ModelOptions,
    chip: Chip,
    data: Data | None,
    n_images: int,
) -> MeasuredDensities | None:
    """What a price asks for; None where nothing is to be measured, aloud if data are in vain.

    Args:
        model: as the caller gave it.
        options: of it.
        chip: that prices.
        data: images to measure on.
        n_images: how many of them.

    Raises:
        TrexError: the model, its weights or the images cannot be used.
    """
    if data is None:
        if options.weights or options.mean or options.std:
            _logger.warning("without --calib, weights and preprocessing change no price")
        return None
    if n_images < 1:
        raise DataError(f"--calib-images {n_images} is too small", hint="give at least 1")
    if not chip.depends_on_density:
        _logger.warning(
            "--calib is not used: the constants of %s do not depend on input densities", chip.name
        )
        return None
    check_sources(data)
    loaded = load_model(model, options)
    images = open_unlabelled(data, data_config(loaded, options), DataOptions())
    return measure(loaded, chip, images, n_images)


def settings(chip: Chip | MeasuredDevice) -> dict[str, object] | None:
    """What decides a search's densities, beside model and images; None where it needs none."""
    if not chip.depends_on_density:
        return None
    return {"images": N_IMAGES, "encoding": densities.PRICED_ENCODING}


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
    if isinstance(chip, MeasuredDevice) or not chip.depends_on_density:
        return None
    if (out / "manifest.json").exists():
        manifest = Run.open(out).manifest()
        same = difference(manifest.settings.as_json(), asked) is None
        if same and manifest.densities:
            return MeasuredDensities.from_json(manifest.densities.as_json())
    return measure(loaded, chip, images, N_IMAGES)
