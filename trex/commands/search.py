"""`trex search`: find the plan that fits a budget and loses least."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trex.commands import _arguments, _densities, _rungs, _space

if TYPE_CHECKING:
    from trex.search.engine import Search
    from trex.search.feasible import PricedSpace
    from trex.search.problem import Problem

_logger = logging.getLogger(__name__)

# The same names as in trex.search.strategies, which is too heavy to import for `--help`.
STRATEGIES = ("exact", "optuna", "paper", "random")

_LEAST = {
    "evaluations": 1,
    "refined_candidates": 0,
    "final_views": 0,
    "batch_size": 1,
    "workers": 1,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    _arguments.add_model(parser)
    _arguments.add_data(parser)
    parser.add_argument("--hw", required=True, metavar="CHIP", help="a shipped chip, or a path")
    parser.add_argument("--accounting", default="paper", choices=_arguments.ACCOUNTINGS)
    _space.add_space(parser)
    budget = parser.add_argument_group("budget (all given limits must hold)")
    budget.add_argument("--max-latency", metavar="LIMIT", help="9ms, or 0.6x of the original")
    budget.add_argument("--max-energy", metavar="LIMIT", help="0.1mJ, or 0.8x")
    budget.add_argument("--max-area", metavar="LIMIT", help="600mm2, or 0.9x")
    budget.add_argument("--max-edap", metavar="LIMIT", help="484mJ*ms*mm2, or 0.5x")
    budget.add_argument("--max-params", metavar="LIMIT", help="parameters: 4M, or 0.9x")
    budget.add_argument(
        "--max-macs", metavar="LIMIT", help="multiply-accumulates an image: 800M, or 0.9x"
    )
    budget.add_argument(
        "--pareto",
        action="store_true",
        help="spread the plans over all prices within the limits; without any, up to the original",
    )
    parser.add_argument("--calib", required=True, metavar="DATASET", help="images to fit with")
    parser.add_argument("--eval", metavar="DATASET", help="labelled images to measure on")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="the run folder")
    parser.add_argument("--seed", type=int, default=0)
    work = parser.add_argument_group("work")
    work.add_argument(
        "--strategy",
        default="exact",
        choices=STRATEGIES,
        help="exact: least predicted loss; optuna: a sampler seeded with these; paper: the TReX "
        "paper's uniform patterns, of which the least loss wins; random",
    )
    work.add_argument(
        "--sampler", default="tpe", choices=("tpe", "nsga2"), help="of --strategy optuna"
    )
    work.add_argument("--evaluations", type=int, default=32, metavar="N", help="plans measured")
    work.add_argument(
        "--final-views",
        type=int,
        default=2,
        metavar="N",
        help="augmented views of every image in the winner's last fit",
    )
    work.add_argument("--batch-size", type=int, default=50, metavar="N", help="images at a time")
    work.add_argument(
        "--precision",
        default="auto",
        choices=("auto", "float32", "bfloat16"),
        help="of forwards while searching; auto: bfloat16 where the processor has it",
    )
    work.add_argument("--scratch", type=Path, metavar="DIR", help="for activations; else --out")
    _rungs.add_rungs(parser)
    many = parser.add_argument_group(
        "many workers (the same command elsewhere joins, by --out or by --storage)"
    )
    many.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="processes, one thread each; 1 uses all cores for one",
    )
    many.add_argument(
        "--storage", metavar="URL", help="postgresql://user@host/database; else a file in --out"
    )
    many.add_argument("--study", metavar="NAME", help="in the storage; else model, chip, budget")
    _arguments.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Search, measure the winner, print the table."""
    import time

    started = time.monotonic()
    search, measured = prepare(args)
    best = search.execute()
    from trex.models.registry import architecture_of
    from trex.report.operations import store_architecture
    from trex.search.outcome import outcome

    loaded = search.problem.loaded
    store_architecture(search.run, architecture_of(loaded.model, loaded.name))
    result = outcome(search, best, measured)
    result["seconds"] = round(time.monotonic() - started, 1)
    search.run.write_json("summary.json", result)
    if args.json:
        print(json.dumps(result))
    else:
        from trex.report.tables import search_table

        print("\n".join(search_table(result)))
    return 0


