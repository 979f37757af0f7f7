"""English sentences that are at hand anywhere: the documentation inside Python's packages."""

from __future__ import annotations

import ast
import importlib.util
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

#: words of a sentence, at least and at most
_WORDS: Final = (4, 24)
_WORD = re.compile(r"[A-Za-z][a-z]*(?:['-][a-z]+)*[,;:]?")
_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_DOCUMENTED: Final = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def documentation_sentences(packages: Sequence[str]) -> list[str]:
    """Every different sentence of the packages' docstrings, in the order of their files.

    Sentences that hold code, numbers or names with capitals inside are left out. Packages that are
    not installed are, too: which sentences there are depends on the versions installed.
    """
    found: dict[str, None] = {}
    for package in packages:
        for file in _files(package):
            for docstring in _docstrings(file):
                found.update(dict.fromkeys(sentences_of(docstring)))
    return list(found)


def sentences_of(text: str) -> Iterator[str]:
    """The plain sentences of a text: words alone, a capital first and a full stop last."""
    for paragraph in re.split(r"\n\s*\n", text):
        for sentence in _END.split(" ".join(paragraph.split())):
            words = sentence[:-1].split()
            if (
                _WORDS[0] <= len(words) <= _WORDS[1]
                and sentence[-1] in ".!?"
                and sentence[0].isupper()
                and all(map(_WORD.fullmatch, words))
            ):
                yield sentence


def _files(package: str) -> list[Path]:
    spec = importlib.util.find_spec(package)
    if spec is None:
        return []
    folders = spec.submodule_search_locations
    if folders is None:
        return [Path(spec.origin)] if spec.origin and spec.origin.endswith(".py") else []
    return [file for folder in folders for file in sorted(Path(folder).rglob("*.py"))]


def _docstrings(file: Path) -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other people's strings
            tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):  # files of other Pythons, in tests for instance
        return
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and (docstring := ast.get_docstring(node)):
            yield docstring
