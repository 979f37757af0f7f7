"""Winning back what a found variant lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import nn

from trex.api.data import Data, DataOptions, check_sources, open_labelled, open_unlabelled
from trex.api.models import classes_of
from trex.api.runs import RunGiven, config_of, folder_of, object_of, original_of
from trex.errors import DataError, RunError
from trex.exporters.bundle import load_bundle
from trex.hardware import load_chip
from trex.models.registry import LoadedModel
from trex.progress import Callback, told_to
from trex.runtime.bundle import is_dynamic
from trex.search.pick import pick_record, pick_variant
from trex.store.run import Run
from trex.store.schemas import Evaluation, Stage
from trex.training.data import ImageSet
from trex.training.finetune import Job, Recipe, load_recipe
from trex.training.finetune import finetune as train
from trex.training.finetune.processes import start_processes
from trex.training.given import holds_tensors
from trex.training.transforms import InputConfig

#: which labels are used: `none` distils
UsedLabels = Literal["none", "hard", "token"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingData:
    """What is trained on, and how.

    Attributes:
        data: images to train on.
        extra: more images, without labels.
        evaluated: labelled images to measure on.
        labels: which are used; None takes what the recipe's losses read.
        recipe: a shipped one's name, or a path.
        changes: fields of the recipe -> other values.
        reading: of the data.
    """

    data: Data
    extra: Data | None = None
    evaluated: Data | None = None
    labels: UsedLabels | None = None
    recipe: str | Path = "few_images"
    changes: Mapping[str, Any] = field(default_factory=dict)
    reading: DataOptions = field(default_factory=DataOptions)

    def settled_recipe(self) -> Recipe:
        """The recipe with the caller's values and labels; sources of images are checked too.

        Raises:
            RecipeError: it is not valid, or does not fit the data that are given.
            DataError: there can be no data set of such a name.
        """
        recipe = load_recipe(self.recipe, self.changes).with_labels(self.labels)
        recipe.check_extra(self.extra is not None)
        check_sources(self.data, self.extra, self.evaluated)
        return recipe

    def open(self, recipe: Recipe, original: LoadedModel, config: InputConfig) -> TrainingImages:
        """The data sets.

        Raises:
            TrexError: one of them is missing, malformed, or the same as another.
        """
        classes = classes_of(original.model)
        without = recipe.losses.labels == "none"
        return TrainingImages(
            images=_pictures(
                open_unlabelled(self.data, config, self.reading)
                if without
                else open_labelled(self.data, config, classes, self.reading)
            ),
            extra=None
            if self.extra is None
            else _pictures(open_unlabelled(self.extra, config, self.reading)),
            evaluation=None
            if self.evaluated is None
            else open_labelled(self.evaluated, config, classes, self.reading),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingImages:
    """Opened data sets of a fine-tuning.

    Attributes:
        images: trained on, with the labels that the recipe's losses read.
        extra: more images, without labels.
        evaluation: labelled images to measure on.
    """

    images: ImageSet
    extra: ImageSet | None
    evaluation: ImageSet | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What is to be fine-tuned, and how.

    Attributes:
        run: a result, or a run's folder.
        training: the data and the recipe.
        out: a new folder.
        pick: which plan.
        model: the object that the run was made with.
        weights: the original's, where they have moved.
        chip: train, and measure too, with its errors.
        seed: of all that is drawn.
        workers: processes that load images.
        device: to compute on: `cpu`, `cuda`; None takes the accelerator if there is one.
    """

    run: RunGiven
    training: TrainingData
    out: Path
    pick: str = "best"
    model: nn.Module | None = None
    weights: str | Path | None = None
    chip: str | Path | None = None
    seed: int = 0
    workers: int = 0
    device: str | None = None


class Tuned:
    """A finished fine-tuning.

    Args:
        out: its folder; `out/bundle` is what `trex.load` reads.
        stages: the variant before and after it.
        model: the object that the run was made with, where no name builds it.
    """

    def __init__(self, out: Path, stages: list[Stage], model: LoadedModel | None) -> None:
        self.path = out
        self.stages = stages
        self._original = model

    @property
    def bundle(self) -> Path:
        """The tuned variant's folder."""
        return self.path / "bundle"

    @property
    def model(self) -> nn.Module:
        """The tuned variant, in evaluation mode.

        Raises:
            BundleError: its files are damaged.
        """
        return load_bundle(self.bundle, self._original.own_base() if self._original else None)

    @property
    def before(self) -> Evaluation | None:
        """The fitted variant as it was measured; None where no images were given for it."""
        return self.stages[0].evaluation

    @property
    def after(self) -> Evaluation | None:
        """The tuned variant as it was measured."""
        return self.stages[-1].evaluation


