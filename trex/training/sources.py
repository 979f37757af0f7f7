"""Where images come from: a folder, a tar or a data-set hub, behind one small interface."""

from __future__ import annotations

import io
import os
import stat
import sys
from collections.abc import Iterable
from contextlib import closing, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import timm.data
import torch
from PIL import Image
from timm.utils.misc import natural_key

from trex.errors import DataError
from trex.text.sources import names_texts, open_texts

#: Hub prefixes of timm whose images can be read by number, and those that only stream.
_HUBS: Final = ("hfds", "torch")
_STREAMS: Final = ("hfids", "tfds", "wds")
#: of an image as it is stored; a thousand times what photographs take
_MOST_BYTES: Final = 512_000_000
_OPENS: Final = "give a folder of class folders, a .tar of them, hfds/NAME or torch/NAME"


class Source(Protocol):
    """Images by number, in an order that only their names decide."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes' names, in the order of their numbers; "" is what lies in no folder."""

    def __len__(self) -> int: ...

    def name(self, number: int) -> str:
        """An image's name within the source."""

    def stored_bytes(self, number: int) -> int:
        """The size an image is stored in; 0 where the source does not tell."""

    def class_numbers(self) -> list[int]:
        """Every image's class."""

    def read(self, number: int) -> Any:
        """An image in RGB, or a text; an unreadable one raises what its decoder raises."""

    def contents(self, number: int) -> bytes:
        """What an image is stored as, or its pixels where only the source knows."""


def open_source(name: str) -> Source:
    """Open a folder, a .tar, or a hub's data set, `hfds/NAME` or `torch/NAME`; or texts.

    Texts are `cola:FILE`, with CoLA's labels, or `text:FILE`, one a line.

    A hub's name may end in `:SPLIT`; without one it is the validation split. In a folder that has
    one, `validation` or `val` is taken.

    Raises:
        DataError: there is nothing of this name, or no image in it.
    """
    check_name(name)
    if names_texts(name):
        return open_texts(name)
    path = Path(name)
    return _open_stored(path) if path.exists() else _open_hub(name, _hub(name))


def check_name(name: str) -> None:
    """See whether there can be a source of this name, without opening it.

    Raises:
        DataError: there cannot.
    """
    if names_texts(name) or Path(name).exists():
        return
    hub = _hub(name)
    if hub in _STREAMS:
        raise DataError(
            f"{name}: {hub}/ only streams its images, and TReX reads them by number",
            hint="use hfds/, or unpack it into a folder of class folders",
        )
    if hub not in _HUBS:
        raise DataError(f"{name}: no such file or folder", hint=_OPENS)


def _hub(name: str) -> str:
    return name.partition("/")[0].lower() if "/" in name else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class _StoredImage:
    name: str
    path: Path
    #: where the image's bytes lie in the file; None for a file of its own
    span: tuple[int, int] | None
    class_number: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _StoredImages:
    """Images in a folder or a tar.

    A tar is read by position, with a handle opened for each image: one that worker processes
    inherited would have one position for all of them.
    """

    images: tuple[_StoredImage, ...]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    def name(self, number: int) -> str:
        return self.images[number].name

    def stored_bytes(self, number: int) -> int:
        image = self.images[number]
        return image.path.stat().st_size if image.span is None else image.span[1]

    def class_numbers(self) -> list[int]:
        return [image.class_number for image in self.images]

    def read(self, number: int) -> Image.Image:
        return _decode(self._bytes(number))

    def contents(self, number: int) -> bytes:
        return self._bytes(number)

    def _bytes(self, number: int) -> bytes:
        image = self.images[number]
        # Opening a pipe waits for who writes into it, and devices never end.
        descriptor = os.open(image.path, os.O_RDONLY | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError("it is no file but a pipe or a device")
            start, length = image.span or (0, os.fstat(descriptor).st_size)
            if length > _MOST_BYTES:
                raise OSError(f"{length:,} bytes are too many for an image")
            file.seek(start)
            return file.read(length)


def _open_stored(path: Path) -> Source:
    if path.is_file() and path.suffix.lower() != ".tar":
        raise DataError(f"{path}: is neither a folder nor a .tar", hint=_OPENS)
    try:
        reader = timm.data.create_dataset("", root=str(path)).reader
    except Exception as error:  # timm reports an empty tar, for one, by what happens to break
        raise DataError(
            f"{path}: no readable images in it",
            hint="images end in .png, .jpg or .jpeg; a .tar is not compressed",
        ) from error
    if path.is_dir():
        numbering = reader.class_to_idx
        images: Iterable[_StoredImage] = (
            _StoredImage(
                name=Path(file).relative_to(reader.root).as_posix(),
                path=Path(file),
                span=None,
                class_number=number,
            )
            for file, number in reader.samples
        )
    else:
        numbering = reader.class_name_to_idx
        images = (
            _StoredImage(
                name="/".join(part.name for part in (outer, inner) if part is not None),
                path=path,
                span=(inner.offset_data + (outer.offset_data if outer else 0), inner.size),
                class_number=int(number),
            )
            for (inner, _, outer), number in zip(reader.samples, reader.targets, strict=True)
        )
    return _StoredImages(
        # timm's order, made unique: it leaves "1.png" and "01.png" as the file system has them
        images=tuple(sorted(images, key=lambda image: (natural_key(image.name), image.name))),
        classes=tuple(sorted(numbering, key=numbering.__getitem__)),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _HubImages:
    """Images of timm's hub readers, or of torchvision."""

    origin: str
    dataset: Any
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, number: int) -> str:
        return f"{self.origin}/{number}"

    def stored_bytes(self, number: int) -> int:
        return 0

    def class_numbers(self) -> list[int]:
        targets = getattr(self.dataset, "targets", None)
        if targets is None:
            targets = [self.dataset[number][1] for number in range(len(self))]
        return [int(target) for target in targets]

    def read(self, number: int) -> Image.Image:
        image: Any = self.dataset[number][0]
        if isinstance(image, Image.Image):
            return image.convert("RGB")
        with closing(image):  # an open file
            return _decode(image.read())

    def contents(self, number: int) -> bytes:
        picture = self.read(number)
        return f"{picture.size}".encode() + picture.tobytes()


def _open_hub(name: str, hub: str) -> Source:
    base, _, split = name.partition(":")
    options: dict[str, Any] = {"split": split or "validation"}
    if hub == "torch":
        options |= {"root": str(Path(torch.hub.get_dir()) / "datasets"), "download": True}
    try:
        with redirect_stdout(sys.stderr):  # downloads talk; stdout is for results
            dataset = timm.data.create_dataset(base, **options)
    except ImportError as error:
        raise DataError(
            f"{name}: needs the package {error.name}", hint=f"pip install {error.name}"
        ) from error
    except Exception as error:  # every hub has its own errors
        reason = (str(error).splitlines() or [""])[0]
        raise DataError(
            f"{name}: cannot be opened: {type(error).__name__}: {reason}",
            hint="check the name, the split (hfds/NAME:SPLIT) and the network",
        ) from error
    # timm's data sets put a neighbour in an unreadable image's place; their readers do not
    reader = getattr(dataset, "reader", dataset)
    numbering = getattr(reader, "class_to_idx", None) or {}
    if not len(reader):
        raise DataError(f"{name}: has no images", hint="check the split (hfds/NAME:SPLIT)")
    classes = tuple(str(name) for name in sorted(numbering, key=numbering.__getitem__))
    return _HubImages(origin=name, dataset=reader, classes=classes)


def _decode(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as file:
        image: Image.Image = file.convert("RGB")
    return image
