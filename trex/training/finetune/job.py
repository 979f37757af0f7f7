"""From a fitted variant to a fine-tuned bundle and two measured records."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import torch
from torch import nn
from tqdm import tqdm

from trex.exporters.bundle import load_bundle, save_bundle
from trex.hardware import Chip
from trex.models.registry import LoadedModel
from trex.models.weights import weights_hash
from trex.noise import make_non_ideal, remove_non_ideal
from trex.store.finetuning import FinetuneFolder
from trex.store.schemas import RecipeFields, Stage, Training
from trex.training.data import ImageSet, batches, dataset_fingerprint
from trex.training.finetune.loop import Trainer
from trex.training.finetune.order import Order
from trex.training.finetune.precision import settled
from trex.training.finetune.processes import Processes
from trex.training.finetune.recipe import Recipe
from trex.training.finetune.selection import HeldOut
from trex.training.finetune.task import Outcome, Task, as_teacher, check_head, check_teacher
from trex.training.finetune.teacher import CachedTeacher, LiveTeacher, Teacher
from trex.training.finetune.views import Pool, ViewSource, augmentation
from trex.training.measure import RANGE_IMAGES, measure_pair
from trex.training.transforms import DataConfig, InputConfig
from trex.versions import versions

_logger = logging.getLogger(__name__)

_HELD_OUT_BATCH: Final = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """Everything one fine-tuning needs to know."""

    original: LoadedModel
    data_config: InputConfig
    #: the variant as it was fitted
    fitted: nn.Module
    #: what is known of the variant before its training
    candidate: Stage
    #: with the model's own preprocessing
    images: ImageSet
    #: more images without labels, none of them held out
    extra: ImageSet | None
    #: labelled, or None
    evaluation: ImageSet | None
    recipe: Recipe
    #: whose errors are in every forward of the variant; None trains and measures the ideal one
    chip: Chip | None
    seed: int
    workers: int
    out: Path
    #: fingerprint without labels of the images the variant was fitted on; None: unknown
    fitted_on: str | None
    #: where the variant comes from, for people
    origin: str


def finetune(job: Job, processes: Processes) -> list[Stage]:
    """Train, measure and write; the two records, or none in all processes but the first.

    Going on in a folder repeats nothing that is recorded there.

    Raises:
        TrexError: something does not fit together, or the training cannot go on.
    """
    check_head(job.original.model)
    job.recipe.check_extra(job.extra is not None)
    job.recipe.check_inputs(pixels=isinstance(job.data_config, DataConfig))
    job = replace(job, recipe=settled(job.recipe, processes.device))
    folder = FinetuneFolder(job.out)
    with folder.locked() if processes.first else nullcontext():
        if processes.first:
            folder.start(manifest_of(job, processes))
        processes.wait()
        if len(records := folder.records()) == 2:
            return records if processes.first else []
        variant = deepcopy(job.fitted)
        on_chip(job, variant)
        training, taught = train(job, variant, processes)
        remove_non_ideal(variant)
        if not processes.first:
            return []
        return _conclude(job, folder, variant, training, taught)


def train(job: Job, variant: nn.Module, processes: Processes) -> tuple[Outcome, dict[str, object]]:
    """Train a variant, or several that share parameters (`Paths`), in place.

    Returns:
        How it went, and how the teacher was used.

    Raises:
        TrexError: something does not fit together, or the training cannot go on.
    """
    recipe, original = job.recipe, job.original.model.to(processes.device).eval()
    check_teacher(job.original, recipe)
    train, held_out = job.images, None
    if recipe.selection.share:
        share = recipe.selection.share
        train, held = job.images.split((1.0 - share, share), job.seed)
        held_out = HeldOut(original, batches(held, _HELD_OUT_BATCH, job.workers), processes.device)
    fitted_on_held_out = held_out is not None and job.fitted_on in (
        None,
        dataset_fingerprint(job.images, labels=False),
    )
    if fitted_on_held_out:
        _logger.warning(
            "the variant was fitted on these images, the %.0f %% that are held out too: what it "
            "starts with is not chosen, and early epochs look better than they are",
            100 * recipe.selection.share,
        )
    source = ViewSource(
        images=train if job.extra is None else Pool(train, job.extra),
        augment=augmentation(job.data_config, recipe.augment),
        seed=job.seed,
    )
    order = Order.of_recipe(
        recipe, len(train), job.seed, processes.world,
        n_extra=0 if job.extra is None else len(job.extra),
    )  # fmt: skip
    started = time.monotonic()
    teacher = _teacher(job, variant, source, order, processes)
    taught: dict[str, object] = {"mode": recipe.teacher.mode if teacher else "none"}
    if isinstance(teacher, CachedTeacher):
        taught |= {
            "stored_bytes": teacher.stored_bytes,
            "seconds": round(time.monotonic() - started, 1),
            "images": order.total_images * recipe.teacher.views,
        }
    _logger.info(
        "fine-tuning: %d epochs of %d steps of %d images",
        order.epochs, order.steps_per_epoch, order.batch_size,
    )  # fmt: skip
    task = Task(
        variant=variant,
        adapter=job.original.adapter,
        recipe=recipe,
        source=source,
        order=order,
        teacher=teacher,
        held_out=held_out,
        fitted_on_held_out=fitted_on_held_out,
        folder=job.out,
        processes=processes,
        workers=job.workers,
    )
    outcome = Trainer(task).run()
    variant.cpu()
    original.cpu()
    if isinstance(teacher, CachedTeacher) and processes.first:
        taught["images_live"] = outcome.steps * order.batch_size
        teacher.remove()
    return outcome, taught


def _teacher(
    job: Job, variant: nn.Module, source: ViewSource, order: Order, processes: Processes
) -> Teacher | None:
    recipe = job.recipe
    if not recipe.losses.distils:
        return None
    observed = as_teacher(job.original, variant, recipe)
    if recipe.teacher.mode == "live":
        return LiveTeacher(observed)
    cache = CachedTeacher(
        job.out,
        {"settings": _settings(job)},
        n_images=order.total_images,
        views=recipe.teacher.views,
        with_tokens=bool(recipe.losses.tokens or recipe.losses.class_kl),
    )
    if processes.first:
        total = order.total_images * recipe.teacher.views
        with tqdm(
            desc="teacher", total=total, unit=" images", file=sys.stderr, disable=None
        ) as bar:
            cache.fill(observed.eval(), source, processes.device, bar.update)
    processes.wait()
    cache.open()
    return cache


def _conclude(
    job: Job,
    folder: FinetuneFolder,
    variant: nn.Module,
    training: Outcome,
    taught: dict[str, object],
) -> list[Stage]:
    """Write the bundle and read it back, measure both, then drop the checkpoints."""
    estimate = job.candidate.estimate
    save_bundle(
        folder.bundle,
        variant,
        name=job.original.name,
        arguments=job.original.arguments,
        base_weights_sha256=job.original.weights_sha256,
        data_config=job.data_config,
        extra={} if estimate is None else {"estimate": estimate.as_json()},
    )
    made = load_bundle(folder.bundle, job.original.own_base())
    done = {record.stage for record in folder.records()}
    details = Training(
        kept=training.kept,
        steps=training.steps,
        seconds=round(training.seconds, 1),
        images_per_second=training.images / training.seconds if training.seconds else None,
        wait_share=training.waited_s / training.seconds if training.seconds else None,
        teacher=taught,
        held_out=training.history,
        recipe=RecipeFields(**job.recipe.model_dump()),
        seed=job.seed,
    )
    for record in _measured(job, made):
        if record.stage not in done:
            last = record.stage == "finetuned"
            folder.append(record.model_copy(update={"training": details}) if last else record)
    for file in (folder.path / "checkpoints").glob("step-*.pt"):
        file.unlink()
    return folder.records()


def on_chip(job: Job, variant: nn.Module) -> nn.Module:
    """`variant` on the job's chip, in place; as it is where there is none."""
    if job.chip is None:
        return variant
    some = job.images.subset(min(RANGE_IMAGES, len(job.images)), job.seed)
    pixels = (batch.images for batch in batches(some, _HELD_OUT_BATCH))
    return make_non_ideal(variant, job.chip, pixels, seed=job.seed)


