"""From matplotlib's SVG to a page's: hover texts, ids of its own, colours that follow the page."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import Any, Final

#: dark enough to read on white and to tell apart in grey
INK: Final = "#1f2937"
ACCENT: Final = "#b4530a"
PALE: Final = "#9ca3af"
PAPER: Final = "#ffffff"

#: drawn colour -> the page's variable, which follows light and dark
_VARIABLES: Final = {INK: "--ink", ACCENT: "--accent", PALE: "--pale", PAPER: "--page"}


def with_titles(svg: str, hover: dict[str, Sequence[str]]) -> str:
    """The SVG with a `<title>` in every mark of the groups in `hover`."""
    for gid, texts in hover.items():
        start = svg.index(f'<g id="{gid}"')
        end = _end_of_group(svg, start)
        marks = iter(texts)

        def titled(match: re.Match[str], marks: Any = marks) -> str:
            text = next(marks, "")
            if not text:
                return match[0]
            return f"<{match[1]}{match[2]}><title>{html.escape(text)}</title></{match[1]}>"

        body = re.sub(r"<defs>.*?</defs>", "", svg[start:end], flags=re.S)
        kind = "use" if "<use " in body else "path"
        pattern = rf"<({kind})( [^>]*?)/>"
        head, defs, tail = svg[start:end].rpartition("</defs>")
        svg = svg[:start] + head + defs + re.sub(pattern, titled, tail) + svg[end:]
    return svg


def for_page(svg: str, name: str) -> str:
    """The SVG with ids of its own, colours that follow the page, and no fixed size."""
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r' id="', f' id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg).replace("url(#", f"url(#{name}-")
    # Text may name a colour; style attributes alone are the drawing's.
    return re.sub(r'style="[^"]*"', _themed, svg)


def _themed(match: re.Match[str]) -> str:
    style = match[0]
    for colour, variable in _VARIABLES.items():
        style = style.replace(colour, f"var({variable})")
    return style


def _end_of_group(svg: str, start: int) -> int:
    depth = 0
    for match in re.compile(r"<g[ >]|</g>").finditer(svg, start):
        depth += -1 if match[0] == "</g>" else 1
        if depth == 0:
            return match.end()
    raise AssertionError("an SVG group does not end")
