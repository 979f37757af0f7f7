"""What becomes of names and numbers in tables and in a page's SVG."""

from __future__ import annotations

import re

from trex.report.exports import as_csv, as_latex, as_markdown
from trex.report.svg import for_page, with_titles


def test_tables_escape_what_their_kind_reads_as_marks() -> None:
    head, rows = ("a_b", "c|d"), [("<x> & 5 %", "-")]
    assert as_csv(head, rows) == "a_b,c|d\n<x> & 5 %,\n"
    assert as_markdown(head, rows).splitlines()[2] == "| &lt;x> &amp; 5 % | - |"
    assert r"\textless{}x\textgreater{} \& 5 \% & - \\" in as_latex(head, rows)
    assert r"a\_b & c|d \\" in as_latex(head, rows)


def test_titles_go_to_the_marks_in_order() -> None:
    svg = '<svg><g id="m"><defs><path d="0"/></defs><use x="1"/><use x="2"/></g><use x="3"/></svg>'
    titled = with_titles(svg, {"m": ["one", "<two>"]})
    assert re.findall(r"<title>(.*?)</title>", titled) == ["one", "&lt;two&gt;"]
    assert titled.endswith('</g><use x="3"/></svg>')


def test_colours_follow_the_page_in_styles_but_not_in_texts() -> None:
    svg = '<svg width="5pt" height="6pt"><g id="a" style="fill: #1f2937">#1f2937</g></svg>'
    assert for_page(svg, "f") == '<svg><g id="f-a" style="fill: var(--ink)">#1f2937</g></svg>'
