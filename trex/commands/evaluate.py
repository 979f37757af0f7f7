"""`trex evaluate`: measure a found variant against its original."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trex.commands import _arguments

if TYPE_CHECKING:
    from torch import nn

    from trex.search.run import Run
    from trex.training.data import ImageSet
    from trex.training.transforms import InputConfig

    Measurement = Callable[[nn.Module, nn.Module, ImageSet], dict[str, Any]]

_logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("run_folder", type=Path, metavar="DIR", help="what `trex search` wrote")
    parser.add_argument(
        "--pick",
        default="best",
        metavar="best|finetuned|knee|N|PLAN",
        help="the winner, the same after the search's short training, where the front bends most, "
        'the best measured plan of N consumers, or a plan: "5<-4 7<-6"',
    )
    parser.add_argument("--data", required=True, metavar="DATASET", help="labelled images")
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="the original's, where they have moved"
    )
    noise = parser.add_argument_group("on a chip that errs")
    noise.add_argument("--non-ideal", action="store_true", help="also with the chip's errors")
    noise.add_argument("--hw", metavar="CHIP", help="which; else the run's")
    noise.add_argument("--draws", type=int, default=5, metavar="N", help="chip instances (5)")
    noise.add_argument("--mode", default="fast", choices=("fast", "exact"),
                       help="exact computes bit by bit, and slowly")  # fmt: skip
    noise.add_argument(
        "--calib", metavar="DATASET", help="images that set the ranges; else the run's"
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
    _arguments.check_sources(args.data, args.calib)
    original, config = load_original(folder, args.weights)
    images = _arguments.open_labelled(
        args.data, args, config, getattr(original.model, "num_classes", None)
    )
    plan, variant = pick_variant(folder, args.pick, original)
    noisy = _non_ideal(args, folder, config) if args.non_ideal else None
    measured = measure_pair(variant, original.model, images)
    if noisy is not None:
        measured["non_ideal"] = noisy(variant, original.model, images)
    _keep(folder, args.pick, plan, measured)
    if args.json:
        print(json.dumps({"run": str(folder.path), "plan": plan, **measured}))
    else:
        print("\n".join(evaluation_lines(plan, measured)))
    return 0


def _keep(folder: Run, pick: str, plan: str, measured: dict[str, Any]) -> None:
    """Write the measurement into the run, for its report; a run may be read-only."""
    from trex.errors import StorageError
    from trex.report.evaluations import store_evaluation

    try:
        kept = pick if pick in ("best", "finetuned") else plan
        store_evaluation(folder, kept, plan, measured)
    except StorageError as error:
        _logger.warning("not kept in the run: %s", error.message)


def _non_ideal(args: argparse.Namespace, folder: Run, config: InputConfig) -> Measurement:
    """Check everything the noisy measurement needs; returns how to make it."""
    from trex.errors import ChipError
    from trex.hardware import load_chip
    from trex.training.data import open_dataset
    from trex.training.measure import measure_non_ideal
    from trex.training.transforms import eval_transform

    if args.draws < 1:
        raise ChipError(f"--draws {args.draws} is too few", hint="give at least 1")
    manifest = folder.manifest()
    chip = load_chip(args.hw or manifest["settings"]["chip"])
    ranges = open_dataset(
        args.calib or manifest["calibration"], transform=eval_transform(config), labels=False
    )

    def measure(variant: nn.Module, original: nn.Module, images: ImageSet) -> dict[str, Any]:
        return measure_non_ideal(
            variant, original, images, chip, ranges, draws=args.draws, mode=args.mode
        )

    return measure
