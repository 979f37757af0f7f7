"""Runs as callers give them: a folder, or a result in hand; and where new ones go."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from trex.api.models import original_of_run
from trex.models.registry import LoadedModel
from trex.search.pick import load_original
from trex.store.run import Run
from trex.training.transforms import InputConfig, input_config_from_json


class _Temporary:
    """A folder of the system's for temporary files; it goes with the last that refers to it."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="trex-"))
        self._end = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Folder:
    """A run folder, and what keeps it there where nobody said where.

    Attributes:
        path: of the run.
        temporary: goes, with all that is in it, when nothing refers to it any more.
    """

    path: Path
    temporary: _Temporary | None = None

    def inner(self, path: Path) -> Folder:
        """A run folder inside this one."""
        return replace(self, path=path)


def run_folder(out: str | Path | None) -> Folder:
    """Where a run goes; None takes a folder of the system's for temporary files."""
    if out is not None:
        return Folder(path=Path(out))
    temporary = _Temporary()
    return Folder(path=temporary.path / "run", temporary=temporary)


class RunInHand:
    """A run folder, and the model object that the run was made with, where it was one.

    Args:
        folder: the run's.
        model: the object; None reads the original by name.

    Raises:
        RunError: there is no run.
    """

    def __init__(self, folder: Folder, model: nn.Module | None = None) -> None:
        self.folder = folder
        self.given = model
        self.run = Run.open(folder.path)

    @property
    def path(self) -> Path:
        """The run folder, which every command reads."""
        return self.folder.path


#: what a caller may give as a run: its folder, or a result
RunGiven = str | Path | RunInHand


def folder_of(run: RunGiven) -> Path:
    """The folder of what a caller gives."""
    return run.path if isinstance(run, RunInHand) else Path(run)


def object_of(run: RunGiven, model: nn.Module | None) -> nn.Module | None:
    """The model object a run was made with, where its caller has one."""
    if model is None and isinstance(run, RunInHand):
        return run.given
    return model


def original_of(
    run: Run, model: nn.Module | None, weights: str | Path | None = None
) -> LoadedModel:
    """The original of a run: the object that was given, or by name.

    Args:
        run: it.
        model: the object, where the caller has one.
        weights: its checkpoint, where it is no longer where the run found it.

    Raises:
        WeightsError: the checkpoint is gone, or holds other weights.
        ModelError: no name builds the model, and no object was given.
    """
    if model is not None:
        return original_of_run(run, model)
    return load_original(run, None if weights is None else Path(weights))[0]


def config_of(run: Run) -> InputConfig:
    """How the model of a run wants what it reads."""
    return input_config_from_json(run.manifest().settings.data)
