"""Make and execute the notebooks: every `NAME.py` here becomes `NAME.ipynb` with its output.

    python examples/notebooks/run.py [NAME ...]

A source is cut into cells at lines `# %%`, for code, and `# %% [markdown]`, whose lines are
comments. Cells are run one after another in a folder of their own; what they print, and the value
of a last expression, is kept.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NAMES = ("uniform_user",)


def cells_of(source: str) -> list[tuple[str, str]]:
    """Kind and text of every cell: `markdown` or `code`."""
    cells = []
    for part in source.split("# %%")[1:]:
        head, _, body = part.partition("\n")
        if head.strip() == "[markdown]":
            lines = [line.removeprefix("#").removeprefix(" ") for line in body.strip().split("\n")]
            cells.append(("markdown", "\n".join(lines)))
        else:
            cells.append(("code", body.strip()))
    return cells


def run_cell(code: str, names: dict[str, Any]) -> list[dict[str, Any]]:
    """Run a cell; its outputs in the notebook's form."""
    tree = ast.parse(code)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    told, value = io.StringIO(), None
    with contextlib.redirect_stdout(told):
        exec(compile(tree, "<cell>", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)
    outputs: list[dict[str, Any]] = []
    if told.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": told.getvalue()})
    if value is not None:
        shown = {"text/plain": repr(value)}
        outputs.append({"output_type": "display_data", "data": shown, "metadata": {}})
    return outputs


def execute(source: str) -> dict[str, Any]:
    """The notebook of a source, its cells run in the current folder."""
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = []
    count = 0
    for number, (kind, text) in enumerate(cells_of(source)):
        cell: dict[str, Any] = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}}
        cell["source"] = text.splitlines(keepends=True)
        if kind == "code":
            count += 1
            cell |= {"execution_count": count, "outputs": run_cell(text, names)}
        cells.append(cell)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def main() -> None:
    """Write the notebooks that are named, or all."""
    for name in sys.argv[1:] or NAMES:
        source = (HERE / f"{name}.py").read_text()
        before = Path.cwd()
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            try:
                notebook = execute(source)
            finally:
                os.chdir(before)
        (HERE / f"{name}.ipynb").write_text(json.dumps(notebook, indent=1) + "\n")
        print(name)


if __name__ == "__main__":
    main()
