"""From a chip's name or file to a `Chip`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from trex.config import Document, FieldProblem, did_you_mean, read_document
from trex.datafiles import data_folder, find
from trex.errors import ChipError
from trex.hardware.chip import Chip
from trex.hardware.measured import DEVICE_FILE
from trex.hardware.periphery import PeripherySpec
from trex.hardware.spec import ChipSpec, ComponentChipSpec, TrexChipSpec

CHIP_FILE: Final = "chip.yaml"
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
    path = find("hw_models", name, CHIP_FILE, ChipError)
    document = read_document(path, ChipError)
    changes = tuple(_override(document, *change) for change in (overrides or {}).items())
    spec = document.validate(_kind(document))
    try:
        chip = spec.chip(_periphery(document, spec), document.path.parent)
    except FieldProblem as problem:
        raise document.problem(problem.location, str(problem), problem.hint) from None
    return replace(chip, notes=(*chip.notes, *filter(None, changes)))


def _kind(document: Document) -> type[ChipSpec]:
    if "kind" not in document.data:
        raise document.problem((), "kind is missing", f"one of {', '.join(KINDS)}")
    kind = document.data["kind"]
    if not isinstance(kind, str) or kind not in KINDS:
        raise document.problem(
            ("kind",), f"unknown kind {kind!r}", did_you_mean(str(kind), list(KINDS))
        )
    return KINDS[kind]


def _periphery(document: Document, spec: ChipSpec) -> PeripherySpec:
    """The component file a chip names: shipped, or a path relative to the chip's."""
    folder = data_folder("hw_models") / "components"
    shipped = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    path = shipped.get(spec.periphery, document.path.parent / spec.periphery)
    if not path.is_file():
        raise document.problem(
            ("periphery",),
            f"no component file {spec.periphery!r}",
            did_you_mean(spec.periphery, list(shipped)),
        )
    return read_document(path, ChipError).validate(PeripherySpec)


def _override(document: Document, field: str, value: Any) -> str:
    """Put a caller's value in place of the file's; a note where it can carry no assumption."""
    # A value with a source is one field: `copies` and `copies.value` are the same.
    *path, last = field.removesuffix(".value").split(".")
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
