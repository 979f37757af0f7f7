"""Measuring many variants on the same images as their original, and keeping what is done.

A measurement and a choice of encoders take minutes; each is kept in a file as soon as it is there,
under everything it depends on, so that the same comparison goes on where it was stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from trex.files import append_line, read_jsonl
from trex.training.data import ImageSet, batches
from trex.training.evaluate import PairedComparison, Predictions, compare_paired, predict

_BATCH = 50


class Kept:
    """Results by what they depend on.

    Args:
        file: where to, one JSON object a line; None keeps them in memory.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._results: dict[str, Any] = {}
        if file is not None and file.exists():
            for line in read_jsonl(file).records:
                self._results[line["key"]] = line["result"]

    def get(self, of: dict[str, Any], make: Callable[[], Any]) -> Any:
        """A result as plain values; made where it is not there.

        Raises:
            StorageError: it cannot be written.
        """
        text = json.dumps(of, sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        if key not in self._results:
            result = make()
            self._results[key] = result
            if self._file is not None:
                append_line(self._file, json.dumps({"key": key, "of": of, "result": result}))
        return self._results[key]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """A variant beside its original on the same images, in fractions."""

    top1: float
    baseline_top1: float
    difference: float
    ci95: tuple[float, float]
    p_value: float
    n: int


class Evaluation:
    """One data set on which variants are measured.

    Args:
        original: the model all are compared with.
        images: labelled.
    """

    def __init__(self, original: nn.Module, images: ImageSet) -> None:
        self._original = original
        self._images = images
        self._answers: Predictions | None = None

    def measure(self, variant: nn.Module, label: str) -> Measured:
        """The variant's accuracy, paired with the original's.

        Raises:
            DataError: no image can be read, or one has no label.
        """
        if self._answers is None:
            self._answers = self._predict(self._original, "original")
        theirs, ours = self._answers, self._predict(variant, label)
        found: PairedComparison = compare_paired(ours.logits, theirs.logits, ours.labels)
        return Measured(
            top1=found.top1,
            baseline_top1=found.baseline_top1,
            difference=found.difference,
            ci95=found.ci95,
            p_value=found.p_value,
            n=found.n,
        )

    def _predict(self, model: nn.Module, label: str) -> Predictions:
        return predict(model, batches(self._images, _BATCH), label=label)


def measured_from(result: dict[str, Any]) -> Measured:
    """What `asdict` made of one."""
    low, high = result["ci95"]
    return Measured(**{**result, "ci95": (low, high)})
