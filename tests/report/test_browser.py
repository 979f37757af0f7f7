"""The page in a real browser: no error, and a pointer over a mark is told what it is."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from made_up_runs import RECORDS, write_run

from trex.cli import main

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run", "--virtual-time-budget=4000",
)  # fmt: skip

#: Errors are written into the page, since that is what comes back.
WATCH = """<script>
const told = (kind, text) => document.documentElement.setAttribute("data-" + kind, text);
addEventListener("error", (event) => told("error", event.message || "a resource failed"), true);
const { error } = console;
console.error = (...all) => { told("error", all.join(" ")); error(...all); };
</script>"""

HOVER = """<script>
const marks = document.querySelectorAll("figure[id$=-front] [data-tip]");
const texts = [...marks].map((mark) => {
  const at = { bubbles: true, clientX: 200, clientY: 200 };
  mark.dispatchEvent(new PointerEvent("pointerover", at));
  const tip = document.getElementById("tip");
  return tip.hidden ? "" : tip.textContent;
});
told("tips", texts.join(" / "));
document.body.dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
told("after", String(document.getElementById("tip").hidden));
const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
told("wider", String(wide));
</script>"""


@pytest.fixture(scope="module")
def browser() -> str:
    for name in BROWSERS:
        if path := shutil.which(name):
            return path
    pytest.skip(f"none of {', '.join(BROWSERS)} is installed")


def opened(browser: str, page: Path, profile: Path, *flags: str) -> dict[str, str]:
    """The `data-` attributes that the page's root has in the end."""
    command = [browser, *FLAGS, *flags, f"--user-data-dir={profile}", "--dump-dom", page.as_uri()]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    root = re.search(r"<html[^>]*>", ended.stdout)
    assert root is not None
    return {k: html.unescape(v) for k, v in re.findall(r'data-(\w+)="([^"]*)"', root[0])}


@pytest.mark.slow
@pytest.mark.parametrize("width", [1200, 500])
def test_the_page_in_a_browser(browser: str, tmp_path: Path, width: int) -> None:
    run = write_run(tmp_path / "run")
    assert main(["report", str(run), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "index.html").read_text()
    page = tmp_path / "watched.html"
    page.write_text(text.replace("<head>", "<head>" + WATCH).replace("</body>", HOVER + "</body>"))
    found = opened(browser, page, tmp_path / "profile", f"--window-size={width},900")
    assert "error" not in found
    for record in RECORDS:
        assert f"{record['plan']}\n" in found["tips"]
    assert found["after"] == "true"
    assert found["wider"] == "0"
