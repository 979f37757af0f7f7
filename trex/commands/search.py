"""`trex search`: find the plan that fits a budget and loses least."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from trex.commands import _arguments, _budgets, _devices, _problem, _rungs, _space

if TYPE_CHECKING:
    from trex.api.question import Question

# The same names as in trex.search.strategies, which is too heavy to import for `--help`.
STRATEGIES = ("exact", "optuna", "paper", "random")


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
    from trex.api import budgets, question
    from trex.report.tables import budgets_table, search_table

    many, asked = _budgets.many_of(args), question_of(args)
    if many.several:
        told = budgets.run(many, asked)
        print(json.dumps(told.as_json()) if args.json else "\n".join(budgets_table(told)))
    else:
        summary = question.run(asked)
        print(json.dumps(summary.as_json()) if args.json else "\n".join(search_table(summary)))
    return 0


def question_of(args: argparse.Namespace) -> Question:
    """What the flags ask."""
    from trex.api.question import Question
    from trex.search.budget import QUANTITIES

    return Question(
        given=_problem.given_of(args),
        limits={quantity: getattr(args, f"max_{quantity}") for quantity in QUANTITIES},
        accounting=args.accounting,
        force=args.force,
        space=_space.space_options(args),
        strategy=args.strategy,
        sampler=args.sampler,
        pareto=args.pareto,
        evaluations=args.evaluations,
        refine_rounds=args.refine_rounds,
        quick=args.quick,
        rungs=_rungs.rung_options(args),
    )
