"""`trex evaluate`: measure a found variant against its original."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from trex.commands import _arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument(
        "folder",
        type=Path,
        metavar="DIR",
        help="a run folder, or a bundle (for example of a fine-tuning)",
    )
    parser.add_argument(
        "--pick",
        default="best",
        metavar="best|finetuned|knee|N|PLAN",
        help="the best plan found, the same after the search's short training, where the front "
        'bends most, the best measured plan of N consumers, or a plan: "5<-4 3~40"',
    )
    parser.add_argument(
        "--data", required=True, metavar="DATASET", help="labelled images to measure on"
    )
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="the original's weights, if they have moved or a bundle's are not timm's",
    )
    _arguments.add_factory(parser)
    noise = parser.add_argument_group("with a chip's errors")
    noise.add_argument(
        "--non-ideal", action="store_true", help="measure with the chip's errors too"
    )
    noise.add_argument("--hw", metavar="CHIP", help="the chip; else the run's or the bundle's")
    noise.add_argument("--draws", type=int, default=5, metavar="N", help="chip instances (5)")
    noise.add_argument("--mode", default="fast", choices=("fast", "exact"),
                       help="exact simulates bit by bit, slowly")  # fmt: skip
    noise.add_argument(
        "--calib", metavar="DATASET", help="images that set the converters' ranges; else the run's"
    )
    _arguments.add_data(parser)
    _arguments.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    from trex.api import evaluate
    from trex.api.factories import object_again
    from trex.report.tables import evaluation_lines

    answer = evaluate.run(
        evaluate.Question(
            source=args.folder,
            data=args.data,
            pick=args.pick,
            model=object_again(args.model, args.folder, args.weights),
            weights=args.weights,
            reading=_arguments.data_options(args),
            noise=evaluate.Noise(
                chip=args.hw, draws=args.draws, mode=args.mode, calibration=args.calib
            )
            if args.non_ideal
            else None,
        )
    )
    if args.json:
        told = {"run": str(args.folder), "plan": answer.plan, **answer.measured.as_json()}
        print(json.dumps(told))
    else:
        print("\n".join(evaluation_lines(answer.plan, answer.measured)))
    return 0
