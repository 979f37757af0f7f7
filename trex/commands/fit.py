"""`trex fit`: plans of the user's own, fitted, measured and kept as a run."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any, Final

from trex.commands import _arguments, _problem

if TYPE_CHECKING:
    from trex.plan import Plan
    from trex.search.engine import Search

#: of --refine
_ROUNDS: Final = 3
_LEAST: Final = {"final_views": 0, "batch_size": 1, "workers": 1}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    _arguments.add_model(parser)
    _arguments.add_data(parser)
    parser.add_argument(
        "--plan",
        action="append",
        required=True,
        metavar="PLAN",
        help='what is done: "5<-4 3~40 11=class"; repeatable, plans that begin alike share work',
    )
    parser.add_argument(
        "--transform",
        default="linear",
        choices=_arguments.TRANSFORMS_LEFT_OUT,
        help="transform of consumers for which a plan names none (linear)",
    )
    parser.add_argument(
        "--hw",
        default="trex_fefet_32nm",
        metavar="CHIP",
        help="the chip to price on: a shipped one, or a path (trex_fefet_32nm)",
    )
    parser.add_argument("--accounting", default="full", choices=_arguments.ACCOUNTINGS)
    _problem.add_data(parser)
    work = parser.add_argument_group("work")
    work.add_argument(
        "--refine",
        action="store_true",
        help="refine the best plan's fit against the original's output; takes minutes",
    )
    _problem.add_work(work)
    _problem.add_many(parser)
    _arguments.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Fit, measure, print the table."""
    result = _problem.carry_out(args, prepare)
    if args.json:
        from trex.search.outcome import fit_answer

        print(json.dumps(fit_answer(result)))
    else:
        from trex.report.tables import fit_table

        print("\n".join(fit_table(result)))
    return 0


def prepare(args: argparse.Namespace) -> tuple[Search, Any]:
    """Check everything a fit needs, before any work; also how to measure bundles.

    Raises:
        TrexError: anything the user gave is missing, malformed or does not fit.
    """
    from trex.fit.calibration import FitSettings
    from trex.fit.refine import RefineSettings
    from trex.hardware import load_chip
    from trex.models.registry import architecture
    from trex.search.budget import Budget
    from trex.search.problem import Problem, SearchSettings
    from trex.search.space import SearchSpace

    if args.final_views is None:
        args.final_views = 2
    _problem.check_least(args, _LEAST)
    plans = _plans(args)
    chip = load_chip(args.hw)
    _arguments.check_sources(args.calib, args.eval)
    model = architecture(
        args.model, num_classes=args.num_classes, img_size=args.img_size, tokens=args.tokens
    )
    for plan in plans:
        plan.validate(model.layout)
    loaded = _problem.load_model(args)
    config = _arguments.data_config(args, loaded.model)
    classes = getattr(loaded.model, "num_classes", None)
    precision = _problem.precision_of(args)
    problem = Problem(
        loaded=loaded,
        device=chip,
        accounting=args.accounting,
        space=SearchSpace.without_choice(plans, model),
        images=_arguments.open_calibration(args.calib, args, config, classes),
        data_config=config,
        settings=SearchSettings(
            seed=args.seed,
            strategy="given",
            evaluations=len(plans),
            final_views=_problem.views_of(args, config),
            fit=FitSettings(batch_size=args.batch_size, precision=precision),
            refine=RefineSettings(rounds=_ROUNDS if args.refine else 0, precision=precision),
        ),
        plans=plans,
    )
    evaluated = _arguments.open_labelled(args.eval, args, config, classes) if args.eval else None
    return _problem.search_of(args, problem, Budget(limits=()), evaluated)


def _plans(args: argparse.Namespace) -> tuple[Plan, ...]:
    """The plans that were given, each once.

    Raises:
        PlanError: one is malformed, or does nothing.
    """
    from trex.errors import PlanError
    from trex.plan import Plan

    plans = tuple(dict.fromkeys(Plan.parse(text, args.transform) for text in args.plan))
    if Plan() in plans:
        raise PlanError(
            "--plan names nothing that is done to the model",
            hint='write, for example, "5<-4 7<-6" or "3~40 11=class"',
        )
    return plans
