"""A model's operations in its run folder, so that a report prices plans without building it."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, Final

from trex.architecture import Architecture, Encoder, Operation
from trex.search.run import Run

FILE: Final = "architecture.json"


def store_architecture(run: Run, model: Architecture) -> None:
    """Write what the run's model computes into its folder.

    Raises:
        StorageError: it cannot be written.
    """
    body = [
        _encoder_json(item) if isinstance(item, Encoder) else _operation_json(item)
        for item in model.body
    ]
    content = {"model": model.model, "body": body, "uncounted": list(model.uncounted)}
    run.write_json(FILE, content)


def stored_architecture(run: Run) -> Architecture | None:
    """What the run's model computes; None in a run from before it was written down.

    Raises:
        RunError: the file is damaged or of another version.
    """
    if not (run.path / FILE).exists():
        return None
    content, layout = run.read_json(FILE), run.layout()
    body = tuple(
        _encoder(item) if "operations" in item else Operation(**item) for item in content["body"]
    )
    if not layout.tokens:  # of version 0.1
        layout = replace(layout, tokens=next(i.tokens for i in body if isinstance(i, Encoder)))
    return Architecture(
        model=content["model"],
        body=body,
        layout=layout,
        uncounted=tuple(content["uncounted"]),
    )


def _operation_json(op: Operation) -> dict[str, Any]:
    """Only what is not at its default."""
    values = {field.name: getattr(op, field.name) for field in fields(op)}
    return {
        field.name: values[field.name]
        for field in fields(op)
        if values[field.name] != field.default
    }


def _encoder_json(encoder: Encoder) -> dict[str, Any]:
    plain = {field.name: getattr(encoder, field.name) for field in fields(encoder)}
    return {**plain, "operations": list(map(_operation_json, encoder.operations))}


def _encoder(item: dict[str, Any]) -> Encoder:
    operations = tuple(Operation(**op) for op in item["operations"])
    return Encoder(**{**item, "operations": operations})
