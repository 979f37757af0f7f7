"""`trex finetune`: win back what a found variant lost."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from trex.commands import _arguments, _training


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument(
        "run_folder",
        type=Path,
        metavar="DIR",
        help="what `trex search` or `trex fit` wrote; with --dynamic, what `trex dynamic` wrote",
    )
    parser.add_argument(
        "--pick",
        default="best",
        metavar="best|knee|N|PLAN",
        help="the best plan found, where the front bends most, the best measured plan of N "
        'consumers, or a plan: "5<-4 3~40"',
    )
    parser.add_argument("--data", required=True, metavar="DATASET", help="images to train on")
    parser.add_argument("--extra", metavar="DATASET", help="more images, without labels")
    parser.add_argument(
        "--labels",
        choices=("none", "hard", "token"),
        help="none: distil without labels; else the labels that the recipe's losses read",
    )
    parser.add_argument(
        "--recipe", default="few_images", metavar="NAME|FILE", help="a shipped recipe, or a path"
    )
    _arguments.add_set(parser, "the recipe", _training.SET_EXAMPLE)
    parser.add_argument(
        "--non-ideal", metavar="CHIP", help="train and measure with this chip's errors"
    )
    parser.add_argument("--eval", metavar="DATASET", help="labelled images to measure on")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="a new folder")
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="the original's weights, if they have moved"
    )
    together = parser.add_argument_group("of a dynamic bundle")
    together.add_argument(
        "--dynamic", action="store_true", help="train all plans of a dynamic bundle together"
    )
    together.add_argument(
        "--between",
        type=int,
        default=1,
        metavar="N",
        help="plans that a step trains besides the cheapest and the most expensive (1)",
    )
    together.add_argument(
        "--twins", action="store_true", help="also train every plan alone, to compare"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N", help="processes that load images"
    )
    parser.add_argument("--device", help="cpu, cuda, ...; else the accelerator if there is one")
    _arguments.add_data(parser)
    _arguments.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Train, measure, print."""
    from trex.api import finetune
    from trex.report.tables import evaluation_lines

    if args.dynamic:
        from trex.commands import _shared_training

        return _shared_training.run(args)
    question = finetune.Question(
        run=args.run_folder,
        training=_training.training_data(args),
        out=args.out,
        pick=args.pick,
        weights=args.weights,
        chip=args.non_ideal,
        seed=args.seed,
        workers=args.workers,
        device=args.device,
    )
    tuned = finetune.run(question)
    if tuned is None:
        return 0
    records = tuned.stages
    if args.json:
        print(json.dumps({"out": str(args.out), "records": [r.as_json() for r in records]}))
        return 0
    for record in records:
        print(f"{record.stage}: {record.plan or 'no reuse'}")
        noisy = f"with the errors of {record.non_ideal_chip}, "
        for on, measured in (("", record.evaluation), (noisy, record.non_ideal_evaluation)):
            if measured is not None:
                print(on + "\n".join(evaluation_lines(record.plan, measured)) + "\n")
    if (training := records[-1].training) is not None:
        print(f"kept after {training.steps} steps: {training.in_words}")
    print(f"bundle: {tuned.bundle}")
    return 0
