"""Imports point one way: a part of TReX knows those below it, and none above."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[1]

#: The house from the ground up: a part imports parts of lower rows and itself. What `trex` itself
#: imports is for its users; from below, only its version is read.
ROWS: Final = (
    ("errors",),
    ("config", "files", "progress", "units", "versions"),
    ("datafiles", "plan", "settings"),
    ("architecture", "stored"),
    ("store",),
    ("models",),
    ("hardware",),
    ("reuse",),
    ("fit",),
    ("text",),
    ("noise",),
    # images and measurements; fine-tuning writes bundles, which hold how images are prepared
    ("training",),
    ("exporters",),
    ("runtime",),
    ("bench", "training.finetune"),
    ("search",),
    ("report",),
    ("compare",),
    # what commands and programs call
    ("api",),
    ("demo",),
    ("commands",),
    ("cli",),
    ("__main__", ""),
)
ROW_OF: Final = {part: row for row, parts in enumerate(ROWS) for part in parts}

#: (file, part that it imports) -> why it may.
EXCEPTIONS: Final = {
    ("trex/models/uniform/config.py", "reuse"): (
        "reads what `trex export --format uniform` wrote: published beside the model, its "
        "`from_config` has to run the plan"
    ),
    ("trex/models/variant.py", "reuse"): (
        "timm's entrypoint for exported variants, which builds a base and runs its plan"
    ),
    ("trex/commands/demo.py", "cli"): "runs other verbs as its reader would type them",
}


class Import(NamedTuple):
    """`module` of TReX, which a line imports; without the leading `trex.`."""

    line: int
    module: str


def imports_of(source: str) -> Iterator[Import]:
    """All, also those in functions and those that only type checkers see."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: import by the whole name"
            # what is imported may be a module too
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, _, module = name.partition(".")
            if package == "trex":
                yield Import(node.lineno, module)


def part_of(module: str) -> str | None:
    """The part that a module, or a name in it, belongs to; None for `trex` and names in it."""
    words = module.split(".")
    prefixes = [".".join(words[:length]) for length in range(len(words), 0, -1)]
    return next((prefix for prefix in prefixes if prefix and prefix in ROW_OF), None)


def upward(own: str, source: str) -> Iterator[tuple[Import, str]]:
    """Imports of a file of part `own` that point upwards or sideways, with the part they name."""
    for found in imports_of(source):
        part = part_of(found.module)
        if part is not None and part != own and ROW_OF[part] >= ROW_OF[own]:
            yield found, part


def sources() -> Iterator[tuple[str, str, str]]:
    """Every file of TReX: its path, the part it belongs to, its text."""
    for file in sorted((ROOT / "trex").rglob("*.py")):
        path = file.relative_to(ROOT)
        words = path.with_suffix("").parts[1:]
        module = ".".join(words[:-1] if words[-1] == "__init__" else words)
        part = part_of(module) if module else ""
        assert part is not None, f"{path} has no place in tests/test_layers.py"
        yield path.as_posix(), part, file.read_text(encoding="utf-8")


def test_no_import_points_upwards() -> None:
    wrong, needed = [], set()
    for path, own, source in sources():
        for found, part in upward(own, source):
            if (path, part) in EXCEPTIONS:
                needed.add((path, part))
            else:
                wrong.append(f"{path}:{found.line}: {own} imports trex.{found.module}")
    assert not wrong, "\n".join(["imports that point upwards:", *wrong])
    assert needed == EXCEPTIONS.keys()


def test_what_counts_as_an_import() -> None:
    source = """
import trex
from trex import __version__
from trex.errors import TrexError
from trex.reuse.route import Route
from trex import search
if TYPE_CHECKING:
    from trex.fit.fitter import PlanFitter
def later():
    import trex.training.data
    from trex.training import finetune
"""
    of_hardware = sorted((found.line, part) for found, part in upward("hardware", source))
    assert of_hardware == [
        (5, "reuse"), (6, "search"), (8, "fit"), (10, "training"), (11, "training.finetune"),
    ]  # fmt: skip
    assert [part for _, part in upward("training", source)] == ["search", "training.finetune"]
    assert list(upward("cli", source)) == []


def test_pricing_loads_no_torch() -> None:
    script = (
        "import sys, trex.plan, trex.architecture, trex.hardware, trex.stored\n"
        "print(sorted({'torch', 'timm', 'torchvision'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
