"""Measuring a variant against its original, for records and tables."""

from __future__ import annotations

import statistics
from pathlib import PurePath

from torch import nn

from trex.hardware import Chip
from trex.hardware.accuracy import AccuracyFigure
from trex.noise import Mode, make_non_ideal, remove_non_ideal, set_noise
from trex.store.schemas import Evaluation, NonIdeal
from trex.text.metrics import matthews
from trex.text.sources import Texts
from trex.training.data import ImageSet, batches, dataset_fingerprint
from trex.training.evaluate import accuracy, compare_paired, predict, predict_paired

#: Images that set the ranges of a chip's inputs and converters.
RANGE_IMAGES = 64


def measure_pair(
    variant: nn.Module,
    original: nn.Module,
    images: ImageSet,
    *,
    batch_size: int = 50,
    workers: int = 0,
) -> Evaluation:
    """Both models on the same labelled images; accuracies and differences are fractions.

    Two classes, often of unequal size, also have a Matthews correlation.

    Raises:
        DataError: no image can be read, or one has no label.
    """
    parts = batches(images, batch_size, workers)
    answers, of_original, speed = predict_paired(variant, original, parts)
    paired = compare_paired(answers.logits, of_original.logits, answers.labels)
    correlations = {
        f"{name}matthews": matthews(of.logits.argmax(dim=1), of.labels)
        for name, of in (("", answers), ("baseline_", of_original))
        if of.logits.shape[1] == 2
    }
    found = Evaluation(
        data=images.origin,
        unit="texts" if isinstance(images.source, Texts) else "images",
        data_sha256=dataset_fingerprint(images),
        top1=paired.top1,
        top5=paired.top5,
        baseline_top1=paired.baseline_top1,
        baseline_top5=paired.baseline_top5,
        difference=paired.difference,
        ci95=list(paired.ci95),
        p_value=paired.p_value,
        agreement=paired.agreement,
        mean_kl=paired.mean_kl,
        n=paired.n,
        skipped=len(parts.skipped),
        images_per_second=speed.images_per_second,
        baseline_images_per_second=speed.baseline_images_per_second,
        speedup=speed.speedup,
    )
    return found.model_copy(update=correlations)


def measure_non_ideal(
    variant: nn.Module,
    original: nn.Module,
    images: ImageSet,
    chip: Chip,
    range_images: ImageSet,
    *,
    draws: int,
    mode: Mode,
    batch_size: int = 50,
) -> NonIdeal:
    """Both models on instances of a chip with errors; accuracies are fractions.

    Every draw is another chip instance with other programming, write and read errors, the same
    ones' seeds for both models. Both models are left as they were.

    Args:
        variant: the reusing model.
        original: its original.
        images: labelled images to measure on.
        chip: what the encoders compute on.
        range_images: images that set the ranges of inputs and converters.
        draws: chip instances.
        mode: `fast` or `exact`.
        batch_size: images in one forward.

    Raises:
        ChipError: the chip file lacks what the errors depend on.
        DataError: no image can be read, or one has no label.
    """
    ranges = range_images.subset(min(RANGE_IMAGES, len(range_images)), 0)
    prepared = [batch.images for batch in batches(ranges, batch_size)]
    results: dict[str, list[float]] = {}
    for name, model in (("baseline_", original), ("", variant)):
        make_non_ideal(model, chip, prepared, mode=mode)
        try:
            for draw in range(draws):
                set_noise(model, seed=draw)
                answers = predict(model, batches(images, batch_size), label=f"chip {draw + 1}")
                measured = accuracy(answers.logits, answers.labels)
                results.setdefault(f"{name}top1", []).append(measured.top1)
        finally:
            remove_non_ideal(model)
    spread = {
        name: statistics.stdev(values) if draws > 1 else None for name, values in results.items()
    }
    return NonIdeal(
        chip=chip.name,
        mode=mode,
        draws=draws,
        top1=statistics.fmean(results["top1"]),
        baseline_top1=statistics.fmean(results["baseline_top1"]),
        top1_std=spread["top1"],
        baseline_top1_std=spread["baseline_top1"],
        top1_by_draw=results["top1"],
        baseline_top1_by_draw=results["baseline_top1"],
    )


def measure_chip(
    model: nn.Module,
    name: str,
    images: ImageSet,
    chip: Chip,
    range_images: ImageSet,
    *,
    draws: int,
    mode: Mode,
    command: str,
    batch_size: int = 50,
) -> AccuracyFigure:
    """How an original answers on a chip that errs, next to itself without errors.

    The model is left as it was.

    Args:
        model: the original.
        name: its name.
        images: labelled images to answer.
        chip: what the encoders compute on.
        range_images: others, all of which set the ranges of inputs and converters.
        draws: chip instances, with the seeds 0, 1, ...
        mode: `fast` or `exact`.
        command: what the figure is to be told with.
        batch_size: images in one forward.

    Raises:
        ChipError: the chip file lacks what the errors depend on.
        DataError: no image can be read, or one has no label.
        ModelError: the model has parts that cannot err here.
    """
    ranges = [batch.images for batch in batches(range_images, batch_size)]
    ideal = predict(model, batches(images, batch_size), label="without errors")
    compared = []
    make_non_ideal(model, chip, ranges, mode=mode)
    try:
        for draw in range(draws):
            set_noise(model, seed=draw)
            answers = predict(model, batches(images, batch_size), label=f"chip {draw + 1}")
            compared.append(compare_paired(answers.logits, ideal.logits, answers.labels))
    finally:
        remove_non_ideal(model)
    top1 = [of.top1 for of in compared]
    return AccuracyFigure(
        what=chip.converters,
        model=name,
        data=PurePath(images.origin).name,
        images=len(ideal.labels),
        range_images=sum(map(len, ranges)),
        mode=mode,
        draws=draws,
        ideal_top1=compared[0].baseline_top1,
        top1=statistics.fmean(top1),
        top1_std=statistics.stdev(top1) if draws > 1 else None,
        agreement=statistics.fmean(of.agreement for of in compared),
        mean_kl=statistics.fmean(of.mean_kl for of in compared),
        command=command,
        stored=False,
    )
