"""Data that a caller holds: tensors, loaders, data sets; as the image sets that all else reads."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from trex.errors import DataError
from trex.text.config import TextConfig
from trex.training.data import ImageSet
from trex.training.sources import Source
from trex.training.transforms import InputConfig, eval_transform

_logger = logging.getLogger(__name__)

#: Whether labels must be there, are used where they are there, or are left out.
Labels = Literal["needed", "used", "ignored"]

_IMAGE_NAMES: Final = ("image", "images", "pixel_values", "x", "input")
_LABEL_NAMES: Final = ("label", "labels", "y", "target")
_FORMS: Final = (
    "give tensors (B, channels, height, width) as the model takes them, (images, labels) pairs of "
    "these, or a data set of PIL images"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSource:
    """Model inputs in memory, in an order that only their values decide.

    A loader that shuffles gives the same source every time, so that a run can be gone on with.
    """

    inputs: Tensor
    hashes: tuple[str, ...]
    labels: tuple[int, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Labels are the head's classes already."""
        return ()

    def __len__(self) -> int:
        return len(self.inputs)

    def name(self, number: int) -> str:
        """Its place, and a hash of its values."""
        return f"{number:07d}-{self.hashes[number]}"

    def stored_bytes(self, number: int) -> int:
        """In memory."""
        return self.inputs[number].nbytes

    def class_numbers(self) -> list[int]:
        """The labels; -1 where there is none."""
        return list(self.labels)

    def read(self, number: int) -> Tensor:
        """The model's input."""
        return self.inputs[number]

    def contents(self, number: int) -> bytes:
        """Its values."""
        return _bytes(self.inputs[number])


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureSource:
    """PIL images of a data set that is read by number, or of a list."""

    pictures: Any
    labels: tuple[int, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Labels are the head's classes already."""
        return ()

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, number: int) -> str:
        """Its place."""
        return f"{number:07d}"

    def stored_bytes(self, number: int) -> int:
        """Nobody knows."""
        return 0

    def class_numbers(self) -> list[int]:
        """The labels; -1 where there is none."""
        return list(self.labels)

    def read(self, number: int) -> Image.Image:
        """The picture in RGB."""
        picture: Image.Image = _parts(self.pictures[number])[0]
        return picture.convert("RGB")

    def contents(self, number: int) -> bytes:
        """Its size and pixels."""
        picture = self.read(number)
        return f"{picture.size}".encode() + picture.tobytes()


class AsItIs:
    """The transform of what is a model's input already."""

    def __call__(self, value: Tensor) -> Tensor:
        """The same."""
        return value


def holds_tensors(images: ImageSet) -> bool:
    """Whether a set holds model inputs, of which no views can be made, not pictures."""
    return isinstance(images.source, TensorSource)


def images_of(
    data: Iterable[Any] | Dataset[Any],
    config: InputConfig,
    num_classes: int | None,
    labels: Labels,
    *,
    strict: bool = False,
) -> ImageSet:
    """What a caller holds as an image set; a loader is read once, into memory.

    Args:
        data: a tensor of inputs, a pair of inputs and labels, a loader or other iterable of
            batches or of single examples, or a data set. Examples are tensors, which go to the
            model as they are, or PIL images, which are prepared as the model wants them; alone,
            or in front of their label.
        config: how the model wants what it reads.
        num_classes: of its head.
        labels: what to do with them.
        strict: make an unreadable picture an error.

    Raises:
        DataError: it is empty, of another form or shape, or labels are missing or not classes.
    """
    source = _lazy(data)
    if source is None:
        source = _read(data, config)
    if not len(source):
        raise DataError("the data hold no images", hint="give some; an iterator is used up once")
    known = _labels(source, num_classes, labels)
    tensors = isinstance(source, TensorSource)
    return ImageSet(
        origin=f"{len(source)} {'tensors' if tensors else 'pictures'} in memory",
        source=source,
        positions=tuple(range(len(source))),
        labels=known,
        transform=AsItIs() if tensors else eval_transform(config),
        strict=strict,
    )


def _lazy(data: object) -> Source | None:
    """A data set of pictures is read when its pictures are needed; other data now."""
    if not isinstance(data, Dataset) or isinstance(data, IterableDataset):
        return None
    sized: Any = data
    if not (hasattr(sized, "__len__") and len(sized)):
        return None
    first, _ = _parts(sized[0])
    if not isinstance(first, Image.Image):
        return None
    targets = getattr(sized, "targets", None)
    if targets is None:
        targets = [_parts(sized[number])[1] for number in range(len(sized))]
    return PictureSource(pictures=sized, labels=tuple(map(_label, targets)))


def _read(data: Any, config: InputConfig) -> Source:
    """All examples, in memory.

    Raises:
        DataError: some are of another form or shape.
    """
    shape = (2, config.tokens) if isinstance(config, TextConfig) else config.input_size
    parts: list[Tensor] = []
    pictures: list[Image.Image] = []
    labels: list[int] = []
    for number, (value, of) in enumerate(_items(data)):
        if isinstance(value, Image.Image):
            pictures.append(value)
            labels.append(_label(of))
            continue
        batch = _batch(value, shape, number)
        parts.append(_checked(batch, isinstance(config, TextConfig), number))
        labels += _batch_labels(of, len(batch), number)
    if pictures and parts:
        raise DataError("the data hold tensors and pictures", hint=_FORMS)
    if not parts:
        return PictureSource(pictures=pictures, labels=tuple(labels))
    inputs = torch.cat(parts)
    hashes = [hashlib.sha256(_bytes(of)).hexdigest()[:16] for of in inputs]
    order = sorted(range(len(inputs)), key=lambda i: (hashes[i], labels[i]))
    return TensorSource(
        inputs=inputs[order],
        hashes=tuple(hashes[i] for i in order),
        labels=tuple(labels[i] for i in order),
    )


