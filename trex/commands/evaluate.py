"""`trex evaluate`: measure a found variant against its original."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trex.commands import _arguments

if TYPE_CHECKING:
    from torch import nn

    from trex.models.registry import LoadedModel
    from trex.store.run import Run
    from trex.store.schemas import Evaluation, NonIdeal
    from trex.training.data import ImageSet
    from trex.training.transforms import InputConfig

    Measurement = Callable[[nn.Module, nn.Module, ImageSet], NonIdeal]

_logger = logging.getLogger(__name__)


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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Measured:
    """What is measured: a variant, its original and where they come from.

    Attributes:
        chip: that it was chosen for, if any.
        calib: what it was fitted on; a bundle does not say.
        run: that keeps the measurement; a bundle keeps none.
    """

    plan: str
    variant: nn.Module
    original: LoadedModel
    config: InputConfig
    chip: str | None
    calib: str | None
    run: Run | None


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    from trex.errors import BundleError
    from trex.exporters.bundle import CONFIG
    from trex.report.tables import evaluation_lines
    from trex.runtime.bundle import is_dynamic
    from trex.training.measure import measure_pair

    if is_dynamic(args.folder):
        raise BundleError(
            f"{args.folder} is a dynamic bundle, of several plans",
            hint=f"measure all of them: trex dynamic {args.folder} --data {args.data}",
        )
    _arguments.check_sources(args.data, args.calib)
    of = (_of_bundle if (args.folder / CONFIG).is_file() else _of_run)(args)
    images = _arguments.open_labelled(
        args.data, args, of.config, getattr(of.original.model, "num_classes", None)
    )
    noisy = _non_ideal(args, of) if args.non_ideal else None
    measured = measure_pair(of.variant, of.original.model, images)
    if noisy is not None:
        seen = noisy(of.variant, of.original.model, images)
        measured = measured.model_copy(update={"non_ideal": seen})
    if of.run is not None:
        _keep(of.run, args.pick, of.plan, measured)
    if args.json:
        print(json.dumps({"run": str(args.folder), "plan": of.plan, **measured.as_json()}))
    else:
        print("\n".join(evaluation_lines(of.plan, measured)))
    return 0


def _of_run(args: argparse.Namespace) -> _Measured:
    from trex.search.pick import load_original, pick_variant
    from trex.store.run import Run

    folder = Run.open(args.folder)
    original, config = load_original(folder, args.weights)
    plan, variant = pick_variant(folder, args.pick, original)
    manifest = folder.manifest()
    return _Measured(
        plan=plan, variant=variant, original=original, config=config,
        chip=manifest.settings.chip, calib=manifest.calibration, run=folder,
    )  # fmt: skip


def _of_bundle(args: argparse.Namespace) -> _Measured:
    from trex.errors import BundleError
    from trex.exporters.bundle import load_bundle, load_config
    from trex.search.pick import load_original_of_bundle

    if args.pick != "best":
        raise BundleError(f"{args.folder} is a bundle, of one variant", hint="leave --pick out")
    stored = load_config(args.folder)
    original, config = load_original_of_bundle(args.folder, args.weights)
    return _Measured(
        plan=stored["plan"], variant=load_bundle(args.folder), original=original, config=config,
        chip=stored.get("estimate", {}).get("chip"), calib=None, run=None,
    )  # fmt: skip


def _keep(folder: Run, pick: str, plan: str, measured: Evaluation) -> None:
    """Write the measurement into the run, for its report; a run may be read-only."""
    from trex.errors import StorageError
    from trex.store.evaluations import store_evaluation

    try:
        kept = pick if pick in ("best", "finetuned") else plan
        store_evaluation(folder, kept, plan, measured)
    except StorageError as error:
        _logger.warning("not kept in the run: %s", error.message)


def _non_ideal(args: argparse.Namespace, of: _Measured) -> Measurement:
    """Check everything the noisy measurement needs; returns how to make it."""
    from trex.errors import ChipError
    from trex.hardware import load_chip
    from trex.training.data import open_dataset
    from trex.training.measure import measure_non_ideal
    from trex.training.transforms import eval_transform

    if args.draws < 1:
        raise ChipError(f"--draws {args.draws} is too few", hint="give at least 1")
    name, source = args.hw or of.chip, args.calib or of.calib
    if name is None:
        raise ChipError(f"{args.folder} names no chip", hint="give one with --hw")
    if source is None:
        raise ChipError(
            f"{args.folder} names no images that could set the ranges of inputs and converters",
            hint="give those it was fitted on with --calib",
        )
    chip = load_chip(name)
    ranges = open_dataset(source, transform=eval_transform(of.config), labels=False)

    def measure(variant: nn.Module, original: nn.Module, images: ImageSet) -> NonIdeal:
        return measure_non_ideal(
            variant, original, images, chip, ranges, draws=args.draws, mode=args.mode
        )

    return measure
