"""Random views of training images, each a function of seed, picture and view number alone.

So neither worker processes nor a resumed run change what is trained on, and the same view can be
shown to a teacher once and to its student later.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import timm.data
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import transforms

from trex.errors import DataError
from trex.training.data import CorruptImage, ImageSet
from trex.training.finetune.recipe import Augment
from trex.training.transforms import (
    DataConfig,
    InputConfig,
    Transform,
    eval_transform,
    to_channels,
)

_logger = logging.getLogger(__name__)


class Key(NamedTuple):
    """Which view of which image."""

    image: int
    view: int


class Views(NamedTuple):
    """Images (B, channels, height, width), labels (B,), -1 for none, and what they are."""

    images: Tensor
    labels: Tensor
    keys: tuple[Key, ...]


def augmentation(config: InputConfig, augment: Augment) -> Transform:
    """Timm's training transform; it draws from the global generators of Python, NumPy, torch.

    Texts are what they are.
    """
    if not isinstance(config, DataConfig):
        return eval_transform(config)
    prepare = timm.data.create_transform(
        input_size=config.input_size,
        is_training=True,
        scale=augment.scale,
        ratio=augment.ratio,
        hflip=augment.hflip,
        color_jitter=augment.color_jitter,
        auto_augment=augment.auto_augment,
        interpolation=config.interpolation,
        mean=config.mean,
        std=config.std,
        re_prob=augment.erasing,
    )
    return cast(Transform, transforms.Compose([*to_channels(config), prepare]))


@contextmanager
def drawn_from(*key: object) -> Iterator[None]:
    """Inside, every global generator starts from `key`; outside, nothing has happened to them."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    seed = int.from_bytes(digest[:4], "big")
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        # not torch.manual_seed: that would also reseed every accelerator, which is not forked
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


class Pool:
    """Several sets of images as one.

    Args:
        sets: one after another.
    """

    def __init__(self, *sets: ImageSet) -> None:
        self._sets = sets
        self._ends = list(itertools.accumulate(map(len, sets)))
        self.strict = any(images.strict for images in sets)
        self.origin = " and ".join(images.origin for images in sets)

    def __len__(self) -> int:
        return self._ends[-1]

    def picture(self, number: int) -> Image.Image | CorruptImage:
        """An image before any transform."""
        images, own = self._find(number)
        return images.picture(own)

    def name(self, number: int) -> str:
        """An image's name within its set."""
        images, own = self._find(number)
        return images.name(own)

    def label(self, number: int) -> int:
        """The class of an image, -1 where it has none."""
        images, own = self._find(number)
        return images.label(own)

    def _find(self, number: int) -> tuple[ImageSet, int]:
        place = bisect.bisect_right(self._ends, number)
        return self._sets[place], number - (self._ends[place - 1] if place else 0)


@dataclass(frozen=True, kw_only=True, eq=False)
class ViewSource(Dataset[tuple[Tensor, int, Key]]):
    """Views by key, for a loader. An unreadable image is replaced by the next readable one."""

    images: ImageSet | Pool
    augment: Transform
    seed: int

    def __getitem__(self, key: Key) -> tuple[Tensor, int, Key]:
        for ahead in range(len(self.images)):
            number = (key.image + ahead) % len(self.images)
            picture = self.images.picture(number)
            if not isinstance(picture, CorruptImage):
                return self._view(picture, number, key.view), self.images.label(number), key
            if self.images.strict:
                raise DataError(
                    f"{self.images.origin}: {picture.name} cannot be read: {picture.reason}",
                    hint="replace or remove the image, or leave --strict out",
                )
            _logger.warning("%s cannot be read: the next image stands in for it", picture.name)
        raise DataError(
            f"{self.images.origin}: none of its images can be read",
            hint="check that the files are whole",
        )

    def _view(self, picture: Image.Image, number: int, view: int) -> Tensor:
        with drawn_from(self.seed, view, self.images.name(number)):
            return self.augment(picture)


def collate(items: list[tuple[Tensor, int, Key]]) -> Views:
    """A batch of views."""
    images, labels, keys = zip(*items, strict=True)
    return Views(torch.stack(images), torch.tensor(labels), tuple(Key(*key) for key in keys))