def prepare(question: Question) -> Job:
    """Check everything a fine-tuning needs, before any work.

    Raises:
        TrexError: anything the caller gave is missing, malformed or does not fit.
    """
    path = folder_of(question.run)
    if is_dynamic(path):
        raise RunError(
            f"{path} is a dynamic bundle, of several plans",
            hint="train them together with --dynamic, or give a run's folder",
        )
    recipe = question.training.settled_recipe()
    folder = Run.open(path)
    if question.pick == "finetuned":
        raise RunError(
            "--pick finetuned: it was trained already, and a fine-tuning compares with the fit",
            hint="begin with --pick best, which is fitted on all images",
        )
    original = original_of(folder, question.model, question.weights)
    config = config_of(folder)
    sets = question.training.open(recipe, original, config)
    _, fitted = pick_variant(folder, question.pick, original)
    record = pick_record(folder, question.pick)
    return Job(
        original=original,
        data_config=config,
        fitted=fitted,
        fitted_on=folder.manifest().calibration_images_sha256,
        candidate=Stage(
            stage="fitted",
            plan=record.plan,
            n_reuse=record.n_reuse,
            transform=record.transform,
            estimate=record.estimate,
        ),
        images=sets.images,
        extra=sets.extra,
        evaluation=sets.evaluation,
        recipe=recipe,
        chip=load_chip(question.chip) if question.chip else None,
        seed=question.seed,
        workers=question.workers,
        out=question.out,
        origin=str(folder.path),
    )


def run(question: Question) -> Tuned | None:
    """Train, measure and write; None in all processes but the first.

    Raises:
        TrexError: as `prepare`; or the training cannot go on.
    """
    job = prepare(question)
    with start_processes(question.device) as processes:
        stages = train(job, processes)
    return Tuned(question.out, stages, job.original) if stages else None


def finetune(
    run_given: RunGiven,
    data: Data,
    *,
    out: str | Path,
    pick: str = "best",
    recipe: str | Path = "few_images",
    changes: Mapping[str, Any] | None = None,
    labels: UsedLabels | None = None,
    extra: Data | None = None,
    evaluate_on: Data | None = None,
    non_ideal: str | Path | None = None,
    model: nn.Module | None = None,
    weights: str | Path | None = None,
    class_map: str | Path | None = None,
    strict: bool = False,
    seed: int = 0,
    workers: int = 0,
    compute_on: str | None = None,
    progress: Callback | None = None,
) -> Tuned:
    """Train a found variant, by distilling its original unless told otherwise.

    Fine-tuning again with the same `out` and arguments goes on where it was stopped.

    Args:
        run_given: a result, or a run's folder.
        data: pictures to train on: a folder, a .tar, `hfds/NAME`, or a data set of PIL images. Of
            tensors no augmented views can be made.
        out: a new folder.
        pick: `best`, `knee`, a number of consumers, or a measured plan.
        recipe: a shipped one's name, or a path.
        changes: fields of the recipe -> other values: `{"epochs": 48}`.
        labels: which are used; `none` distils; None takes what the recipe's losses read.
        extra: more pictures, without labels.
        evaluate_on: labelled images to measure on, before and after.
        non_ideal: a chip, with whose errors it is trained and measured too.
        model: the model object that the run was made with, where no name builds it.
        weights: the original's checkpoint, where it has moved.
        class_map: a file of class folders in the head's order.
        strict: make an unreadable image an error.
        seed: of all that is drawn.
        workers: processes that load images.
        compute_on: `cpu`, `cuda`; None takes the accelerator if there is one.
        progress: called with every step forward.

    Raises:
        TrexError: anything given is missing, malformed or does not fit; before any work.
    """
    question = Question(
        run=run_given,
        training=TrainingData(
            data=data,
            extra=extra,
            evaluated=evaluate_on,
            labels=labels,
            recipe=recipe,
            changes=dict(changes or {}),
            reading=DataOptions.of(class_map, strict),
        ),
        out=Path(out),
        pick=pick,
        model=object_of(run_given, model),
        weights=weights,
        chip=non_ideal,
        seed=seed,
        workers=workers,
        device=compute_on,
    )
    with told_to(progress):
        tuned = run(question)
    if tuned is None:
        raise RunError(
            "this is not the first process of torchrun, which alone has the result",
            hint="call trex.finetune in one process, or use `torchrun -m trex finetune`",
        )
    return tuned


def _pictures(images: ImageSet) -> ImageSet:
    """Images of which views can be made.

    Raises:
        DataError: they are tensors.
    """
    if holds_tensors(images):
        raise DataError(
            "fine-tuning draws augmented views of pictures, and the data are tensors",
            hint="give a folder, or a data set of PIL images",
        )
    return images
