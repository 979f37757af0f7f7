"""What a search or a fit found: its run folder, and everything in it as Python values."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from trex.api.data import Data
from trex.api.devices import DeviceGiven, open_device
from trex.api.models import Model, original_of_run
from trex.errors import ChipError, RunError, StorageError
from trex.exporters import Format
from trex.exporters.bundle import load_bundle
from trex.hardware import MeasuredDevice
from trex.models.registry import LoadedModel
from trex.plan import Plan
from trex.report.tables import fit_table, search_table
from trex.search.pick import load_original, pick_record, pick_variant
from trex.store.record import Estimate, Record
from trex.store.run import SUMMARY, Run
from trex.store.schemas import Evaluation, Short, Summary
from trex.training.transforms import InputConfig, input_config_from_json

if TYPE_CHECKING:
    from trex.api.export import Exported
    from trex.api.finetune import Tuned


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


class Result:
    """A finished search, or a fit of given plans.

    Args:
        folder: its run's.
        model: the object it was made with, where it was one; None reads the original by name.

    Raises:
        RunError: there is no run, or it is not finished.
    """

    def __init__(self, folder: Folder, model: nn.Module | None = None) -> None:
        self._folder = folder
        self._given = model
        self.run = Run.open(folder.path)
        summary = self.run.summary()
        if summary is None:
            raise RunError(
                f"{folder.path} is not finished",
                hint="search again with the same out: it goes on where it stopped",
            )
        self.summary: Summary = summary

    @classmethod
    def of(cls, folder: Folder, model: Model) -> Result:
        """The result of a run that has just been finished."""
        return cls(folder, model if isinstance(model, nn.Module) else None)

    @classmethod
    def open(cls, folder: str | Path, model: nn.Module | None = None) -> Result:
        """The result of an earlier search or fit, of Python or the command line.

        Args:
            folder: the run's.
            model: the model object that it was made with, where no name builds it.

        Raises:
            RunError: there is no run, or it is not finished.
        """
        return cls(Folder(path=Path(folder)), model)

    @property
    def path(self) -> Path:
        """The run folder, which every command reads."""
        return self._folder.path

    @property
    def winner(self) -> Short:
        """The best plan found: what it costs, what it loses, how it was measured."""
        return self.summary.best

    @property
    def plan(self) -> Plan:
        """The best plan found."""
        return Plan.parse(self.summary.best.plan)

    @property
    def estimate(self) -> Estimate:
        """What the best plan costs, in SI units."""
        return self.summary.best.estimate

    @property
    def baseline(self) -> Estimate:
        """What the original costs."""
        return self.summary.baseline

    @property
    def front(self) -> list[Short]:
        """Measured plans that none beats in both cost and loss, the cheapest first."""
        return list(self.summary.pareto)

    @property
    def records(self) -> list[Record]:
        """Every plan that was fitted and measured."""
        return self.run.records()

    @cached_property
    def original(self) -> LoadedModel:
        """The original with its weights.

        Raises:
            WeightsError: its checkpoint is gone, or holds other weights.
            ModelError: no name builds it, and it was not given.
        """
        return original_of(self.run, self._given)

    @cached_property
    def model(self) -> nn.Module:
        """The best plan's variant, fitted, in evaluation mode: an ordinary module.

        Raises:
            BundleError: its files are damaged.
        """
        base = None if self._given is None else deepcopy(self.original.model)
        return load_bundle(self.run.best, base)

    def variant(self, pick: str) -> nn.Module:
        """Another variant: `finetuned`, `knee`, a number of consumers, or a measured plan.

        Raises:
            RunError: the run has not measured such a plan.
        """
        return pick_variant(self.run, pick, self.original)[1]

    def record(self, pick: str = "best") -> Record:
        """What was measured of a plan; `pick` as in `variant`, or `best`.

        Raises:
            RunError: the run has not measured such a plan.
        """
        return pick_record(self.run, pick)

    def save(self, folder: str | Path) -> Path:
        """Keep the whole run in a folder, as if it had been searched there.

        Every command reads it, and `Result.open`; `FOLDER/best` is what `trex.load` reads.

        Args:
            folder: new, or empty.

        Raises:
            StorageError: it holds something, or cannot be written.
        """
        target = Path(folder)
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise StorageError(f"{target} is not empty", hint="give a new folder")
        try:
            shutil.copytree(
                self.path, target, dirs_exist_ok=True,
                ignore=shutil.ignore_patterns(".lock", ".locks"),
            )  # fmt: skip
        except OSError as error:
            raise StorageError(
                f"{target} cannot be written: {error}", hint="choose another folder"
            ) from error
        Run(target).write(SUMMARY, self.summary.model_copy(update={"run": str(target)}))
        self._folder = Folder(path=target)
        self.run = Run.open(target)
        return target

    def report(
        self, folder: str | Path | None = None, *, device: DeviceGiven | None = None
    ) -> Path:
        """Write one page with its figures and tables; the page's path.

        Args:
            folder: where to; None is `report` in the run folder.
            device: a measured machine, to price the best plans on too.

        Raises:
            ChipError: the device is a chip.
            StorageError: the folder cannot be written.
        """
        from trex.report.facts import read_all
        from trex.report.page import write_report  # matplotlib, which nothing else here needs

        machine = None if device is None else open_device(device)
        if machine is not None and not isinstance(machine, MeasuredDevice):
            raise ChipError(
                f"{machine.name} is a chip: a run's page tells what its own chip costs",
                hint="give a machine that trex profile measured, or leave device out",
            )
        runs = read_all([self.path])
        out = Path(folder) if folder else self.path / "report"
        return write_report(runs, out, device=machine).page

    def evaluate(self, data: Data, pick: str = "best", **options: Any) -> Evaluation:
        """As `trex.evaluate`, of this run."""
        from trex.api.evaluate import evaluate

        return evaluate(self, data, pick=pick, **options)

    def finetune(self, data: Data, out: str | Path, **options: Any) -> Tuned:
        """As `trex.finetune`, of this run."""
        from trex.api.finetune import finetune

        return finetune(self, data, out=out, **options)

    def export(self, out: str | Path, format: Format = "bundle", **options: Any) -> Exported:
        """As `trex.export`, of this run."""
        from trex.api.export import export

        return export(self, out, format=format, **options)

    def __str__(self) -> str:
        table = fit_table if self.summary.plans is not None else search_table
        return "\n".join(table(self.summary.model_copy(update={"run": str(self.path)})))

    def __repr__(self) -> str:
        best, estimate = self.summary.best, self.summary.best.estimate
        share = estimate.latency_s / self.summary.baseline.latency_s
        return (
            f"<trex.Result of {self.summary.model} on {self.summary.chip}: "
            f'"{best.plan}", latency {share:.2f}x, loss {best.last.loss:.4g} nats, {self.path}>'
        )


#: what a caller may give as a run: its folder, or a result
RunGiven = str | Path | Result


def folder_of(run: RunGiven) -> Path:
    """The folder of what a caller gives."""
    return run.path if isinstance(run, Result) else Path(run)


def object_of(run: RunGiven, model: nn.Module | None) -> nn.Module | None:
    """The model object a run was made with, where its caller has one."""
    if model is None and isinstance(run, Result):
        return run._given
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
