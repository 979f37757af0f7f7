"""The documentation's links, and the site that is made of it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import PurePosixPath

import pytest
from pages import PAGES, ROOT, anchors, links, text_of

SITE = ROOT / "docs" / "site"
NEEDED = ("sphinx", "myst_parser", "furo")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    dead = []
    for target in links(page):
        path, _, anchor = target.partition("#")
        there = (ROOT / PurePosixPath(page).parent / path).resolve() if path else ROOT / page
        found = there.exists() and there.is_relative_to(ROOT)
        if not found or (anchor and anchor not in anchors(there.relative_to(ROOT).as_posix())):
            dead.append(target)
    assert dead == []


def test_every_page_is_in_the_index():
    index = "docs/index.md"
    listed = {
        os.path.normpath(PurePosixPath("docs") / target.partition("#")[0])
        for target in links(index)
    }
    assert set(PAGES) - {index} <= listed


def test_generated_parts_name_what_makes_them():
    asked = {
        line.removeprefix("<!-- made as the site is built: ").removesuffix(" -->")
        for page in PAGES
        for line in text_of(page).splitlines()
        if line.startswith("<!-- made as the site is built")
    }
    sys.path.insert(0, str(SITE))
    try:
        import generated
    finally:
        sys.path.remove(str(SITE))
    assert asked == set(generated.PARTS)
    commands = generated.commands()
    assert "## trex search\n" in commands
    assert "`--max-latency" in commands


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (extra docs)")
def test_the_site_is_built_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-c", str(SITE)]
    environment = {**os.environ, "PYTHONWARNINGS": "", "NO_COLOR": "1"}
    done = subprocess.run(
        [*command, "-b", "html", str(ROOT), str(tmp_path / "html")],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pages = {path.stem for path in (tmp_path / "html" / "docs").glob("*.html")}
    assert {PurePosixPath(page).stem for page in PAGES if page.startswith("docs/")} <= pages
