"""A model's operations in its run folder, so that a report prices plans without building it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any, Final

from trex.architecture import Architecture, Encoder, Operation
from trex.errors import RunError
from trex.plan import Layout
from trex.store.run import Run
from trex.stored import read_layout

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
    content = {
        "model": model.model,
        "layout": asdict(model.layout),
        "body": body,
        "uncounted": list(model.uncounted),
    }
    run.write_json(FILE, content)


def stored_architecture(run: Run) -> Architecture | None:
    """What the run's model computes; None in a run from before it was written down.

    Raises:
        RunError: the file is damaged or of another version.
    """
    if not (run.path / FILE).exists():
        return None
    content = run.read_json(FILE)
    try:
        body = tuple(
            _encoder(item) if "operations" in item else Operation(**item)
            for item in content["body"]
        )
        return Architecture(
            model=content["model"],
            body=body,
            layout=read_layout(content["layout"]) if "layout" in content else _layout(body),
            uncounted=tuple(content["uncounted"]),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{run.path / FILE} is damaged: {type(error).__name__} {error}",
            hint="remove the file: the model is then built anew for its operations",
        ) from error


def _layout(body: Sequence[Operation | Encoder]) -> Layout:
    """Who may reuse whom in a run of version 0.1, whose plans do nothing else."""
    encoders = [item for item in body if isinstance(item, Encoder)]
    tokens = encoders[0].tokens if encoders else 0
    return Layout(stages=tuple(encoder.stage for encoder in encoders), tokens=tokens)


def _operation_json(op: Operation) -> dict[str, object]:
    """Only what is not at its default."""
    values = {field.name: getattr(op, field.name) for field in fields(op)}
    return {
        field.name: values[field.name]
        for field in fields(op)
        if values[field.name] != field.default
    }


def _encoder_json(encoder: Encoder) -> dict[str, object]:
    plain = {field.name: getattr(encoder, field.name) for field in fields(encoder)}
    return {**plain, "operations": list(map(_operation_json, encoder.operations))}


def _encoder(item: dict[str, Any]) -> Encoder:
    operations = tuple(Operation(**op) for op in item["operations"])
    return Encoder(**{**item, "operations": operations})
