"""What searches and fits of given plans have in common: checks, what a run is told, the run."""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from trex.api import densities
from trex.api.data import (
    Data,
    DataOptions,
    check_sources,
    located,
    open_calibration,
    open_labelled,
)
from trex.api.devices import DeviceGiven
from trex.api.models import Model, ModelOptions, classes_of, data_config
from trex.errors import BudgetError, RunError
from trex.exporters.bundle import load_bundle
from trex.models.registry import LoadedModel, architecture_of
from trex.report.tables import FAR
from trex.reuse.precision import fastest_precision
from trex.reuse.sizes import parameter_table
from trex.search.agreement import Agreement
from trex.search.budget import Budget
from trex.search.context import SearchContext, Sharing
from trex.search.engine import Search
from trex.search.feasible import PricedSpace
from trex.search.outcome import outcome
from trex.search.problem import Problem, taken
from trex.search.strategies import count_feasible
from trex.settings import as_stored, difference
from trex.store.operations import store_architecture
from trex.store.run import SUMMARY, Run
from trex.store.schemas import Densities, Evaluation, LayoutFields, Manifest, Settings, Summary
from trex.training.data import ImageSet, contents_fingerprint, dataset_fingerprint
from trex.training.given import holds_tensors
from trex.training.measure import measure_pair
from trex.training.transforms import DataConfig, InputConfig
from trex.versions import versions

_logger = logging.getLogger(__name__)

#: of forwards while fitting
Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkOptions:
    """How plans are fitted, and who shares the work.

    Attributes:
        seed: of all that is drawn.
        final_views: augmented views of every image in the best plan's last fit; None is the
            command's usual number. Of tensors and texts there are none.
        batch_size: images at a time.
        precision: of forwards while fitting; auto: bfloat16 where the processor has it.
        scratch: a folder for activations; None takes the run's.
        workers: processes of one thread each; 1 uses all cores for one.
        storage: address of a PostgreSQL database; None for a file in the run folder.
        study: its name in the storage; None is made of model, device and budget.
        like: a run of the same model, space and images, whose probes are taken.
    """

    seed: int = 0
    final_views: int | None = None
    batch_size: int = 50
    precision: Precision = "auto"
    scratch: Path | None = None
    workers: int = 1
    storage: str | None = None
    study: str | None = None
    like: Path | None = None

    def check(self) -> None:
        """See that numbers are not too small.

        Raises:
            BudgetError: one is.
        """
        check_least(
            {"final_views": 0, "batch_size": 1, "workers": 1},
            final_views=self.final_views,
            batch_size=self.batch_size,
            workers=self.workers,
        )

    def settled_precision(self) -> Literal["float32", "bfloat16"]:
        """The precision that was asked for, settled for this machine."""
        return fastest_precision() if self.precision == "auto" else self.precision

    def views(self, images: ImageSet, config: InputConfig, usual: int) -> int:
        """Augmented views of every image; there are none of texts and tensors."""
        if not isinstance(config, DataConfig) or holds_tensors(images):
            return 0
        return usual if self.final_views is None else self.final_views


class Opened(NamedTuple):
    """What a caller's data were opened as.

    Attributes:
        config: how the model wants them.
        images: plans are fitted and compared on.
        evaluated: labelled, to measure the winner on at the end.
    """

    config: InputConfig
    images: ImageSet
    evaluated: ImageSet | None


class Prepared(NamedTuple):
    """A search whose every input is checked.

    Attributes:
        search: it.
        measure: measures a bundle on labelled images; None where there are none.
    """

    search: Search
    measure: Callable[[Path], Evaluation] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """What a caller gives to be searched or fitted.

    Attributes:
        model: a name, or a model.
        data: images to fit and compare with.
        device: what prices plans.
        out: the run folder.
        evaluated: labelled data to measure the winner on.
        options: of the model.
        reading: of the data.
        work: how it is done.
        command: that made the run, for people; None makes one of what is given.
    """

    model: Model
    data: Data
    device: DeviceGiven
    out: Path
    evaluated: Data | None = None
    options: ModelOptions = field(default_factory=ModelOptions)
    reading: DataOptions = field(default_factory=DataOptions)
    work: WorkOptions = field(default_factory=WorkOptions)
    command: tuple[str, ...] | None = None

    def check_sources(self) -> None:
        """See that there can be such data.

        Raises:
            DataError: there cannot.
        """
        check_sources(self.data, self.evaluated)

    def open(self, loaded: LoadedModel) -> Opened:
        """The data, as the model wants them.

        Raises:
            DataError: some are missing, empty, or of another form.
        """
        config, classes = data_config(loaded, self.options), classes_of(loaded.model)
        images = open_calibration(self.data, config, classes, self.reading)
        evaluated = (
            None
            if self.evaluated is None
            else open_labelled(self.evaluated, config, classes, self.reading)
        )
        return Opened(config, images, evaluated)