def _measured(job: Job, made: nn.Module) -> Iterator[Stage]:
    for stage, model in (("fitted", job.fitted), ("finetuned", made)):
        evaluation = non_ideal = None
        if job.evaluation is not None:
            original = job.original.model
            evaluation = measure_pair(model, original, job.evaluation, workers=job.workers)
            if job.chip is not None:
                noisy = on_chip(job, deepcopy(model))
                non_ideal = measure_pair(noisy, original, job.evaluation, workers=job.workers)
        found = {
            "stage": stage,
            "weights_sha256": weights_hash(model),
            "evaluation": evaluation,
            "non_ideal_chip": None if job.chip is None else job.chip.name,
            "non_ideal_evaluation": non_ideal,
        }
        yield job.candidate.model_copy(update=found)


def _settings(job: Job) -> dict[str, object]:
    return {
        "model": job.original.name,
        "model_args": job.original.arguments,
        "weights_sha256": job.original.weights_sha256,
        "fitted_sha256": weights_hash(job.fitted),
        "plan": job.candidate.plan,
        "data": asdict(job.data_config),
        "images_sha256": dataset_fingerprint(job.images),
        "extra_sha256": None if job.extra is None else dataset_fingerprint(job.extra),
        "evaluation_sha256": None
        if job.evaluation is None
        else dataset_fingerprint(job.evaluation),
        "recipe": job.recipe.model_dump(),
        "non_ideal_chip_sha256": None if job.chip is None else job.chip.fingerprint,
        "seed": job.seed,
    }


def manifest_of(job: Job, processes: Processes, **more: object) -> dict[str, object]:
    """What a fine-tuning's folder says was asked; `more`: further settings."""
    return {
        "settings": {**_settings(job), **more},
        "command": ["trex", *sys.argv[1:]],
        "versions": versions(),
        "run": job.origin,
        "images": job.images.origin,
        "extra": None if job.extra is None else job.extra.origin,
        "processes": processes.world,
        "device": str(processes.device),
        "threads": torch.get_num_threads(),
    }
