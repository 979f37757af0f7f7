"""A chip of one's own, from another's file."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Final

from trex.config import read_document
from trex.datafiles import shipped
from trex.errors import ChipError
from trex.files import make_folder, write_atomic
from trex.hardware.load import CHIP_FILE, chip_path, load_chip
from trex.hardware.schema import SCHEMA_FILE, schema_line, schema_text

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_SCHEMA_LINE: Final = re.compile(r"^# yaml-language-server:.*\n", re.MULTILINE)


def new_chip(folder: Path, like: str | Path) -> tuple[Path, ...]:
    """Write a folder with a copy of a chip's file, under the folder's name.

    Tables and component files that lie beside the old chip come along, and the schema by which
    editors complete and check the file. Its `published.yaml` and `accuracy.yaml` hold figures of
    the old chip and stay behind.

    Args:
        folder: is made; its name becomes the chip's.
        like: a shipped chip's name, or a chip's folder or file.

    Returns:
        The files written, the chip's own first.

    Raises:
        ChipError: there is something at `folder`, its name is a shipped chip's or cannot be one,
            or the other chip is not valid.
        StorageError: it cannot be written.
    """
    name = folder.name
    if not _NAME.fullmatch(name):
        raise ChipError(
            f"{name!r} cannot be a chip's name", hint="letters, digits, `_`, `-` and points"
        )
    if name in shipped("hw_models", CHIP_FILE):
        raise ChipError(f"{name} is shipped", hint="choose another name")
    if folder.exists():
        raise ChipError(f"{folder}: there is something already", hint="choose another name")
    load_chip(like)
    source = chip_path(like)
    text = _renamed(source.read_text(encoding="utf-8"), name)
    beside = _files_beside(source)
    make_folder(folder)
    write_atomic(folder / CHIP_FILE, text)
    write_atomic(folder / SCHEMA_FILE, schema_text())
    for path in beside:
        shutil.copyfile(path, folder / path.name)
    return (folder / CHIP_FILE, folder / SCHEMA_FILE, *(folder / path.name for path in beside))


def _renamed(text: str, name: str) -> str:
    changed, times = re.subn(r"^name:.*$", f"name: {name}", text, count=1, flags=re.MULTILINE)
    if not times:
        raise ChipError("the chip's file has no line `name: ...`", hint="give one in YAML")
    return f"{schema_line(SCHEMA_FILE)}\n{_SCHEMA_LINE.sub('', changed)}"


def _files_beside(source: Path) -> tuple[Path, ...]:
    """Tables and component files of a chip's own, which its file names relative to itself."""
    data = read_document(source, ChipError).data
    tables = [array.get("table") for array in data["arrays"].values()]
    named = {name for name in (*tables, data["periphery"]) if name is not None}
    return tuple(
        source.parent / name
        for name in sorted(named)
        if Path(name).name == name and (source.parent / name).is_file()
    )
