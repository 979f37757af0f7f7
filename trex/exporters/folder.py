"""Export folders: begun, finished, or somebody else's.

`export.json` is written first, saying that the export is not finished, and again at the very end.
So a killed export is known as such, and the same command does it over.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from trex.errors import ExportError
from trex.exporters.variant import Exporter
from trex.files import is_temporary, make_folder, parse_json, write_atomic

RECORD: Final = "export.json"


def check_folder(folder: Path, exporter: Exporter) -> None:
    """See that an export can go into a folder: new, empty, or left by an unfinished export.

    Raises:
        ExportError: it holds anything else.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise _refusal(folder, "")
    names = sorted(path.name for path in folder.iterdir())
    kept = [name for name in names if not is_temporary(name)]
    if RECORD in kept:
        record = _record(folder)
        if record.get("finished"):
            raise _refusal(folder, ", it holds a finished export")
        if record.get("format") != exporter.name:
            raise _refusal(folder, f", it holds an unfinished export to {record.get('format')}")
        return
    others = [name for name in kept if not exporter.owns(name)]
    if others:
        raise _refusal(folder, f", it holds {others[0]}")
    if exporter.main in kept:
        raise _refusal(folder, f", it holds a {exporter.main}")


def begin(folder: Path, exporter: Exporter) -> None:
    """Make the folder, and say in it that an export is on its way.

    Raises:
        StorageError: it cannot be written.
    """
    make_folder(folder)
    write_record(folder, {"finished": False, "format": exporter.name})


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """What `export.json` says.

    Raises:
        StorageError: it cannot be written.
    """
    write_atomic(folder / RECORD, json.dumps(record, indent=2) + "\n")


def _record(folder: Path) -> dict[str, Any]:
    try:
        record = parse_json((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(
            f"{folder / RECORD} cannot be read: {error}", hint="choose another --out folder"
        ) from None
    return record if isinstance(record, dict) else {}


def _refusal(folder: Path, why: str) -> ExportError:
    return ExportError(f"{folder} is not an empty folder{why}", hint="choose another --out folder")
