"""Which class of a model's head a data set's class is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from trex.errors import DataError
from trex.text.sources import names_texts

_HINT: Final = "give --class-map with the names of the head's classes in order, or --num-classes"


def head_classes(
    origin: str, classes: Sequence[str], class_map: Path | None, num_classes: int | None
) -> dict[int, int]:
    """The head's class of every class of a data set, where it has one.

    Args:
        origin: what the user called the data set.
        classes: names in the order of their numbers; "" is what lies in no class folder.
        class_map: file of names in the order of the head's classes; None numbers them in order.
        num_classes: of the head; None leaves it unchecked.

    Raises:
        DataError: no class is the head's, one is not, or nothing says which is which.
    """
    found = (
        _in_order(origin, classes) if class_map is None else _mapped(origin, classes, class_map)
    )
    if num_classes is None:
        return found
    for number, label in found.items():
        if not 0 <= label < num_classes:
            raise DataError(
                f"{origin}: class {classes[number]} is number {label}, "
                f"but the model's head has {num_classes} classes, from 0 on",
                hint=_HINT,
            )
    # In order, the 430 folders of a part of ImageNet would all but the first have wrong labels.
    if class_map is None and len(found) < num_classes:
        raise DataError(
            f"{origin}: {len(found)} classes, but the model's head has {num_classes}, "
            "and nothing says which",
            hint=_HINT,
        )
    return found


def _in_order(origin: str, classes: Sequence[str]) -> dict[int, int]:
    if names_texts(origin) and "" in classes:
        raise DataError(
            f"{origin}: texts, one a line, have no labels",
            hint="texts with labels are cola:FILE.tsv",
        )
    if not classes or "" in classes:
        raise DataError(
            f"{origin}: has images outside class folders, which therefore have no label",
            hint="put the images of every class in a folder of their own",
        )
    return {number: number for number in range(len(classes))}


def _mapped(origin: str, classes: Sequence[str], class_map: Path) -> dict[int, int]:
    if not class_map.is_file():
        raise DataError(f"{class_map}: no such file", hint="check the path of --class-map")
    try:
        if class_map.suffix.lower() != ".txt":
            raise ValueError("a name a line is all that is read")
        lines = class_map.read_text(encoding="utf-8").splitlines()
        labels = {name.strip(): label for label, name in enumerate(lines)}
    except (OSError, ValueError) as error:
        raise DataError(
            f"{class_map}: is not a class map", hint="give a .txt file with a class name a line"
        ) from error
    found = {i: labels[name] for i, name in enumerate(classes) if name and name in labels}
    if not found:
        example = next((f", such as {name}," for name in classes if name), "")
        raise DataError(
            f"{origin}: none of its {len(classes)} classes{example} is in {class_map}",
            hint="give the --class-map that names these folders",
        )
    return found