def _items(data: Any) -> Iterator[tuple[Any, Any]]:
    """Batches or examples, each with its labels or None.

    Raises:
        DataError: it cannot be iterated over.
    """
    if isinstance(data, Tensor | np.ndarray):
        yield data, None
        return
    pair = isinstance(data, tuple) and len(data) == 2 and isinstance(data[0], Tensor | np.ndarray)
    if pair and np.ndim(data[1]) == 1 and len(data[0]) == len(data[1]):
        yield data
        return
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        sized: Any = data
        yield from (_parts(sized[number]) for number in range(len(sized)))
        return
    if not isinstance(data, Iterable):
        raise DataError(f"a {type(data).__name__} holds no images", hint=_FORMS)
    yield from map(_parts, data)


def _parts(item: Any) -> tuple[Any, Any]:
    """An item's inputs and labels, the latter None where it has none."""
    if isinstance(item, Mapping):
        inputs = [item[name] for name in _IMAGE_NAMES if name in item]
        labels = [item[name] for name in _LABEL_NAMES if name in item]
        if not inputs:
            raise DataError(
                f"an example holds {', '.join(map(str, item))}, and none of these is an image",
                hint=f"call it {' or '.join(_IMAGE_NAMES)}",
            )
        return inputs[0], labels[0] if labels else None
    if isinstance(item, Sequence) and not isinstance(item, str):
        if not item:
            raise DataError("an example is empty", hint=_FORMS)
        return item[0], item[1] if len(item) > 1 else None
    return item, None


def _batch(value: Any, shape: tuple[int, ...], number: int) -> Tensor:
    """An item as a batch.

    Raises:
        DataError: it is no tensor, or its shape is not the model's.
    """
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if not isinstance(value, Tensor):
        raise DataError(
            f"item {number} of the data is a {type(value).__name__}, no tensor", hint=_FORMS
        )
    batch = value.detach().cpu()
    if tuple(batch.shape) == shape:
        return batch[None]
    if tuple(batch.shape[1:]) != shape:
        wanted = ", ".join(map(str, shape))
        raise DataError(
            f"item {number} of the data has the shape {tuple(batch.shape)}, "
            f"the model takes batches of ({wanted})",
            hint="give tensors as the model takes them: resized, cropped and normalised",
        )
    return batch


def _checked(batch: Tensor, texts: bool, number: int) -> Tensor:
    """Token numbers, or finite fractions as float32.

    Raises:
        DataError: they are something else.
    """
    if texts:
        return batch.long()
    if not batch.is_floating_point():
        raise DataError(
            f"item {number} of the data holds whole numbers ({batch.dtype})",
            hint="give tensors as the model takes them: normalised, not bytes",
        )
    if not bool(batch.isfinite().all()):
        raise DataError(
            f"item {number} of the data holds what is not a finite number",
            hint="look at the transform that makes the tensors",
        )
    return batch.float()


def _batch_labels(labels: Any, size: int, number: int) -> list[int]:
    """The labels of a batch, -1 for none.

    Raises:
        DataError: they are not one a image.
    """
    if labels is None:
        return [-1] * size
    found = [labels] if np.ndim(labels) == 0 else list(labels)
    if len(found) != size or any(np.ndim(of) for of in found):
        raise DataError(
            f"item {number} of the data has {size} images, and labels of shape {np.shape(labels)}",
            hint="give one whole number an image, its class",
        )
    return list(map(_label, found))


def _label(value: Any) -> int:
    """A class's number, -1 for none.

    Raises:
        DataError: it is no whole number.
    """
    if value is None:
        return -1
    number = value.item() if isinstance(value, Tensor | np.generic | np.ndarray) else value
    if isinstance(number, bool) or not isinstance(number, int):
        raise DataError(f"the label {value!r} is no whole number", hint="give the class's number")
    return number


def _labels(source: Source, num_classes: int | None, labels: Labels) -> tuple[int, ...] | None:
    """The labels that are used; None where none are.

    Raises:
        DataError: they are needed and some are missing, or are not the head's.
    """
    if labels == "ignored":
        return None
    known = tuple(source.class_numbers())
    most = num_classes or max(known) + 1
    wrong = [label for label in known if not 0 <= label < most]
    if not wrong:
        return known
    missing = wrong.count(-1)
    what = (
        f"{missing} of {len(known)} images have no label"
        if missing
        else f"label {wrong[0]} is none of the head's {most} classes"
    )
    if labels == "needed":
        raise DataError(what, hint="give every image the number of its class: (images, labels)")
    if missing < len(known):
        _logger.info("labels are not used: %s", what)
    return None


def _bytes(value: Tensor) -> bytes:
    return value.contiguous().numpy().tobytes()
