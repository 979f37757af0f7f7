"""`trex runs`: list, show, compare and prune run folders."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from trex.commands import _arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's actions and their flags."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listed = actions.add_parser("list", help="the runs in a folder")
    listed.add_argument("folder", nargs="?", type=Path, default=Path("runs"), metavar="FOLDER")
    shown = actions.add_parser("show", help="one run's question and answer")
    shown.add_argument("run_folder", type=Path, metavar="RUN")
    compared = actions.add_parser("diff", help="what two runs were asked and found differently")
    compared.add_argument("before", type=Path, metavar="RUN")
    compared.add_argument("after", type=Path, metavar="RUN")
    pruned = actions.add_parser(
        "prune", help="drop the fitted parameters of plans off the front; records stay"
    )
    pruned.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    pruned.add_argument("--yes", action="store_true", help="remove them; else only list them")
    for action in (listed, shown, compared, pruned):
        _arguments.add_json(action)


def run(args: argparse.Namespace) -> int:
    """Do what was asked, and print it."""
    from trex.report import folders

    if args.action == "list":
        found = folders.list_runs(args.folder)
        result: dict[str, object] = {"runs": list(map(asdict, found))}
        lines = folders.list_table(found)
    elif args.action == "show":
        shown = folders.show_run(args.run_folder)
        result, lines = shown.as_json(), folders.show_lines(shown)
    elif args.action == "diff":
        compared = folders.diff_runs(args.before, args.after)
        result, lines = compared._asdict(), folders.diff_table(compared)
    else:
        pruned = [folders.prune_run(path, delete=args.yes) for path in args.runs]
        result, lines = (
            {"deleted": args.yes, "runs": [of._asdict() for of in pruned]},
            folders.prune_lines(pruned, args.yes),
        )
    print(json.dumps(result) if args.json else "\n".join(lines))
    return 0
