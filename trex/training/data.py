"""Images and labels by number: opening, choosing, splitting and batching a data set.

An image that cannot be read keeps its number, so that nothing else moves; batches leave it out.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from trex.errors import DataError
from trex.text.sources import Texts
from trex.training.labels import head_classes
from trex.training.sources import Source, open_source
from trex.training.transforms import FittingViews, Transform, reads_texts

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """An image ready for a model; label -1 where there is none; its number in the data set."""

    image: Tensor
    label: int
    index: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CorruptImage:
    """Stands for an image that cannot be read."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSet(Dataset[Example | CorruptImage]):
    """Images of a source, each once.

    Attributes:
        origin: what the user called it.
        source: where the images are.
        positions: their numbers in the source.
        labels: their classes in the model's head; None where they have none.
        transform: from a picture in RGB to the model's input.
        strict: whether an unreadable image is an error rather than left out.
    """

    origin: str
    source: Source
    positions: tuple[int, ...]
    labels: tuple[int, ...] | None
    transform: Transform
    strict: bool

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> Example | CorruptImage:
        image = self.picture(index)
        if isinstance(image, CorruptImage):
            return image
        return Example(image=self.transform(image), label=self.label(index), index=index)

    def name(self, index: int) -> str:
        """The name of an image within the source."""
        return self.source.name(self.positions[index])

    def label(self, index: int) -> int:
        """The class of an image, -1 where it has none."""
        return -1 if self.labels is None else self.labels[index]

    def picture(self, index: int) -> Image.Image | CorruptImage:
        """An image before the transform."""
        try:
            picture: Image.Image | CorruptImage = self.source.read(self.positions[index])
        except Exception as error:  # decoders raise nearly anything
            return CorruptImage(name=self.name(index), reason=str(error) or type(error).__name__)
        return picture

    def subset(self, n: int, seed: int) -> ImageSet:
        """`n` images at random; with the same seed a smaller subset is part of a larger one.

        Raises:
            DataError: there are not so many.
        """
        if not 0 < n <= len(self):
            raise DataError(
                f"{self.origin}: cannot take {n} of {len(self)} images",
                hint=f"ask for 1 to {len(self)}",
            )
        return self._choose(sorted(_shuffled(len(self), seed)[:n]))

    def split(self, fractions: Sequence[float], seed: int) -> tuple[ImageSet, ...]:
        """Random parts without a common image, of these fractions of all images.

        Raises:
            DataError: a part would be empty, or they come to more than all images.
        """
        ends = [round(sum(fractions[: i + 1]) * len(self)) for i in range(len(fractions))]
        bounds = list(zip([0, *ends], ends, strict=False))
        if ends[-1] > len(self) or any(end <= start for start, end in bounds):
            raise DataError(
                f"{self.origin}: {len(self)} images cannot be split into parts of "
                f"{', '.join(map(str, fractions))}",
                hint="give positive fractions of at most 1 together, or more images",
            )
        order = _shuffled(len(self), seed)
        return tuple(self._choose(sorted(order[start:end])) for start, end in bounds)

    def shuffled(self, seed: int) -> ImageSet:
        """The same images in random order, so that any first part of them is a fair sample."""
        return self._choose(_shuffled(len(self), seed))

    def with_views(self, views: FittingViews) -> ViewSet:
        """All views of the same images."""
        return ViewSet(images=self, views=views)

    def _choose(self, kept: Sequence[int]) -> ImageSet:
        return replace(
            self,
            positions=tuple(self.positions[i] for i in kept),
            labels=None if self.labels is None else tuple(self.labels[i] for i in kept),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ViewSet(Dataset[Example | CorruptImage]):
    """View v of image i as number i · views.count + v; a mixed view has no label."""

    images: ImageSet
    views: FittingViews

    @property
    def origin(self) -> str:
        """What the user called the images."""
        return self.images.origin

    @property
    def strict(self) -> bool:
        """Whether an unreadable image is an error rather than left out."""
        return self.images.strict

    def __len__(self) -> int:
        return len(self.images) * self.views.count

    def __getitem__(self, index: int) -> Example | CorruptImage:
        number, view = divmod(index, self.views.count)
        image = self.images.picture(number)
        if isinstance(image, CorruptImage):
            return image
        name = self.images.name(number)
        tensor = self.views(image, name, view)
        label = self.images.label(number)
        if self.views.mixes(view):
            partner = self.images.picture(self.views.partner(name, view, len(self.images)))
            if isinstance(partner, Image.Image):  # an unreadable one leaves the view unmixed
                tensor = self.views.mix(tensor, self.views(partner, name, view), name, view)
                label = -1
        return Example(image=tensor, label=label, index=index)


def open_dataset(
    source: str,
    *,
    transform: Transform,
    class_map: Path | None = None,
    num_classes: int | None = None,
    labels: bool = True,
    strict: bool = False,
) -> ImageSet:
    """Open a folder of class folders, a .tar of them, or a hub's data set.

    Classes are numbered as timm numbers them: by a class map (a name a line, in the order of the
    head's classes), else in natural order of their folders' names.

    Args:
        source: path, or `hfds/NAME` or `torch/NAME`, see `open_source`.
        transform: from a picture in RGB to the model's input.
        class_map: file of class names; images of other classes are left out, with a warning.
        num_classes: of the model's head; None leaves labels unchecked.
        labels: False ignores folders, so that any folder of images will do.
        strict: make an unreadable image an error.

    Raises:
        DataError: there are no images, or a label is not one of the head's classes.
    """
    images = open_source(source)
    if isinstance(images, Texts) != reads_texts(transform):
        holds, reads = ("texts", "images") if isinstance(images, Texts) else ("images", "texts")
        raise DataError(
            f"{source} holds {holds}, the model reads {reads}",
            hint="texts are cola:FILE.tsv or text:FILE, everything else is images",
        )
    kept: Sequence[int] = range(len(images))
    numbers = None
    if labels:
        classes = head_classes(source, images.classes, class_map, num_classes)
        of_images = [classes.get(number) for number in images.class_numbers()]
        kept = [i for i, number in enumerate(of_images) if number is not None]
        numbers = tuple(number for number in of_images if number is not None)
        if len(kept) < len(images):
            _logger.warning(
                "%s: left out %d of %d images, of classes that are not in %s",
                source, len(images) - len(kept), len(images), class_map,
            )  # fmt: skip
    return ImageSet(
        origin=source,
        source=images,
        positions=tuple(kept),
        labels=numbers,
        transform=transform,
        strict=strict,
    )


def dataset_fingerprint(images: ImageSet, *, labels: bool = True) -> str:
    """16 hexadecimal digits that change with the name, size or, if asked, label of any image."""
    lines = sorted(
        f"{images.name(i)} {images.source.stored_bytes(position)}"
        + (f" {images.label(i)}\n" if labels else "\n")
        for i, position in enumerate(images.positions)
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def contents_fingerprint(images: ImageSet) -> str:
    """16 hexadecimal digits that change with the name or any stored byte of any image.

    Every image is read: a gigabyte takes a second or two. One that cannot be read counts by its
    name.
    """
    digest = hashlib.sha256()
    for name, position in sorted(
        (images.name(i), position) for i, position in enumerate(images.positions)
    ):
        try:
            contents = images.source.contents(position)
        except Exception:  # what `picture` reports when the image is needed
            contents = b""
        digest.update(f"{name} {len(contents)}\n".encode())
        digest.update(hashlib.sha256(contents).digest())
    return digest.hexdigest()[:16]


def _shuffled(n: int, seed: int) -> list[int]:
    order: list[int] = np.random.default_rng(seed).permutation(n).tolist()
    return order


class Batch(NamedTuple):
    """Images (B, channels, height, width), labels (B,), -1 for none, and indices (B,)."""

    images: Tensor
    labels: Tensor
    indices: Tensor


class Batches:
    """A data set's readable images, in order; each iteration is one pass over them.

    Attributes:
        skipped: names of the unreadable images of the latest pass, so far.
    """

    def __init__(self, dataset: ImageSet | ViewSet, batch_size: int, workers: int) -> None:
        self._dataset = dataset
        self._loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_size=batch_size,
            num_workers=workers,
            collate_fn=list,
            # a loader draws from its generator: the global one belongs to training
            generator=torch.Generator(),
        )
        self.skipped: list[str] = []

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        self.skipped = []
        for items in self._loader:
            for item in items:
                if isinstance(item, CorruptImage):
                    self._skip(item)
            examples = [item for item in items if isinstance(item, Example)]
            if examples:
                yield Batch(
                    torch.stack([example.image for example in examples]),
                    torch.tensor([example.label for example in examples]),
                    torch.tensor([example.index for example in examples]),
                )
        if self.skipped:
            self._conclude()

    def _skip(self, image: CorruptImage) -> None:
        if self._dataset.strict:
            raise DataError(
                f"{self._dataset.origin}: {image.name} cannot be read: {image.reason}",
                hint="replace or remove the image, or leave --strict out",
            )
        _logger.warning("skipped %s: %s", image.name, image.reason)
        self.skipped.append(image.name)

    def _conclude(self) -> None:
        if len(self.skipped) == len(self._dataset):
            raise DataError(
                f"{self._dataset.origin}: none of its {len(self._dataset)} images can be read",
                hint="check that the files are whole",
            )
        _logger.warning(
            "%s: skipped %d of %d images",
            self._dataset.origin,
            len(self.skipped),
            len(self._dataset),
        )


def batches(dataset: ImageSet | ViewSet, batch_size: int, workers: int = 0) -> Batches:
    """Batches in order; the same images come out whatever the number of worker processes."""
    return Batches(dataset, batch_size, workers)
