"""Where the shipped data lies: chips and search spaces, in the source tree or in the wheel."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from trex.config import did_you_mean
from trex.errors import TrexError

DataKind = Literal["hw_models", "search_spaces"]

_PACKAGE: Final = Path(__file__).resolve().parent


def data_folder(kind: DataKind) -> Path:
    """The folder of shipped `kind`: inside the package when installed, else the source tree's."""
    packaged = _PACKAGE / "_data" / kind
    return packaged if packaged.is_dir() else _PACKAGE.parent / kind


def shipped(kind: DataKind, file: str) -> dict[str, Path]:
    """Name -> path of everything shipped.

    `file` is what makes a folder an item (`chip.yaml`), or a suffix (`.yaml`) where single files
    are the items.
    """
    folder = data_folder(kind)
    if file.startswith("."):
        return {path.stem: path for path in sorted(folder.glob(f"*{file}"))}
    return {path.parent.name: path for path in sorted(folder.glob(f"*/{file}"))}


def find(kind: DataKind, name: str | Path, file: str, error: type[TrexError]) -> Path:
    """The file a user means by a shipped name, a folder, or a file's path.

    Raises:
        TrexError: of class `error`: there is no such name or file.
    """
    known = shipped(kind, file)
    if str(name) in known:
        return known[str(name)]
    path = Path(name)
    if path.is_dir() and not file.startswith("."):
        path = path / file
    if path.is_file():
        return path
    if path.suffix in (".yaml", ".yml", ".json") or "/" in str(name):
        raise error(f"{path}: no such file", hint=f"shipped: {', '.join(known) or 'none'}")
    raise error(
        f"{str(name)!r} is neither shipped nor a file",
        hint=did_you_mean(str(name), list(known)),
    )
