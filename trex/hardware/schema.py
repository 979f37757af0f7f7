"""The JSON Schema of chip files, from the models that read them, for editors to check against."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import Field, TypeAdapter

from trex.hardware.spec import ComponentChipSpec, TrexChipSpec

SCHEMA_FILE: Final = "chip.schema.json"

_SOURCED: Final = "Sourced_"
_DEFS: Final = "#/$defs/"


def schema_line(path: str) -> str:
    """The comment by which editors with a YAML language server find a file's schema."""
    return f"# yaml-language-server: $schema={path}"


def chip_schema() -> dict[str, Any]:
    """What may stand in a chip file.

    It knows fields, types and limits. What several fields must be together (a table's row, slices
    that hold a weight's bits), and whether a table or component file exists, only `trex check`
    knows.
    """
    either = Annotated[TrexChipSpec | ComponentChipSpec, Field(discriminator="kind")]
    schema: dict[str, Any] = TypeAdapter(either).json_schema()
    names = {
        f"{_DEFS}{name}": f"{_DEFS}{_short_name(name, definition)}"
        for name, definition in schema["$defs"].items()
    }
    plain: dict[str, Any] = _plain(schema, names)
    definitions = {
        names[f"{_DEFS}{name}"].removeprefix(_DEFS): definition
        for name, definition in plain.pop("$defs").items()
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A chip of TReX, chip.yaml",
        "$defs": dict(sorted(definitions.items())),
        **plain,
    }


def schema_text() -> str:
    """The schema as its file holds it."""
    return json.dumps(chip_schema(), indent=1, ensure_ascii=False) + "\n"


def _short_name(name: str, definition: Mapping[str, Any]) -> str:
    """Of a value with a source its type and limits; pydantic's name tells how it was written."""
    if not name.startswith(_SOURCED):
        return name
    value = definition["properties"]["value"]
    limits = (
        f"_{word}_{value[key]:g}"
        for key, word in (
            ("minimum", "from"),
            ("exclusiveMinimum", "above"),
            ("maximum", "to"),
            ("exclusiveMaximum", "below"),
        )
        if key in value
    )
    kind = value.get("type") or value.get("$ref", "").removeprefix(_DEFS) or "value"
    return f"{_SOURCED}{kind}{''.join(limits)}"


def _plain(node: Any, names: Mapping[str, str]) -> Any:
    """Without pydantic's titles, which repeat the fields' names, and with short references."""
    if isinstance(node, list):
        return [_plain(item, names) for item in node]
    if not isinstance(node, dict):
        return names.get(node, node) if isinstance(node, str) else node
    return {
        key: _plain(value, names)
        for key, value in node.items()
        if not (key == "title" and isinstance(value, str))
        and not (key == "enum" and "const" in node)
    }
