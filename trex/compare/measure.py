"""Measuring many variants on the same images as their original, and keeping what is done.

A measurement and a choice of encoders take minutes; each is kept in a file as soon as it is there,
under everything it depends on, so that the same comparison goes on where it was stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import one_hot

from trex.files import append_line, read_jsonl, sealed_line
from trex.training.data import ImageSet, batches, dataset_fingerprint
from trex.training.evaluate import compare_paired, predict
from trex.training.measure import guessing

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

    def get(self, of: Mapping[str, object], make: Callable[[], Any]) -> Any:
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
                line = {"key": key, "of": dict(of), "result": result}
                append_line(self._file, sealed_line(line))
        return self._results[key]


class Guesses(NamedTuple):
    """A model's first guesses and the labels, image by image, among so many classes."""

    guesses: list[int]
    labels: list[int]
    classes: int


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
    """One data set on which variants are measured; every model's first guesses are kept.

    Args:
        images: labelled.
        weights_sha256: of the original, which all variants are made of.
        kept: where guesses are kept.
        amp: measure in mixed precision, the original too.
    """

    def __init__(
        self, images: ImageSet, weights_sha256: str, kept: Kept, *, amp: bool = False
    ) -> None:
        self._images = images
        self._kept = kept
        self._amp = amp
        self._on = {
            "weights": weights_sha256,
            "data": dataset_fingerprint(images),
            "amp": amp,
        }

    def guesses(
        self, of: Mapping[str, object], make: Callable[[], nn.Module], label: str
    ) -> Guesses:
        """A model's first guesses.

        Args:
            of: what names the model, beside the original's weights.
            make: the model, where it has to run.
            label: of the progress bar.

        Raises:
            DataError: no image can be read.
        """

        def run() -> dict[str, object]:
            parts = batches(self._images, _BATCH)
            model = make()
            answers = predict(model, parts, amp=self._amp, label=label)
            scores = guessing(model, answers)
            return Guesses(
                guesses=scores.argmax(dim=1).tolist(),
                labels=answers.labels.tolist(),
                classes=scores.shape[1],
            )._asdict()

        return Guesses(**self._kept.get({**of, **self._on}, run))

    def compare(self, variant: Guesses, original: Guesses) -> Measured:
        """Two models' guesses on the same images.

        Raises:
            DataError: an image has no label.
        """
        ours, theirs = (
            one_hot(torch.tensor(of.guesses), variant.classes).float()
            for of in (variant, original)
        )
        found = compare_paired(ours, theirs, torch.tensor(variant.labels))
        return Measured(
            top1=found.top1,
            baseline_top1=found.baseline_top1,
            difference=found.difference,
            ci95=found.ci95,
            p_value=found.p_value,
            n=found.n,
        )
