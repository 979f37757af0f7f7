"""One export from beginning to end: check, write, verify, record."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from trex.errors import ExportError
from trex.exporters.folder import begin, check_folder, write_record
from trex.exporters.variant import Exporter, Variant
from trex.versions import versions

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """What files are verified with.

    Attributes:
        images: inputs of the models, two at least.
        origin: what they are, in words; noise where nobody gave any.
        real: whether they are somebody's images.
    """

    images: Tensor
    origin: str
    real: bool


def export(
    variants: Sequence[Variant],
    folder: Path,
    exporter: Exporter,
    probe: Probe | None,
    more: Callable[[], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Write variants of one model, and see that the files answer like them.

    A folder that an interrupted export left behind is finished.

    Args:
        variants: one at least; several go into folders of their own, named by their plans' keys,
            but for formats that hold several.
        folder: new, empty, or left by an unfinished export of the same format.
        exporter: the format.
        probe: what to verify with; None leaves it out.
        more: writes other files into the folder; what it returns goes into the record.

    Raises:
        ExportError: the folder holds something else, the format cannot hold a variant, or a file
            answers unlike its variant.
        StorageError: it cannot be written.

    Returns:
        What `export.json` holds.
    """
    keys = [variant.plan.key for variant in variants]
    if len(set(keys)) < len(keys):
        raise ExportError("two of the plans are the same", hint="name every plan once")
    check_folder(folder, exporter)
    exporter.check(variants)
    if len(variants) == 1 or exporter.several:
        parts = [(folder, list(variants))]
    else:
        parts = [(folder / key, [v]) for key, v in zip(keys, variants, strict=True)]
        for part, _ in parts:
            _check_part(part, exporter)
    begin(folder, exporter)
    checks = []
    for part, some in parts:
        part.mkdir(exist_ok=True)
        exporter.write(part, some)
        if probe is not None:
            checks += exporter.verify(part, some, probe.images)
    record = {
        "finished": True,
        "format": exporter.name,
        "model": variants[0].name,
        "plans": [str(variant.plan) for variant in variants],
        "folders": [part.name for part, _ in parts if part != folder],
        "verified": [check.as_json() for check in checks] if probe is not None else None,
        "verified_on": None if probe is None else probe.origin,
        "versions": versions(),
        **(more() if more else {}),
    }
    write_record(folder, record)
    return record


def _check_part(folder: Path, exporter: Exporter) -> None:
    if folder.is_dir() and any(not exporter.owns(path.name) for path in folder.iterdir()):
        check_folder(folder, exporter)
