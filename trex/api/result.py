"""What a search or a fit found: its run folder, and everything in it as Python values."""

from __future__ import annotations

import shutil
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from trex.api.data import Data
from trex.api.devices import DeviceGiven, open_machine
from trex.api.evaluate import evaluate
from trex.api.export import Exported, export
from trex.api.finetune import Tuned, finetune
from trex.api.models import Model
from trex.api.runs import Folder, RunInHand, original_of
from trex.errors import RunError, StorageError
from trex.exporters import Format
from trex.exporters.bundle import load_bundle
from trex.models.registry import LoadedModel
from trex.plan import Plan
from trex.report.tables import fit_table, search_table
from trex.search.pick import pick_record, pick_variant
from trex.store.record import Estimate, Record
from trex.store.run import SUMMARY, Run
from trex.store.schemas import Evaluation, Short, Summary


class Result(RunInHand):
    """A finished search, or a fit of given plans.

    Args:
        folder: its run's.
        model: the object it was made with, where it was one; None reads the original by name.

    Raises:
        RunError: there is no run, or it is not finished.
    """

    def __init__(self, folder: Folder, model: nn.Module | None = None) -> None:
        super().__init__(folder, model)
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
        return original_of(self.run, self.given)

    @cached_property
    def model(self) -> nn.Module:
        """The best plan's variant, fitted, in evaluation mode: an ordinary module.

        Raises:
            BundleError: its files are damaged.
        """
        base = None if self.given is None else deepcopy(self.original.model)
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
        self.folder = Folder(path=target)
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

        machine = None if device is None else open_machine(device)
        runs = read_all([self.path])
        out = Path(folder) if folder else self.path / "report"
        return write_report(runs, out, device=machine).page

    def evaluate(self, data: Data, pick: str = "best", **options: Any) -> Evaluation:
        """As `trex.evaluate`, of this run."""
        return evaluate(self, data, pick=pick, **options)

    def finetune(self, data: Data, out: str | Path, **options: Any) -> Tuned:
        """As `trex.finetune`, of this run."""
        return finetune(self, data, out=out, **options)

    def export(self, out: str | Path, format: Format = "bundle", **options: Any) -> Exported:
        """As `trex.export`, of this run."""
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
