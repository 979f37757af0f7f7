"""The documentation's pages, and what stands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "hw_models/*.md")
    for path in ROOT.glob(pattern)
)

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: says why the block that follows is none of our commands, or none that can be parsed
_NOT_CHECKED = re.compile(
    r"^<!-- command not checked: .+ -->\n```\w*\n.*?^```$", re.MULTILINE | re.DOTALL
)
_INDENTED = re.compile(r"(?:^    .*\n)+", re.MULTILINE)
_INLINE = re.compile(r"`([^`\n]+)`")
_OPTIONAL = re.compile(r"(\s)\[([^][]+)\](?=\s|$)")
_LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Command:
    """A command as a page has it; a fragment (inline, or with `...`) leaves arguments out."""

    page: str
    text: str
    fragment: bool

    @property
    def words(self) -> list[str]:
        """Its words; what may be left out is there, dots for arguments left out are not."""
        whole = _OPTIONAL.sub(r"\1\2", self.text)
        return [word for word in shlex.split(whole, comments=True) if word not in ("...", "…")]


def text_of(page: str) -> str:
    return (ROOT / page).read_text()


def blocks(page: str) -> Iterator[str]:
    """Blocks of code in no programming language, fenced or indented."""
    text = _NOT_CHECKED.sub("", text_of(page))
    yield from (body for language, body in _FENCE.findall(text) if not language)
    for block in _INDENTED.findall(_FENCE.sub("", text)):
        yield re.sub(r"^    ", "", block, flags=re.MULTILINE)


def commands(page: str, program: str) -> Iterator[Command]:
    """Every command of a program: whole ones in blocks, fragments in the text."""
    for block in blocks(page):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            if line.startswith(f"{program} "):
                dots = re.search(r"(?:\s|^)(\.\.\.|…)(?:\s|$)", line) is not None
                yield Command(page, line, dots)
    for code in _INLINE.findall(_FENCE.sub("", text_of(page))):
        if code.startswith(f"{program} "):
            yield Command(page, code, True)


def prose(page: str) -> str:
    """A page without its code."""
    return _INLINE.sub("", _FENCE.sub("", text_of(page)))


def links(page: str) -> Iterator[str]:
    """Targets of links that stay in the repository."""
    for target in _LINK.findall(_INLINE.sub("", _FENCE.sub("", text_of(page)))):
        if "://" not in target and not target.startswith("mailto:"):
            yield target


def anchors(page: str) -> set[str]:
    """Names of a page's headings, as GitHub makes them."""
    names: set[str] = set()
    for heading in _HEADING.findall(_FENCE.sub("", text_of(page))):
        shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        names.add(re.sub(r"[^\w\- ]", "", shown.replace("`", "")).strip().replace(" ", "-"))
    return names