def prepare(args: argparse.Namespace) -> tuple[Search, Any]:
    """Check everything a search needs, before any work; also how to measure bundles.

    Raises:
        TrexError: anything the user gave is missing, malformed or does not fit.
    """
    from trex.errors import BudgetError
    from trex.hardware import load_chip
    from trex.models.registry import architecture_of, load
    from trex.reuse.fit import FitSettings
    from trex.reuse.precision import fastest_precision
    from trex.reuse.refine import RefineSettings
    from trex.reuse.sizes import parameter_table
    from trex.search.budget import QUANTITIES, Budget
    from trex.search.engine import Search
    from trex.search.feasible import PricedSpace
    from trex.search.problem import Problem, SearchSettings
    from trex.search.run import Run
    from trex.search.space import SearchSpace
    from trex.search.workshop import Sharing, Workshop
    from trex.training.transforms import DataConfig

    for name, least in _LEAST.items():
        if getattr(args, name) < least:
            raise BudgetError(
                f"--{name.replace('_', '-')} {getattr(args, name)} is too small",
                hint=f"give at least {least}",
            )
    limits = {q: getattr(args, f"max_{q}") for q in QUANTITIES}
    if args.pareto and not any(limits.values()):
        limits["edap"] = "1x"
    budget = Budget.parse(limits)
    chip = load_chip(args.hw)
    _arguments.check_sources(args.calib, args.eval)
    loaded = load(
        args.model,
        weights=args.weights,
        num_classes=args.num_classes,
        img_size=args.img_size,
        tokens=args.tokens,
    )
    model = architecture_of(loaded.model, loaded.name)
    space = SearchSpace.load(args.space, model, _space.space_overrides(args))
    config = _arguments.data_config(args, loaded.model)
    classes = getattr(loaded.model, "num_classes", None)
    images = _arguments.open_calibration(args.calib, args, config, classes)
    precision = fastest_precision() if args.precision == "auto" else args.precision
    problem = Problem(
        loaded=loaded,
        chip=chip,
        accounting=args.accounting,
        space=space,
        images=images,
        data_config=config,
        settings=SearchSettings(
            seed=args.seed,
            strategy=args.strategy,
            pareto=args.pareto,
            sampler=args.sampler,
            evaluations=args.evaluations,
            refined_candidates=args.refined_candidates,
            # there are no views of texts
            final_views=args.final_views if isinstance(config, DataConfig) else 0,
            fit=FitSettings(batch_size=args.batch_size, precision=precision),
            refine=RefineSettings(precision=precision),
            finetuning=_rungs.finetuning_of(args, images),
        ),
    )
    measured = None
    if args.eval:
        evaluated = _arguments.open_labelled(args.eval, args, config, classes)
        measured = _measurement(problem, evaluated)
    settings = _settings(problem, budget)
    densities = _densities.of_search(loaded, chip, images, args.out, settings)
    planes = densities.planes if densities else None
    parameters = parameter_table(loaded.model, space.forms)
    priced = PricedSpace.of(model, chip, args.accounting, space, budget, parameters, planes)
    manifest = _manifest(args, problem, settings, priced)
    manifest["densities"] = densities.as_json() if densities else None
    run_folder = Run(args.out)
    run_folder.check(settings)
    sharing = Sharing(
        workers=args.workers,
        storage=args.storage,
        study=args.study or f"{loaded.name} on {chip.name}, {budget}",
    )
    scratch = args.scratch or args.out
    shop = Workshop(problem, priced, run_folder, settings, sharing, scratch)
    return Search(shop, manifest), measured


def _measurement(problem: Problem, images: Any) -> Any:
    def measure(bundle: Path) -> dict[str, Any]:
        from trex.export.bundle import load_bundle
        from trex.training.measure import measure_pair

        return measure_pair(load_bundle(bundle), problem.loaded.model, images)

    return measure


def _settings(problem: Problem, budget: Any) -> dict[str, Any]:
    """What a run must have been started with to be gone on with."""
    from dataclasses import asdict

    from trex.training.data import dataset_fingerprint

    loaded = problem.loaded
    return {
        "model": loaded.name,
        "model_args": loaded.arguments,
        "weights_sha256": loaded.weights_sha256,
        "chip": problem.chip.name,
        "chip_sha256": problem.chip.fingerprint,
        "accounting": problem.accounting,
        "space": asdict(problem.space),
        "budget": str(budget),
        "calibration_sha256": dataset_fingerprint(problem.images),
        "data": asdict(problem.data_config),
        "search": asdict(problem.settings),
        "densities": _densities.settings(problem.chip),
    }


def _manifest(
    args: argparse.Namespace,
    problem: Problem,
    settings: dict[str, Any],
    priced: PricedSpace,
) -> dict[str, Any]:
    import sys

    from trex.report.versions import versions
    from trex.search.strategies import count_feasible
    from trex.training.data import dataset_fingerprint

    feasible = count_feasible(priced)
    _logger.info(
        "%s plans, %s within the budget",
        f"{priced.space.size:,}",
        "more than can be listed" if feasible is None else f"{feasible:,}",
    )
    return {
        "settings": settings,
        "command": ["trex", *sys.argv[1:]],
        "versions": versions(),
        "weights_source": problem.loaded.weights_source,
        "calibration": args.calib,
        "calibration_images": len(problem.images),
        "calibration_images_sha256": dataset_fingerprint(problem.images, labels=False),
        "class_map": None if args.class_map is None else str(args.class_map),
        "space_size": priced.space.size,
        "feasible": feasible,
        "baseline": priced.baseline.estimate(0, problem.chip, problem.accounting),
    }
