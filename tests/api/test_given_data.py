"""Data in memory as image sets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from trex.errors import DataError
from trex.text.config import TextConfig
from trex.training.data import batches, contents_fingerprint, dataset_fingerprint
from trex.training.given import Labels, holds_tensors, images_of
from trex.training.transforms import DataConfig

CONFIG = DataConfig(
    input_size=(3, 8, 8), mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic",
    crop_pct=1.0, crop_mode="center",
)  # fmt: skip
IMAGES = torch.randn(10, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(10) % 4


class Pictures(Dataset[Any]):
    """Pictures of one colour each."""

    def __init__(self, targets: bool) -> None:
        if targets:
            self.targets = [number % 4 for number in range(6)]

    def __len__(self) -> int:
        return 6

    def __getitem__(self, number: int) -> tuple[Image.Image, int]:
        return Image.new("RGB", (12, 10), (40 * number, 0, 0)), number % 4


def opened(data: Any, labels: Labels = "used") -> Any:
    return images_of(data, CONFIG, 4, labels)


def inputs_of(images: Any) -> tuple[Tensor, list[int]]:
    parts = list(batches(images, 4))
    labels = [int(label) for part in parts for label in part.labels]
    return torch.cat([part.images for part in parts]), labels


def generated() -> Iterator[dict[str, Tensor]]:
    for start in (0, 5):
        yield {"pixel_values": IMAGES[start : start + 5], "labels": LABELS[start : start + 5]}


FORMS = {
    "pair": lambda: (IMAGES, LABELS),
    "arrays": lambda: (IMAGES.numpy(), LABELS.numpy()),
    "batches": lambda: [(IMAGES[:3], LABELS[:3]), (IMAGES[3:], LABELS[3:])],
    "generator": generated,
    "examples": lambda: list(zip(IMAGES, LABELS.tolist(), strict=True)),
    "data set": lambda: TensorDataset(IMAGES, LABELS),
    "loader": lambda: DataLoader(TensorDataset(IMAGES, LABELS), batch_size=3),
    "shuffled loader": lambda: DataLoader(
        TensorDataset(IMAGES, LABELS), batch_size=4, shuffle=True,
        generator=torch.Generator().manual_seed(5),
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_set(form: str) -> None:
    found, expected = opened(FORMS[form]()), opened(FORMS["pair"]())
    assert len(found) == 10
    assert holds_tensors(found)
    assert dataset_fingerprint(found) == dataset_fingerprint(expected)
    assert contents_fingerprint(found) == contents_fingerprint(expected)
    images, labels = inputs_of(found)
    given = {image.numpy().tobytes(): int(of) for image, of in zip(IMAGES, LABELS, strict=True)}
    assert [given[image.numpy().tobytes()] for image in images] == labels


def test_another_image_is_another_set() -> None:
    changed = IMAGES.clone()
    changed[3, 0, 0, 0] += 1
    first, second = opened(IMAGES), opened(changed)
    assert dataset_fingerprint(first) != dataset_fingerprint(second)
    assert contents_fingerprint(first) != contents_fingerprint(second)


def test_half_precision_is_read_as_float32() -> None:
    images, _ = inputs_of(opened(IMAGES.half()))
    assert images.dtype == torch.float32


@pytest.mark.parametrize("targets", [True, False])
def test_pictures_are_prepared_as_the_model_wants_them(targets: bool) -> None:
    found = opened(Pictures(targets), "needed")
    assert not holds_tensors(found)
    images, labels = inputs_of(found)
    assert images.shape == (6, 3, 8, 8)
    assert labels == [0, 1, 2, 3, 0, 1]
    assert images[:, 0, 4, 4].tolist() == pytest.approx(
        [(40 * number / 255 - 0.5) / 0.5 for number in range(6)]
    )


def test_pictures_without_labels() -> None:
    found = opened([Image.new("RGB", (9, 9)) for _ in range(3)])
    assert found.labels is None
    assert len(found) == 3


def test_labels_are_used_only_where_all_are_the_heads() -> None:
    assert opened(IMAGES).labels is None
    assert opened((IMAGES, LABELS + 1)).labels is None
    assert sorted(opened((IMAGES, LABELS)).labels) == sorted(LABELS.tolist())
    assert opened((IMAGES, LABELS), "ignored").labels is None


def test_texts_are_token_numbers_and_masks() -> None:
    config = TextConfig(tokens=5, tokenizer="none", tokenizer_sha256="none")
    texts = torch.ones(6, 2, 5, dtype=torch.int32)
    images, labels = inputs_of(images_of([texts[:4], texts[4:]], config, 2, "used"))
    assert (images.dtype, tuple(images.shape)) == (torch.int64, (6, 2, 5))
    assert labels == [-1] * 6


@pytest.mark.parametrize(
    ("data", "labels", "message"),
    [
        ([], "used", "hold no images"),
        (3, "used", "a int holds no images"),
        (["a.png"], "used", "item 0 of the data is a str"),
        (torch.zeros(2, 3, 9, 8), "used", r"shape \(2, 3, 9, 8\).*batches of \(3, 8, 8\)"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "used", "whole numbers"),
        (torch.full((1, 3, 8, 8), torch.nan), "used", "not a finite number"),
        (IMAGES, "needed", "10 of 10 images have no label"),
        ((IMAGES, LABELS + 1), "needed", "label 4 is none of the head's 4 classes"),
        ([(IMAGES, LABELS[:3])], "used", "has 10 images, and labels of shape"),
        ([(IMAGES[0], 0.5)], "used", "is no whole number"),
        ([{"picture": IMAGES}], "used", "holds picture, and none of these is an image"),
        ([(IMAGES[0], 1), (Image.new("RGB", (8, 8)), 1)], "used", "tensors and pictures"),
    ],
)
def test_what_is_of_another_form_is_refused(data: Any, labels: Labels, message: str) -> None:
    with pytest.raises(DataError, match=message):
        opened(data, labels)


def test_numbers_of_numpy_are_labels() -> None:
    found = opened([(IMAGES[0], np.int64(2)), (IMAGES[1], torch.tensor(1))], "needed")
    assert sorted(found.labels) == [1, 2]
