"""Data sets of texts: `cola:FILE` and `text:FILE`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trex.errors import DataError

#: CoLA's classes (Warstadt, Singh and Bowman, arXiv 1805.12471) in the order of their numbers
COLA_CLASSES: Final = ("unacceptable", "acceptable")
_KINDS: Final = ("cola:", "text:")


@dataclass(frozen=True, kw_only=True, slots=True)
class Texts:
    """Texts by number, as the data pipeline has images."""

    texts: tuple[str, ...]
    labels: tuple[int, ...]
    #: "" alone where there are no labels
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def name(self, number: int) -> str:
        """The number, and digits that change with the text."""
        return f"{number}-{hashlib.sha256(self.texts[number].encode()).hexdigest()[:12]}"

    def stored_bytes(self, number: int) -> int:
        """The text's length in UTF-8."""
        return len(self.texts[number].encode())

    def class_numbers(self) -> list[int]:
        """Every text's class."""
        return list(self.labels)

    def read(self, number: int) -> str:
        """A text."""
        return self.texts[number]

    def contents(self, number: int) -> bytes:
        """A text in UTF-8."""
        return self.texts[number].encode()


def names_texts(name: str) -> bool:
    """Whether a data set's name is one of texts."""
    return name.startswith(_KINDS)


def open_texts(name: str) -> Texts:
    """The texts of `cola:FILE`, with labels, or of `text:FILE`, one a line, without.

    CoLA's files have four columns between tabs: source, label, the author's mark, sentence.

    Raises:
        DataError: the file is not there or not of this form, or holds no text.
    """
    kind, _, file = name.partition(":")
    lines = _lines(name, Path(file))
    if kind == "text":
        found = Texts(texts=tuple(lines.values()), labels=(0,) * len(lines), classes=("",))
    else:
        rows = [_row(name, number, line) for number, line in lines.items()]
        found = Texts(
            texts=tuple(text for text, _ in rows),
            labels=tuple(label for _, label in rows),
            classes=COLA_CLASSES,
        )
    if not found.texts:
        raise DataError(f"{name}: holds no text", hint="give a file with a text a line")
    return found


def _lines(name: str, file: Path) -> dict[int, str]:
    """A file's lines that are not empty, by their numbers from 1 on."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise DataError(
            f"{name}: cannot be read: {reason}", hint="give cola:FILE.tsv or text:FILE"
        ) from None
    # not splitlines: it also ends lines at characters that may stand in a sentence
    lines = enumerate(text.split("\n"), start=1)
    return {number: line.rstrip("\r") for number, line in lines if line.strip()}


def _row(name: str, number: int, line: str) -> tuple[str, int]:
    columns = line.split("\t")
    if len(columns) != 4 or columns[1] not in ("0", "1") or not columns[3].strip():
        raise DataError(
            f"{name}: line {number} is not CoLA's: {line[:40]!r}",
            hint="a line holds a source, 0 or 1, the author's mark and a sentence, between tabs",
        )
    return columns[3].strip(), int(columns[1])
