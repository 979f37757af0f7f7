"""From a chip's name or file to a `Chip`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from trex.config import (
    Document,
    FieldProblem,
    FieldProblems,
    Problem,
    all_of,
    did_you_mean,
    read_document,
)
from trex.datafiles import data_folder, find
from trex.errors import ChipError
from trex.hardware.accuracy import stored_accuracy
from trex.hardware.chip import Chip
from trex.hardware.measured import DEVICE_FILE
from trex.hardware.periphery import PeripherySpec
from trex.hardware.spec import ChipSpec, ComponentChipSpec, TrexChipSpec

CHIP_FILE: Final = "chip.yaml"
#: fields of an array that follow the row of its table, and by which of its keys
_OF_A_ROW: Final = {
    "write_energy_j_per_bit": ("technode_nm", "cell", "size"),
    "write_latency_s_per_row": ("technode_nm", "cell", "size"),
    "accumulate_energy_j": ("technode_nm", "size", "levels"),
}
KINDS: Final[dict[str, type[ChipSpec]]] = {"trex": TrexChipSpec, "component": ComponentChipSpec}


def load_chip(name: str | Path, overrides: Mapping[str, Any] | None = None) -> Chip:
    """A shipped chip by name, or one from a folder or file.

    Args:
        name: a shipped chip's name, a folder with a `chip.yaml`, or a file.
        overrides: field -> value, for example `{"softmax.units": 12}`; each becomes an
            assumption or a note of the chip.

    Raises:
        ChipError: no such chip, or a value of it is missing, unknown or cannot be right; or it is
            a machine that `trex profile` measured.
    """
    if (Path(name) / DEVICE_FILE).is_file():
        raise ChipError(
            f"{name} is a measured machine, whose latency alone is known; here a chip is needed",
            hint="give a chip with --hw; trex cost and check take measured machines, and "
            "trex bench times variants and models",
        )
    document = read_document(chip_path(name), ChipError, unclear=True)
    changes = tuple(_override(document, *change) for change in (overrides or {}).items())
    spec, periphery = _specs(document)
    try:
        chip = spec.chip(periphery, document.path.parent)
    except FieldProblem as problem:
        raise document.problem(problem.location, str(problem), problem.hint) from None
    except FieldProblems as several:
        raise document.error_of(
            document.at(p.location, str(p), p.hint) for p in several.problems
        ) from None
    return replace(
        chip,
        notes=(*chip.notes, *filter(None, changes)),
        accuracy=stored_accuracy(document.path.parent, chip.errors_key),
        warnings=tuple(_left_behind(chip, [_plain(field) for field in overrides or ()])),
    )


def _left_behind(chip: Chip, changed: Sequence[str]) -> Iterator[str]:
    """What belongs to a row of a table that a caller left, and is the file's still."""
    for array in {a.name: a for a in (chip.static_array, chip.dynamic_array)}.values():
        where = f"arrays.{array.name}."
        keys = {f.removeprefix(f"{where}row.") for f in changed if f.startswith(f"{where}row.")}
        summed = array.corrections.partial_sum_j_per_bit is not None
        left = [
            name
            for name, follows in _OF_A_ROW.items()
            if (keys.intersection(follows) or f"{where}table" in changed)
            and f"{where}{name}" not in changed
            and not (summed and name == "accumulate_energy_j")
        ]
        if left:
            yield (
                f"arrays.{array.name} takes another row of its table, and {', '.join(left)} "
                f"{'is' if len(left) == 1 else 'are'} still the old row's: set what follows, too"
            )


def _plain(field: str) -> str:
    """A value with a source is one field: `copies` and `copies.value` are the same."""
    return field.removesuffix(".value")


def chip_path(name: str | Path) -> Path:
    """The file of a shipped chip by name, or of one's own by its folder or path.

    Raises:
        ChipError: there is no such chip.
    """
    return find("hw_models", name, CHIP_FILE, ChipError)


def _specs(document: Document) -> tuple[ChipSpec, PeripherySpec]:
    """The file as a kind of chip, and the component file it names.

    Raises:
        ChipError: everything that is wrong with either.
    """
    kind = document.data.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        known = f"one of {', '.join(KINDS)}"
        wrong = document.at(
            ("kind",) if "kind" in document.data else (),
            f"unknown kind {kind!r}" if "kind" in document.data else "kind is missing",
            did_you_mean(str(kind), list(KINDS)) if "kind" in document.data else known,
        )
        raise document.error_of([*document.unclear, wrong])
    spec, problems = document.check(KINDS[kind])
    problems += _unknown_arrays(document)
    errors: list[ChipError] = []
    periphery = None
    path = _periphery_path(document)
    if isinstance(path, Problem):
        problems.append(path)
    elif path is not None:
        try:
            periphery = read_document(path, ChipError).validate(PeripherySpec)
        except ChipError as error:
            errors.append(error)
    if problems or errors or spec is None or periphery is None:
        raise all_of([*errors, *([document.error_of(problems)] if problems else [])])
    return spec, periphery


def _unknown_arrays(document: Document) -> Iterator[Problem]:
    """Names in `static_array` and `dynamic_array` that no array has."""
    arrays = document.data.get("arrays")
    if not isinstance(arrays, dict) or not arrays:
        return
    for field in ("static_array", "dynamic_array"):
        name = document.data.get(field)
        if isinstance(name, str) and name not in arrays:
            yield document.at((field,), f"no array {name!r}", did_you_mean(name, list(arrays)))


def _periphery_path(document: Document) -> Path | Problem | None:
    """The component file a chip names: shipped, or a path relative to the chip's.

    None where the file names none, which its model tells.
    """
    name = document.data.get("periphery")
    if not isinstance(name, str) or not name:
        return None
    folder = data_folder("hw_models") / "components"
    shipped = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    path = shipped.get(name, document.path.parent / name)
    if not path.is_file():
        return document.at(
            ("periphery",), f"no component file {name!r}", did_you_mean(name, list(shipped))
        )
    return path


def _override(document: Document, field: str, value: Any) -> str:
    """Put a caller's value in place of the file's; a note where it can carry no assumption."""
    *path, last = _plain(field).split(".")
    part = document.data
    for key in path:
        if not isinstance(part, dict) or key not in part:
            known = list(part) if isinstance(part, dict) else []
            raise ChipError(
                f"{document.path}: {field!r} is not a field of this chip",
                hint=did_you_mean(key, known) if known else "name one value of the file",
            )
        part = part[key]
    old = part.get(last) if isinstance(part, dict) else None
    if isinstance(old, dict) and "value" in old:
        was = old["value"]
        part[last] = {"value": value, "assumption": f"set by the caller; the file says {was}"}
        return ""
    if isinstance(part, dict) and "value" not in part and not isinstance(old, dict):
        part[last] = value
        return f"{field} = {value}: set by the caller; the file says {old}"
    raise ChipError(f"{document.path}: {field!r} is not one value", hint="name one value")


def with_options(chip: Chip, **changes: Any) -> Chip:
    """The chip with other `Options`."""
    return replace(chip, options=replace(chip.options, **changes))
