"""The data a caller gives: a data set's name or folder, or what is in memory already."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from trex.errors import DataError
from trex.training.data import ImageSet, open_dataset
from trex.training.given import Labels, images_of
from trex.training.sources import check_name
from trex.training.transforms import InputConfig, eval_transform

_logger = logging.getLogger(__name__)

#: what a caller may give as data: a folder, a .tar, `hfds/NAME`; tensors, a loader, a data set
Data = str | Path | Iterable[Any] | Dataset[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class DataOptions:
    """How data sets are read.

    Attributes:
        class_map: a file of class folders in the head's order.
        strict: whether an unreadable image is an error.
    """

    class_map: Path | None = None
    strict: bool = False

    @classmethod
    def of(cls, class_map: str | Path | None, strict: bool) -> DataOptions:
        """From what a caller gives."""
        return cls(class_map=None if class_map is None else Path(class_map), strict=strict)


def check_sources(*given: Data | None) -> None:
    """See that there can be data sets of these names, before weights are fetched for them.

    Raises:
        DataError: there cannot.
    """
    for data in given:
        if isinstance(data, str | Path):
            check_name(str(data))


def located(data: Data) -> str | None:
    """A data set's name that means the same from any folder; None of what is in memory."""
    if not isinstance(data, str | Path):
        return None
    return str(Path(data).absolute()) if Path(data).exists() else str(data)


def open_labelled(
    data: Data, config: InputConfig, num_classes: int | None, options: DataOptions
) -> ImageSet:
    """A data set whose labels are needed.

    Raises:
        DataError: it is missing, empty, or its labels are not the head's classes.
    """
    if not isinstance(data, str | Path):
        return _in_memory(data, config, num_classes, options, "needed")
    return open_dataset(
        str(data),
        transform=eval_transform(config),
        class_map=options.class_map,
        num_classes=num_classes,
        strict=options.strict,
    )


def open_unlabelled(data: Data, config: InputConfig, options: DataOptions) -> ImageSet:
    """A data set whose labels nobody reads.

    Raises:
        DataError: it is missing or empty.
    """
    if not isinstance(data, str | Path):
        return _in_memory(data, config, None, DataOptions(strict=options.strict), "ignored")
    return open_dataset(
        str(data), transform=eval_transform(config), labels=False, strict=options.strict
    )


def open_calibration(
    data: Data, config: InputConfig, num_classes: int | None, options: DataOptions
) -> ImageSet:
    """A data set whose labels are used where they are the head's, and otherwise left out, aloud.

    Raises:
        DataError: it is missing or empty, or `class_map` was given and does not fit.
    """
    if not isinstance(data, str | Path):
        return _in_memory(data, config, num_classes, options, "used")
    try:
        return open_labelled(data, config, num_classes, options)
    except DataError as error:
        if options.class_map is not None:
            raise
        unlabelled = open_unlabelled(data, config, options)
        _logger.info("labels are not used: %s", error.message)
        return unlabelled


def _in_memory(
    data: Any, config: InputConfig, num_classes: int | None, options: DataOptions, labels: Labels
) -> ImageSet:
    if isinstance(data, ImageSet):
        return data
    if options.class_map is not None and labels == "needed":
        raise DataError(
            "a class map is for class folders; labels in memory are the head's classes",
            hint="leave class_map out, or give a folder",
        )
    return images_of(data, config, num_classes, labels, strict=options.strict)
