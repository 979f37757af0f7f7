"""Running methods on the loaded weights: which encoders, and how accurate."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from torch import Tensor, nn

from trex.compare.choose import choose_encoders, choose_fitted, fit_plan
from trex.compare.given import Given
from trex.compare.measure import Evaluation, Measured
from trex.compare.methods import AttentionSkip, Encoders, FittedReuse, Method, spread
from trex.compare.question import Question
from trex.compare.variants import variant
from trex.models.registry import LoadedModel
from trex.reuse.fit import apply_fitted
from trex.training.data import ImageSet, batches, dataset_fingerprint

_logger = logging.getLogger(__name__)

_BATCH: Final = 50


class Trials:
    """Measurements of one comparison.

    Args:
        question: what is asked.
        loaded: the original.
        images: labelled.
    """

    def __init__(self, question: Question, loaded: LoadedModel, images: ImageSet) -> None:
        self._question = question
        self._loaded = loaded
        self._evaluation = Evaluation(
            images, loaded.weights_sha256, question.kept, amp=question.amp
        )

    @classmethod
    def of(cls, question: Question) -> Trials | None:
        """None where there is nothing to measure on."""
        if question.loaded is None or question.images is None:
            return None
        return cls(question, question.loaded, question.images)

    def given(self, given: Given) -> Measured:
        """A variant that was made before."""
        of = {"given": given.identity, "plan": given.plan}
        return self._measured(of, lambda: given.load(self._loaded), given.title)

    def method(self, method: Method, setting: float) -> tuple[Encoders, Measured | None]:
        """The encoders a method works on, and its measurement, where it can be made."""
        if isinstance(method, FittedReuse):
            return self._fitted(method, int(setting))
        encoders: Encoders = ()
        if method.chooses:
            encoders = self._encoders(method, int(setting))
        measured = self._measured(
            {"method": method.name, "setting": setting, "encoders": list(encoders)},
            lambda: variant(self._loaded, method, setting, encoders),
            method.title,
        )
        return encoders, measured

    def _encoders(self, method: Method, count: int) -> Encoders:
        calibration = self._question.calibration
        if calibration is None:
            first = 0 if isinstance(method, AttentionSkip) else 1
            return spread(self._question.subject.model, count, first)
        found = self._question.kept.get(
            {
                "choice": method.name,
                "count": count,
                "amp": self._question.amp,
                **self._calibrated(calibration),
            },
            lambda: list(
                choose_encoders(self._loaded, method, count, self._pixels, amp=self._question.amp)
            ),
        )
        return tuple(found)

    def _fitted(self, method: FittedReuse, count: int) -> tuple[Encoders, Measured | None]:
        calibration, images = self._question.calibration, self._question.fitting
        if calibration is None or images is None:
            _logger.info("%s is not measured: give --run or --calib", method.title)
            return (), None

        def choose() -> list[int]:
            with _scratch() as scratch:
                return list(choose_fitted(self._loaded, method, count, self._pixels, scratch))

        def running() -> nn.Module:
            pixels = (batch.images for batch in batches(images, _BATCH))
            with _scratch() as scratch:
                fitted = fit_plan(self._loaded, method, tuple(consumers), pixels, scratch)
            return apply_fitted(deepcopy(self._loaded.model), fitted)

        key = {
            "fitted": method.name, "count": count, "fitting": dataset_fingerprint(images),
            **self._calibrated(calibration),
        }  # fmt: skip
        consumers = self._question.kept.get(key, choose)
        measured = self._measured({**key, "consumers": consumers}, running, method.title)
        return tuple(consumers), measured

    def _measured(self, of: dict[str, Any], make: Callable[[], nn.Module], label: str) -> Measured:
        evaluation = self._evaluation
        original = evaluation.guesses({"original": True}, lambda: self._loaded.model, "original")
        return evaluation.compare(evaluation.guesses(of, make, label), original)

    def _calibrated(self, calibration: ImageSet) -> dict[str, Any]:
        return {
            "weights": self._loaded.weights_sha256,
            "calibration": dataset_fingerprint(calibration),
        }

    @cached_property
    def _pixels(self) -> list[Tensor]:
        """The images to choose with in batches, decoded once."""
        assert self._question.calibration is not None
        return [batch.images for batch in batches(self._question.calibration, _BATCH)]


@contextmanager
def _scratch() -> Iterator[Path]:
    """A folder for activations, gone afterwards."""
    with TemporaryDirectory(prefix="trex-compare-") as folder:
        yield Path(folder)
