"""Measuring a variant against its original, as plain values for records and tables."""

from __future__ import annotations

from typing import Any

from torch import nn

from trex.training.data import ImageSet, batches, dataset_fingerprint
from trex.training.evaluate import compare_paired, predict_paired


def measure_pair(
    variant: nn.Module,
    original: nn.Module,
    images: ImageSet,
    *,
    batch_size: int = 50,
    workers: int = 0,
) -> dict[str, Any]:
    """Both models on the same labelled images; accuracies and differences are fractions.

    Raises:
        DataError: no image can be read, or one has no label.
    """
    parts = batches(images, batch_size, workers)
    answers, of_original, speed = predict_paired(variant, original, parts)
    paired = compare_paired(answers.logits, of_original.logits, answers.labels)
    return {
        "data": images.origin,
        "data_sha256": dataset_fingerprint(images),
        "top1": paired.top1,
        "top5": paired.top5,
        "baseline_top1": paired.baseline_top1,
        "baseline_top5": paired.baseline_top5,
        "difference": paired.difference,
        "ci95": list(paired.ci95),
        "p_value": paired.p_value,
        "agreement": paired.agreement,
        "n": paired.n,
        "skipped": len(parts.skipped),
        "images_per_second": speed.images_per_second,
        "baseline_images_per_second": speed.baseline_images_per_second,
        "speedup": speed.speedup,
    }
