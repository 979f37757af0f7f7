"""Measuring a variant against its original, on the same labelled images."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from trex.api.data import Data, DataOptions, check_sources, open_labelled, open_unlabelled
from trex.api.models import classes_of
from trex.api.runs import RunGiven, config_of, folder_of, object_of, original_of
from trex.errors import BundleError, ChipError, StorageError
from trex.exporters.bundle import CONFIG, load_bundle, load_config
from trex.hardware import load_chip
from trex.models.registry import LoadedModel
from trex.noise import Mode
from trex.progress import Callback, told_to
from trex.runtime.bundle import is_dynamic
from trex.search.pick import load_original_of_bundle, pick_variant
from trex.store.evaluations import store_evaluation
from trex.store.run import Run
from trex.store.schemas import Evaluation, NonIdeal
from trex.training.data import ImageSet
from trex.training.measure import measure_non_ideal, measure_pair
from trex.training.transforms import InputConfig

_logger = logging.getLogger(__name__)

_Measurement = Callable[[nn.Module, nn.Module, ImageSet], NonIdeal]


@dataclass(frozen=True, kw_only=True, slots=True)
class Noise:
    """On a chip that errs.

    Attributes:
        chip: which; None takes the run's or the bundle's.
        draws: chip instances.
        mode: `exact` computes bit by bit, and slowly.
        calibration: images that set the ranges; None takes the run's.
    """

    chip: str | Path | None = None
    draws: int = 5
    mode: Mode = "fast"
    calibration: Data | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What is to be measured, and on what.

    Attributes:
        source: a run or a bundle.
        data: labelled.
        pick: which plan of a run.
        model: the object that a run was made with.
        weights: the original's, where they have moved; of a bundle, where they are not timm's.
        reading: of the data.
        noise: measure on a chip that errs too.
    """

    source: RunGiven
    data: Data
    pick: str = "best"
    model: nn.Module | None = None
    weights: str | Path | None = None
    reading: DataOptions = field(default_factory=DataOptions)
    noise: Noise | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """What is measured: a variant, its original and where they come from.

    Attributes:
        chip: that it was chosen for, if any.
        calibration: what it was fitted on; a bundle does not say.
        run: that keeps the measurement; a bundle keeps none.
    """

    plan: str
    variant: nn.Module
    original: LoadedModel
    config: InputConfig
    chip: str | None
    calibration: str | None
    run: Run | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A plan in text, and what was measured of it."""

    plan: str
    measured: Evaluation


def run(question: Question) -> Answer:
    """Measure; a run keeps what was measured, for its report.

    Raises:
        TrexError: anything the caller gave is missing, malformed or does not fit.
    """
    folder = folder_of(question.source)
    if is_dynamic(folder):
        shown = question.data if isinstance(question.data, str | Path) else "DATASET"
        raise BundleError(
            f"{folder} is a dynamic bundle, of several plans",
            hint=f"measure all of them: trex dynamic {folder} --data {shown}",
        )
    noise = question.noise
    check_sources(question.data, noise.calibration if noise else None)
    of = (_of_bundle if (folder / CONFIG).is_file() else _of_run)(question, folder)
    images = open_labelled(
        question.data, of.config, classes_of(of.original.model), question.reading
    )
    noisy = None if noise is None else _non_ideal(noise, of, folder)
    measured = measure_pair(of.variant, of.original.model, images)
    if noisy is not None:
        seen = noisy(of.variant, of.original.model, images)
        measured = measured.model_copy(update={"non_ideal": seen})
    if of.run is not None:
        _keep(of.run, question.pick, of.plan, measured)
    return Answer(plan=of.plan, measured=measured)


def evaluate(
    run_or_bundle: RunGiven,
    data: Data,
    *,
    pick: str = "best",
    model: nn.Module | None = None,
    weights: str | Path | None = None,
    class_map: str | Path | None = None,
    strict: bool = False,
    non_ideal: bool = False,
    chip: str | Path | None = None,
    draws: int = 5,
    mode: Mode = "fast",
    calibration: Data | None = None,
    progress: Callback | None = None,
) -> Evaluation:
    """Measure a variant and its original on the same labelled images.

    Args:
        run_or_bundle: a result, a run folder, or a bundle's.
        data: labelled, as in `trex.search`.
        pick: of a run: `best`, `finetuned`, `knee`, a number of consumers, or a measured plan.
        model: the model object that a run was made with, where no name builds it.
        weights: the original's, where it has moved; of a bundle, where it is not timm's.
        class_map: a file of class folders in the head's order.
        strict: make an unreadable image an error.
        non_ideal: measure on a chip that errs, too.
        chip: which; None takes the run's or the bundle's.
        draws: instances of that chip.
        mode: `exact` computes bit by bit, and slowly.
        calibration: images that set the ranges of its converters; None takes the run's.
        progress: called with every step forward.

    Raises:
        TrexError: anything given is missing, malformed or does not fit.
    """
    question = Question(
        source=run_or_bundle,
        data=data,
        pick=pick,
        model=object_of(run_or_bundle, model),
        weights=weights,
        reading=DataOptions.of(class_map, strict),
        noise=Noise(chip=chip, draws=draws, mode=mode, calibration=calibration)
        if non_ideal
        else None,
    )
    with told_to(progress):
        return run(question).measured


def _of_run(question: Question, folder: Path) -> Subject:
    found = Run.open(folder)
    original = original_of(found, question.model, question.weights)
    plan, variant = pick_variant(found, question.pick, original)
    manifest = found.manifest()
    return Subject(
        plan=plan, variant=variant, original=original, config=config_of(found),
        chip=manifest.settings.chip, calibration=manifest.calibration, run=found,
    )  # fmt: skip


def _of_bundle(question: Question, folder: Path) -> Subject:
    if question.pick != "best":
        raise BundleError(f"{folder} is a bundle, of one variant", hint="leave --pick out")
    stored = load_config(folder)
    weights = None if question.weights is None else Path(question.weights)
    original, config = load_original_of_bundle(folder, weights)
    return Subject(
        plan=stored["plan"], variant=load_bundle(folder), original=original, config=config,
        chip=stored.get("estimate", {}).get("chip"), calibration=None, run=None,
    )  # fmt: skip


def _keep(folder: Run, pick: str, plan: str, measured: Evaluation) -> None:
    """Write the measurement into the run, for its report; a run may be read-only."""
    try:
        kept = pick if pick in ("best", "finetuned") else plan
        store_evaluation(folder, kept, plan, measured)
    except StorageError as error:
        _logger.warning("not kept in the run: %s", error.message)


def _non_ideal(noise: Noise, of: Subject, folder: Path) -> _Measurement:
    """Check everything the noisy measurement needs; returns how to make it."""
    if noise.draws < 1:
        raise ChipError(f"--draws {noise.draws} is too few", hint="give at least 1")
    name, source = noise.chip or of.chip, noise.calibration
    if source is None:
        source = of.calibration
    if name is None:
        raise ChipError(f"{folder} names no chip", hint="give one with --hw")
    if source is None:
        raise ChipError(
            f"{folder} names no images that could set the ranges of inputs and converters",
            hint="give those it was fitted on with --calib",
        )
    chip = load_chip(name)
    ranges = open_unlabelled(source, of.config, DataOptions())

    def measure(variant: nn.Module, original: nn.Module, images: ImageSet) -> NonIdeal:
        return measure_non_ideal(
            variant, original, images, chip, ranges, draws=noise.draws, mode=noise.mode
        )

    return measure