def check_least(least: Mapping[str, int], **given: int | None) -> None:
    """See that numbers are not too small.

    Raises:
        BudgetError: one is.
    """
    for name, value in least.items():
        number = given[name]
        if number is not None and number < value:
            raise BudgetError(
                f"--{name.replace('_', '-')} {number} is too small",
                hint=f"give at least {value}",
            )


def search_of(
    given: Given,
    problem: Problem,
    budget: Budget,
    evaluated: ImageSet | None,
    like: Search | None = None,
) -> Prepared:
    """The search of a problem, and how to measure bundles; everything is checked then.

    Args:
        given: by the caller.
        problem: what is searched for.
        budget: its limits.
        evaluated: labelled images.
        like: a search that differs in its limits alone, whose passes are shared.

    Raises:
        TrexError: the run folder or the storage holds something else, or nothing can be priced.
    """
    loaded, device, work = problem.loaded, problem.device, given.work
    settings = _settings(problem, budget)
    measured = densities.of_search(loaded, device, problem.images, given.out, settings)
    priced = (
        like.priced.with_budget(budget)
        if like
        else PricedSpace.of(
            architecture_of(loaded.model, loaded.name),
            device,
            problem.accounting,
            problem.space,
            budget,
            parameter_table(loaded.model, problem.space.forms),
            measured.planes if measured else None,
        )
    )
    manifest = _manifest(given, problem, settings, priced, measured)
    run_folder = Run(given.out)
    run_folder.check(settings)
    sharing = Sharing(
        workers=work.workers,
        storage=work.storage,
        study=work.study or f"{loaded.name} on {device.name}, {budget}",
    )
    known = like.run if like else _run_like(work.like, settings)
    context = SearchContext(
        problem, priced, run_folder, settings, sharing, work.scratch or given.out,
        like.context if like else None, known,
    )  # fmt: skip
    measure = None if evaluated is None else partial(_measure, problem.loaded, evaluated)
    return Prepared(Search(context, manifest), measure)


def carry_out(prepare: Callable[[], Prepared], *, keep: bool = False) -> Summary:
    """Prepare a search and run it: what it tells, kept in its folder for later commands.

    Args:
        prepare: makes the search, and what measures bundles.
        keep: leave what it shares open.
    """
    started = time.monotonic()
    search, measure = prepare()
    taken.clear()
    try:
        best = search.execute()
    finally:
        if not keep:
            search.close()
    loaded = search.problem.loaded
    store_architecture(search.run, architecture_of(loaded.model, loaded.name))
    result = outcome(search, best, measure).model_copy(
        update={
            "seconds": round(time.monotonic() - started, 1),
            "spent": {step: round(of.seconds, 1) for step, of in taken.items()},
            "passes": {step: of.passes for step, of in taken.items()},
        }
    )
    search.run.write(SUMMARY, result)
    _warn_if_far(result)
    _warn_if_passed_over(result)
    return result


def _measure(loaded: LoadedModel, images: ImageSet, bundle: Path) -> Evaluation:
    """A bundle beside its original on labelled images."""
    return measure_pair(load_bundle(bundle, loaded.own_base()), loaded.model, images)


def _run_like(folder: Path | None, settings: dict[str, Any]) -> Run | None:
    """A run whose probes and way of fitting are taken: neither depends on a chip or on limits.

    Raises:
        RunError: it is of another model, space, or of other images.
    """
    if folder is None:
        return None
    other = Run.open(folder)

    def part(of: dict[str, Any]) -> dict[str, Any]:
        names = (
            "model", "model_args", "weights_sha256", "space", "calibration_sha256",
            "calibration_contents_sha256", "data",
        )  # fmt: skip
        search = (
            "seed", "select_share", "fresh_share", "surrogate_images", "choice_images", "fit",
        )  # fmt: skip
        return {
            **{name: of[name] for name in names if name in of},
            "search": {name: of["search"].get(name) for name in search},
        }

    theirs = other.manifest().settings.as_json()
    if different := difference(part(theirs), part(settings)):
        raise RunError(
            f"--like {folder} is of other settings: {different}",
            hint="give a run of the same model, space and images, or leave --like out",
        )
    return other


