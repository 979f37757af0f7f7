"""The notebooks in examples/: what is saved is of their sources, and the sources run."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "examples" / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))


@pytest.fixture(scope="module")
def runner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("notebooks_run", FOLDER / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_source_has_its_notebook(runner: ModuleType) -> None:
    assert sorted(runner.NAMES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_what_is_saved_is_of_the_source_and_was_run(name: str, runner: ModuleType) -> None:
    notebook = json.loads((FOLDER / f"{name}.ipynb").read_text())
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]
    assert cells == runner.cells_of((FOLDER / f"{name}.py").read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert sum(bool(cell["outputs"]) for cell in code) >= len(code) - 1
    assert "Error" not in json.dumps([cell["outputs"] for cell in code])


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_source_runs(
    name: str, runner: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        notebook: dict[str, Any] = runner.execute((FOLDER / f"{name}.py").read_text())
    assert any(cell.get("outputs") for cell in notebook["cells"])
