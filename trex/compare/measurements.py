"""Running methods on the loaded weights: which encoders, and how accurate."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from torch import Tensor, nn

from trex.compare.choose import choose_encoders, choose_fitted, fit_plan
from trex.compare.measure import Evaluation, Measured
from trex.compare.methods import Encoders, FittedReuse, Method, Reuse, spread
from trex.compare.options import CompareOptions
from trex.compare.planned import Planned
from trex.compare.saved import SavedVariant
from trex.compare.variants import running, variant
from trex.fit.fitter import apply_fitted
from trex.models.registry import LoadedModel
from trex.plan import Plan
from trex.training.data import ImageSet, batches, dataset_fingerprint

_logger = logging.getLogger(__name__)

_BATCH: Final = 50


class Measurements:
    """Measurements of one comparison.

    Args:
        options: what is asked.
        loaded: the original.
        images: labelled.
    """

    def __init__(self, options: CompareOptions, loaded: LoadedModel, images: ImageSet) -> None:
        self._options = options
        self._loaded = loaded
        self._evaluation = Evaluation(images, loaded.weights_sha256, options.kept, amp=options.amp)

    @classmethod
    def of(cls, options: CompareOptions) -> Measurements | None:
        """None where there is nothing to measure on."""
        if options.loaded is None or options.images is None:
            return None
        return cls(options, options.loaded, options.images)

    def saved(self, saved: SavedVariant) -> Measured:
        """A variant that was made before."""
        of = {"given": saved.identity, "plan": str(saved.plan)}
        return self._measured(of, lambda: saved.load(self._loaded), saved.title)

    def plan(self, plan: Plan, title: str) -> Measured | None:
        """A plan on the loaded weights, fitted where it has something to fit.

        None where it would have to be fitted, and there is nothing to fit on.
        """
        if not has_fit(plan):
            return self._measured({"plan": str(plan)}, lambda: running(self._loaded, plan), title)
        images = self._options.fitting
        if images is None:
            return None
        of = {"plan": str(plan), "fitting": dataset_fingerprint(images)}
        return self._measured(of, lambda: self._fit(plan, images), title)

    def method(self, method: Method, setting: float) -> tuple[Encoders, Measured | None]:
        """The encoders a method works on, and its measurement, where it can be made."""
        if isinstance(method, FittedReuse):
            return self._fitted(method, int(setting))
        if isinstance(method, Planned):
            return (), self.plan(method.plan(self._options.target.model, setting), method.title)
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
        calibration = self._options.calibration
        if calibration is None:
            layout = self._options.target.model.layout
            if isinstance(method, Reuse):
                return method.spread(layout, count)
            return spread(count, range(len(layout.stages)))
        found = self._options.kept.get(
            {
                "choice": method.name,
                "count": count,
                "amp": self._options.amp,
                **self._calibrated(calibration),
            },
            lambda: list(
                choose_encoders(self._loaded, method, count, self._pixels, amp=self._options.amp)
            ),
        )
        return tuple(found)

    def _fitted(self, method: FittedReuse, count: int) -> tuple[Encoders, Measured | None]:
        calibration, images = self._options.calibration, self._options.fitting
        if calibration is None or images is None:
            _logger.info("%s is not measured: give --run or --calib", method.title)
            return (), None

        def choose() -> list[int]:
            with _scratch() as scratch:
                return list(choose_fitted(self._loaded, method, count, self._pixels, scratch))

        key = {
            "fitted": method.name, "count": count, "fitting": dataset_fingerprint(images),
            **self._calibrated(calibration),
        }  # fmt: skip
        consumers = tuple(self._options.kept.get(key, choose))
        layout = self._options.target.model.layout
        return consumers, self.plan(method.plan(consumers, layout), method.title)

    def _fit(self, plan: Plan, images: ImageSet) -> nn.Module:
        pixels = (batch.images for batch in batches(images, _BATCH))
        with _scratch() as scratch:
            fitted = fit_plan(self._loaded, plan, pixels, scratch)
        return apply_fitted(deepcopy(self._loaded.model), fitted)

    def _measured(
        self, of: Mapping[str, object], make: Callable[[], nn.Module], label: str
    ) -> Measured:
        evaluation = self._evaluation
        original = evaluation.guesses({"original": True}, lambda: self._loaded.model, "original")
        return evaluation.compare(evaluation.guesses(of, make, label), original)

    def _calibrated(self, calibration: ImageSet) -> dict[str, object]:
        return {
            "weights": self._loaded.weights_sha256,
            "calibration": dataset_fingerprint(calibration),
        }

    @cached_property
    def _pixels(self) -> list[Tensor]:
        """The images to choose with in batches, decoded once."""
        assert self._options.calibration is not None
        return [batch.images for batch in batches(self._options.calibration, _BATCH)]


def has_fit(plan: Plan) -> bool:
    """Whether a plan has projections that only a fit makes of use."""
    return any(reuse.transform != "none" for reuse in plan.reuses)


@contextmanager
def _scratch() -> Iterator[Path]:
    """A folder for activations, gone afterwards."""
    with TemporaryDirectory(prefix="trex-compare-") as folder:
        yield Path(folder)
