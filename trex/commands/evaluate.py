"""`trex evaluate`: measure a found variant against its original."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from trex.commands import _arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("run_folder", type=Path, metavar="DIR", help="what `trex search` wrote")
    parser.add_argument(
        "--pick", default="best", metavar="best|PLAN", help='the winner, or a plan: "5<-4 7<-6"'
    )
    parser.add_argument("--data", required=True, metavar="DATASET", help="labelled images")
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="the original's, where they have moved"
    )
    _arguments.add_data(parser)
    _arguments.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    from trex.report.tables import evaluation_lines
    from trex.search.pick import load_original, pick_variant
    from trex.search.run import Run
    from trex.training.measure import measure_pair

    folder = Run.open(args.run_folder)
    original, config = load_original(folder, args.weights)
    images = _arguments.open_labelled(
        args.data, args, config, getattr(original.model, "num_classes", None)
    )
    plan, variant = pick_variant(folder, args.pick, original)
    measured = measure_pair(variant, original.model, images)
    if args.json:
        print(json.dumps({"run": str(folder.path), "plan": plan, **measured}))
    else:
        print("\n".join(evaluation_lines(plan, measured)))
    return 0
