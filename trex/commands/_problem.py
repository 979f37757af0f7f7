"""What searches and fits of given plans have in common: flags, checks, what a run is told."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trex.commands import _densities

if TYPE_CHECKING:
    from trex.models.registry import LoadedModel
    from trex.search.budget import Budget
    from trex.search.engine import Search
    from trex.search.feasible import PricedSpace
    from trex.search.problem import Problem
    from trex.store.run import Run
    from trex.store.schemas import Evaluation, Manifest, Summary
    from trex.training.data import ImageSet
    from trex.training.transforms import InputConfig

_logger = logging.getLogger(__name__)


def add_data(parser: argparse.ArgumentParser) -> None:
    """Which images, and where results go."""
    parser.add_argument("--calib", required=True, metavar="DATASET", help="images to fit with")
    parser.add_argument("--eval", metavar="DATASET", help="labelled images to measure on")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="the run folder")
    parser.add_argument("--seed", type=int, default=0)


def add_work(group: argparse._ArgumentGroup) -> None:
    """How plans are fitted."""
    group.add_argument(
        "--final-views",
        type=int,
        metavar="N",
        help="augmented views of every image in the best plan's last fit (2; 0 for joint plans)",
    )
    group.add_argument("--batch-size", type=int, default=50, metavar="N", help="images at a time")
    group.add_argument(
        "--precision",
        default="auto",
        choices=("auto", "float32", "bfloat16"),
        help="of forward passes while fitting; auto: bfloat16 where the processor has it",
    )
    group.add_argument(
        "--scratch", type=Path, metavar="DIR", help="folder for activations; else --out"
    )


def add_many(parser: argparse.ArgumentParser) -> None:
    """Who shares the work."""
    many = parser.add_argument_group(
        "many workers (the same command elsewhere joins, by --out or by --storage)"
    )
    many.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="processes, one thread each; 1: one process with all cores",
    )
    many.add_argument(
        "--storage", metavar="URL", help="postgresql://user@host/database; else a file in --out"
    )
    many.add_argument(
        "--study",
        metavar="NAME",
        help="name of the study in the storage; else made of model, chip and budget",
    )


def check_least(args: argparse.Namespace, least: dict[str, int]) -> None:
    """See that numbers are not too small.

    Raises:
        BudgetError: one is.
    """
    from trex.errors import BudgetError

    for name, value in least.items():
        given = getattr(args, name)
        if given is not None and given < value:
            raise BudgetError(
                f"--{name.replace('_', '-')} {given} is too small",
                hint=f"give at least {value}",
            )


def load_model(args: argparse.Namespace) -> LoadedModel:
    """The original with its weights.

    Raises:
        TrexError: it cannot be had.
    """
    from trex.models.registry import load

    return load(
        args.model,
        weights=args.weights,
        num_classes=args.num_classes,
        img_size=args.img_size,
        tokens=args.tokens,
    )


def precision_of(args: argparse.Namespace) -> Literal["float32", "bfloat16"]:
    """The precision that was asked for, settled for this machine."""
    from trex.reuse.precision import fastest_precision

    asked: Literal["float32", "bfloat16"] = (
        fastest_precision() if args.precision == "auto" else args.precision
    )
    return asked


def views_of(args: argparse.Namespace, config: InputConfig) -> int:
    """Augmented views of every image; there are none of texts."""
    from trex.training.transforms import DataConfig

    return int(args.final_views) if isinstance(config, DataConfig) else 0


def search_of(
    args: argparse.Namespace,
    problem: Problem,
    budget: Budget,
    evaluated: ImageSet | None,
    like: Search | None = None,
) -> tuple[Search, Any]:
    """The search of a problem, and how to measure bundles; everything is checked then.

    Args:
        args: the flags.
        problem: what is searched for.
        budget: its limits.
        evaluated: labelled images.
        like: a search that differs in its limits alone, whose passes are shared.

    Raises:
        TrexError: the run folder or the storage holds something else, or nothing can be priced.
    """
    from trex.models.registry import architecture_of
    from trex.reuse.sizes import parameter_table
    from trex.search.context import SearchContext, Sharing
    from trex.search.engine import Search
    from trex.search.feasible import PricedSpace
    from trex.store.run import Run

    loaded, device = problem.loaded, problem.device
    settings = _settings(problem, budget)
    densities = _densities.of_search(loaded, device, problem.images, args.out, settings)
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
            densities.planes if densities else None,
        )
    )
    manifest = _manifest(args, problem, settings, priced, densities)
    run_folder = Run(args.out)
    run_folder.check(settings)
    sharing = Sharing(
        workers=args.workers,
        storage=args.storage,
        study=args.study or f"{loaded.name} on {device.name}, {budget}",
    )
    scratch = args.scratch or args.out
    known = like.run if like else _run_like(getattr(args, "like", None), settings)
    context = SearchContext(
        problem,
        priced,
        run_folder,
        settings,
        sharing,
        scratch,
        like.context if like else None,
        known,
    )
    return Search(context, manifest), None if evaluated is None else _measurement(
        problem, evaluated
    )


def _run_like(folder: Path | None, settings: dict[str, Any]) -> Run | None:
    """A run whose probes and way of fitting are taken: neither depends on a chip or on limits.

    Raises:
        RunError: it is of another model, space, or of other images.
    """
    if folder is None:
        return None
    from trex.errors import RunError
    from trex.settings import difference
    from trex.store.run import Run

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


def carry_out(
    args: argparse.Namespace,
    prepare: Callable[[argparse.Namespace], tuple[Search, Any]],
    *,
    keep: bool = False,
) -> Summary:
    """Prepare a search and run it: what it tells, kept in its folder for later commands.

    Args:
        args: the flags.
        prepare: makes the search, and what measures bundles.
        keep: leave what it shares open.
    """
    import time

    from trex.models.registry import architecture_of
    from trex.search.outcome import outcome
    from trex.search.problem import taken
    from trex.store.operations import store_architecture
    from trex.store.run import SUMMARY

    started = time.monotonic()
    search, measure = prepare(args)
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


def _warn_if_far(result: Summary) -> None:
    """Say so on standard error where the best plan found is far from the original."""
    from trex.report.tables import FAR
    from trex.search.agreement import Agreement

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


def _measurement(problem: Problem, images: ImageSet) -> Any:
    def measure(bundle: Path) -> Evaluation:
        from trex.exporters.bundle import load_bundle
        from trex.training.measure import measure_pair

        return measure_pair(load_bundle(bundle), problem.loaded.model, images)

    return measure


def _settings(problem: Problem, budget: Budget) -> dict[str, Any]:
    """What a run must have been started with to be gone on with."""
    from dataclasses import asdict

    from trex.training.data import contents_fingerprint, dataset_fingerprint

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
        "densities": _densities.settings(problem.device),
    }


def _manifest(
    args: argparse.Namespace,
    problem: Problem,
    settings: dict[str, Any],
    priced: PricedSpace,
    densities: _densities.MeasuredDensities | None,
) -> Manifest:
    import re
    import sys
    from dataclasses import asdict

    from trex.settings import as_stored
    from trex.store.schemas import Densities, LayoutFields, Manifest, Settings
    from trex.training.data import dataset_fingerprint
    from trex.versions import versions

    loaded = problem.loaded
    size, feasible = _counts(problem, priced)
    return Manifest(
        settings=Settings.model_validate(settings),
        # a password in --storage is nobody's business who reads the run
        command=[
            "trex",
            *(re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:***@", a) for a in sys.argv[1:]),
        ],
        versions=versions(),
        weights_source=loaded.weights_source,
        calibration=_located(args.calib),
        calibration_images=len(problem.images),
        calibration_images_sha256=dataset_fingerprint(problem.images, labels=False),
        class_map=None if args.class_map is None else str(args.class_map.absolute()),
        layout=LayoutFields.model_validate(as_stored(asdict(loaded.adapter.layout(loaded.model)))),
        space_size=size,
        feasible=feasible,
        baseline=priced.baseline.estimate(0, problem.device, problem.accounting),
        densities=Densities(**densities.as_json()) if densities else None,
    )


def _located(source: str) -> str:
    """A data set's name that means the same from any folder."""
    return str(Path(source).absolute()) if Path(source).exists() else source


def _counts(problem: Problem, priced: PricedSpace) -> tuple[int, int | None]:
    """How many plans there are, and how many within the budget; None where they are too many.

    Raises:
        InfeasibleError: none is.
    """
    from trex.search.strategies import count_feasible

    if problem.plans:
        return len(problem.plans), len(problem.plans)
    feasible = count_feasible(priced)
    _logger.info(
        "%s plans, %s within the budget",
        f"{priced.space.size:,}",
        "more than can be listed" if feasible is None else f"{feasible:,}",
    )
    return priced.space.size, feasible
