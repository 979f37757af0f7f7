from __future__ import annotations

import importlib
import importlib.metadata
import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import trex
from trex.cli import VERBS

ROOT = Path(__file__).parents[1]

# What takes most of a second or more to import.
HEAVY = {"torch", "torchvision", "timm", "optuna", "numpy", "scipy", "sklearn", "matplotlib"}


def python(*arguments):
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout


def heavy_modules_after(code):
    report = f"{code}\nimport json, sys\nprint('\\n' + json.dumps(list(sys.modules)))"
    loaded = json.loads(python("-c", report).splitlines()[-1])
    assert "trex.cli" in loaded
    return HEAVY & set(loaded)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Names of the files in the wheel and, without its top folder, the source archive."""
    folder = tmp_path_factory.mktemp("dist")
    python("-m", "hatchling", "build", "--directory", str(folder))
    (wheel,) = folder.glob("*.whl")
    (archive,) = folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as opened, tarfile.open(archive) as sources:
        names = {name.partition("/")[2] for name in sources.getnames()}
        return set(opened.namelist()), names


def files_below(folder):
    paths = (ROOT / folder).rglob("*")
    return {str(path.relative_to(ROOT)) for path in paths if path.is_file()}


@pytest.mark.slow
def test_the_wheel_carries_chips_spaces_and_types(built):
    wheel, _ = built
    assert "trex/py.typed" in wheel
    data = files_below("hw_models") | files_below("search_spaces")
    assert "hw_models/trex_fefet_32nm/chip.yaml" in data
    assert {f"trex/_data/{name}" for name in data} <= wheel


@pytest.mark.slow
def test_the_wheel_carries_nothing_else(built):
    wheel, _ = built
    tops = {name.split("/")[0] for name in wheel}
    assert tops == {"trex", f"trex_vit-{trex.__version__}.dist-info"}
    assert not any("__pycache__" in name for name in wheel)


@pytest.mark.slow
def test_the_source_archive_can_be_built_and_tested(built):
    _, archive = built
    assert files_below("hw_models") | files_below("search_spaces") <= archive
    assert {"pyproject.toml", "Makefile", "LICENSE", "tests/test_packaging.py"} <= archive
    assert not any(name.startswith((".venv", "runs/")) for name in archive)


def test_the_installed_version_is_the_sources():
    assert importlib.metadata.version("trex-vit") == trex.__version__


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_its_module(verb):
    module = importlib.import_module(f"trex.commands.{verb}")
    assert callable(module.add_arguments)
    assert callable(module.run)


def test_every_command_module_is_a_verb():
    modules = {path.stem for path in (ROOT / "trex" / "commands").glob("[!_]*.py")}
    assert modules == set(VERBS)


def test_help_imports_nothing_heavy():
    code = "from trex.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass"
    assert heavy_modules_after(code) == set()


def test_no_commands_flags_import_anything_heavy():
    assert heavy_modules_after("from trex.cli import build_parser\nbuild_parser()") == set()
