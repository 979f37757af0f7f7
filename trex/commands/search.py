"""`trex search`: find the plan that fits a budget and loses least."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trex.commands import _arguments, _budgets, _devices, _problem, _rungs, _space

if TYPE_CHECKING:
    from trex.hardware import Chip, MeasuredDevice
    from trex.search.budget import Budget
    from trex.search.engine import Search
    from trex.search.space import SearchSpace

# The same names as in trex.search.strategies, which is too heavy to import for `--help`.
STRATEGIES = ("exact", "optuna", "paper", "random")

_LEAST = {
    "evaluations": 1,
    "refined_candidates": 0,
    "refine_rounds": 0,
    "final_views": 0,
    "batch_size": 1,
    "workers": 1,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    _arguments.add_model(parser)
    _arguments.add_data(parser)
    _devices.add_device(parser, "paper")
    _space.add_space(parser)
    budget = parser.add_argument_group("budget (all given limits must hold)")
    budget.add_argument(
        "--max-latency", metavar="LIMIT", help="limit on latency: 9ms, or 0.6x of the original"
    )
    budget.add_argument("--max-energy", metavar="LIMIT", help="limit on energy: 0.1mJ, or 0.8x")
    budget.add_argument("--max-area", metavar="LIMIT", help="limit on area: 600mm2, or 0.9x")
    budget.add_argument("--max-edap", metavar="LIMIT", help="limit on EDAP: 484mJ*ms*mm2, or 0.5x")
    budget.add_argument("--max-params", metavar="LIMIT", help="limit on parameters: 4M, or 0.9x")
    budget.add_argument(
        "--max-macs",
        metavar="LIMIT",
        help="limit on multiply-accumulates per image: 800M, or 0.9x",
    )
    budget.add_argument(
        "--pareto",
        action="store_true",
        help="spread the plans over all prices within the limits; without any, up to the original",
    )
    _budgets.add_many(budget)
    _problem.add_data(parser)
    work = parser.add_argument_group("work")
    work.add_argument(
        "--strategy",
        default="exact",
        choices=STRATEGIES,
        help="exact: least predicted loss; optuna: a sampler seeded with these; paper: the TReX "
        "paper's uniform patterns, of which the least loss wins; random",
    )
    work.add_argument(
        "--sampler", default="tpe", choices=("tpe", "nsga2"), help="sampler of --strategy optuna"
    )
    work.add_argument(
        "--evaluations",
        type=int,
        metavar="N",
        help="plans measured (24; 32 where plans only reuse; 12 with --quick)",
    )
    work.add_argument(
        "--refine-rounds",
        type=int,
        metavar="N",
        help="rounds of the best plan's refinement (0; where plans only reuse 3, 1 with --quick)",
    )
    work.add_argument(
        "--quick", action="store_true", help="a first answer: fewer images and plans, less refined"
    )
    _problem.add_work(work)
    work.add_argument(
        "--like",
        type=Path,
        metavar="RUN",
        help="another run of this model, space and images, whose probes are taken",
    )
    _rungs.add_rungs(parser)
    _problem.add_many(parser)
    _arguments.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Search, measure the winner, print the table."""
    if _budgets.several(args):
        return _several(args)
    result = _problem.carry_out(args, prepare)
    if args.json:
        print(json.dumps(result.as_json()))
    else:
        from trex.report.tables import search_table

        print("\n".join(search_table(result)))
    return 0


def _several(args: argparse.Namespace) -> int:
    """Several searches, and a table of them."""
    _budgets.check(args)
    budgets = _budgets.run(args, prepare)
    if args.json:
        print(json.dumps(budgets.as_json()))
    else:
        from trex.report.tables import budgets_table

        print("\n".join(budgets_table(budgets)))
    return 0


def prepare(args: argparse.Namespace, like: Search | None = None) -> tuple[Search, Any]:
    """Check everything a search needs, before any work; also how to measure bundles.

    Args:
        args: the flags.
        like: a search that differs in its limits alone, whose passes are shared.

    Raises:
        TrexError: anything the user gave is missing, malformed or does not fit.
    """
    from trex.fit.calibration import FitSettings
    from trex.fit.refine import RefineSettings
    from trex.models.registry import architecture_of
    from trex.search.problem import Problem, SearchSettings

    _problem.check_least(args, _LEAST)
    device = _devices.device_of(args) if like is None else like.problem.device
    budget = _budget(args, device)
    accounting = _devices.accounting_of(args, device, "paper")
    _arguments.check_sources(args.calib, args.eval)
    loaded = _problem.load_model(args) if like is None else like.problem.loaded
    model = architecture_of(loaded.model, loaded.name)
    space = _space.load_space(args, model)
    effort = _effort(args, space)
    config = _arguments.data_config(args, loaded.model)
    classes = getattr(loaded.model, "num_classes", None)
    images = _arguments.open_calibration(args.calib, args, config, classes)
    precision = _problem.precision_of(args)
    problem = Problem(
        loaded=loaded,
        device=device,
        accounting=accounting,
        space=space,
        images=images,
        data_config=config,
        settings=SearchSettings(
            seed=args.seed,
            strategy=args.strategy,
            pareto=args.pareto,
            sampler=args.sampler,
            refined_candidates=args.refined_candidates,
            final_views=_problem.views_of(args, config),
            **effort,
            fit=FitSettings(batch_size=args.batch_size, precision=precision),
            refine=RefineSettings(rounds=args.refine_rounds, precision=precision),
            finetuning=_rungs.finetuning_of(args, images),
        ),
    )
    evaluated = _arguments.open_labelled(args.eval, args, config, classes) if args.eval else None
    return _problem.search_of(args, problem, budget, evaluated, like)


def _effort(args: argparse.Namespace, space: SearchSpace) -> dict[str, Any]:
    """How many plans are measured, and on what, where the flags do not say it."""
    if args.evaluations is None:
        args.evaluations = 12 if args.quick else 24 if space.joint else 32
    if args.final_views is None:
        args.final_views = 0 if space.joint or args.quick else 2
    if args.refine_rounds is None:
        args.refine_rounds = 0 if space.joint else 1 if args.quick else 3
    effort: dict[str, Any] = {"evaluations": args.evaluations}
    if args.quick:
        effort |= {"surrogate_images": 120, "choice_images": 80}
    if space.joint and args.strategy == "exact":
        effort = {"surrogate_images": 240, "choice_images": 160, **effort}
        effort |= {"confirmed": min(4, args.evaluations), "fresh_share": 0.2}
        if not args.pareto:
            effort["moves"] = args.evaluations - max(1, args.evaluations // 3)
    return effort


def _budget(args: argparse.Namespace, device: Chip | MeasuredDevice) -> Budget:
    """The limits that were given.

    Raises:
        BudgetError: none was, one is malformed, or of what nobody measured on the device.
    """
    from trex.hardware import MeasuredDevice
    from trex.search.budget import QUANTITIES, Budget

    limits = {quantity: getattr(args, f"max_{quantity}") for quantity in QUANTITIES}
    if args.pareto and not any(limits.values()):
        limits["latency" if isinstance(device, MeasuredDevice) else "edap"] = "1x"
    budget = Budget.parse(limits)
    if isinstance(device, MeasuredDevice):
        device.refuse([limit.quantity for limit in budget.limits])
    return budget