def _warn_if_far(result: Summary) -> None:
    """Say so where the best plan found is far from the original."""
    best, tuned = result.best, result.finetuned
    near = Agreement.of(tuned.measured if tuned else best.last)
    if near.far:
        _logger.warning(
            "the best plan found, %s, gives the original's first guess for %s: %s",
            best.plan or "no reuse", near, FAR,
        )  # fmt: skip


def _warn_if_passed_over(result: Summary) -> None:
    """Say so where plans that lose less took longer on the machine than predicted."""
    for row in result.timings.passed_over if result.timings else ():
        _logger.warning(
            "%s is beyond the limit when timed whole (%.3fx of the original, predicted %.3fx) and "
            "is passed over", row.plan, row.ratio.median, row.predicted_ratio,
        )  # fmt: skip


def _settings(problem: Problem, budget: Budget) -> dict[str, Any]:
    """What a run must have been started with to be gone on with."""
    loaded = problem.loaded
    given = {"plans": list(map(str, problem.plans))} if problem.plans else {}
    return {
        "model": loaded.name,
        "model_args": loaded.arguments,
        "weights_sha256": loaded.weights_sha256,
        "chip": problem.device.name,
        "chip_sha256": problem.device.fingerprint,
        "accounting": problem.accounting,
        "space": problem.space.settings(),
        **given,
        "budget": str(budget),
        "calibration_sha256": dataset_fingerprint(problem.images),
        "calibration_contents_sha256": contents_fingerprint(problem.images),
        "data": asdict(problem.data_config),
        "search": problem.settings.as_json(),
        "densities": densities.settings(problem.device),
    }


def _manifest(
    given: Given,
    problem: Problem,
    settings: dict[str, Any],
    priced: PricedSpace,
    measured: densities.MeasuredDensities | None,
) -> Manifest:
    loaded = problem.loaded
    size, feasible = _counts(problem, priced)
    class_map = given.reading.class_map
    return Manifest(
        settings=Settings.model_validate(settings),
        command=list(given.command or _called(given, settings["budget"])),
        device=str(given.device) if isinstance(given.device, str | Path) else None,
        versions=versions(),
        weights_source=loaded.weights_source,
        calibration=located(given.data),
        calibration_images=len(problem.images),
        calibration_images_sha256=dataset_fingerprint(problem.images, labels=False),
        class_map=None if class_map is None else str(class_map.absolute()),
        layout=LayoutFields.model_validate(as_stored(asdict(loaded.adapter.layout(loaded.model)))),
        space_size=size,
        feasible=feasible,
        baseline=priced.baseline.estimate(0, problem.device, problem.accounting),
        densities=Densities(**measured.as_json()) if measured else None,
    )


def command_line() -> tuple[str, ...]:
    """This process's, without the password in an address: nobody's business who reads a run."""
    return (
        "trex",
        *(re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:***@", word) for word in sys.argv[1:]),
    )


def _called(given: Given, budget: str) -> tuple[str, ...]:
    """A call from Python, for people."""
    model = repr(given.model) if isinstance(given.model, str) else "model"
    data = repr(str(given.data)) if isinstance(given.data, str | Path) else "data"
    device = repr(str(given.device)) if isinstance(given.device, str | Path) else "device"
    what = (
        f"search({model}, {data}, {device}, budget={budget!r}"
        if budget
        else (f"fit({model}, plan, {data}, device={device}")
    )
    return ("python", "-c", f"import trex; trex.{what}, out={str(given.out)!r})")


def _counts(problem: Problem, priced: PricedSpace) -> tuple[int, int | None]:
    """How many plans there are, and how many within the budget; None where they are too many.

    Raises:
        InfeasibleError: none is.
    """
    if problem.plans:
        return len(problem.plans), len(problem.plans)
    feasible = count_feasible(priced)
    _logger.info(
        "%s plans, %s within the budget",
        f"{priced.space.size:,}",
        "more than can be listed" if feasible is None else f"{feasible:,}",
    )
    return priced.space.size, feasible
