"""`trex fit`: plans of the user's own, fitted, measured and kept as a run."""

from __future__ import annotations

import argparse
import json

from trex.commands import _arguments, _problem


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
    from trex.api import fit
    from trex.api.plans import plans_of

    question = fit.Question(
        given=_problem.given_of(args),
        plans=plans_of(args.plan, args.transform),
        accounting=args.accounting,
        refine=args.refine,
    )
    result = fit.run(question)
    if args.json:
        from trex.search.outcome import fit_answer

        print(json.dumps(fit_answer(result)))
    else:
        from trex.report.tables import fit_table

        print("\n".join(fit_table(result)))
    return 0
