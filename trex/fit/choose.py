"""How to fit a model, chosen on its own calibration images.

What share of a solved map to use, how much of the drift to correct, how much class tokens count
and how strong the penalty is differ from model to model: what suits one that hardly needs its
attention wrecks another. So a plan is fitted in several ways on a part of the fitted images, and
the way is used that loses least on the others. No label and no image beside the fitted ones has a
part in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from torch import Tensor

from trex.fit.calibration import Calibration, FitSettings
from trex.fit.fitter import PlanFitter
from trex.plan import Plan
from trex.store.schemas import Tried, Way

#: Images that take part, and the share of them that ways of fitting are compared on.
MOST_IMAGES: Final = 400
_HELD_OUT: Final = 0.4
#: The share of a solved map that is used; 0 keeps the start.
_SHARES: Final = (0.0, 0.2, 0.4, 0.7, 1.0)
_DRIFTS: Final = (0.0, 0.5)
_CLASS_WEIGHTS: Final = (10.0, 1000.0)
_RIDGES: Final = (0.01, 1.0)
#: The share for producers behind the first consumer, beside leaving them as they are.
_PRODUCERS: Final = (0.5, 1.0)
#: what is chosen of the settings
CHOSEN: Final = ("shrink", "drift", "class_weight", "ridge", "producers")


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One way of fitting, and what the plan lost with it: nats, or as the loss given has it."""

    settings: FitSettings
    loss: float

    @property
    def tried(self) -> Tried:
        """For the run folder; no loss where there was nothing to choose."""
        loss = None if math.isnan(self.loss) else self.loss
        return Tried(**way_of(self.settings).as_json(), loss=loss)


def way_of(settings: FitSettings) -> Way:
    """What is chosen of the settings."""
    return Way(
        shrink=settings.shrink,
        drift=settings.drift,
        class_weight=settings.class_weight,
        ridge=settings.ridge,
        producers=settings.producers,
    )


def choose_settings(
    calibration: Calibration,
    plan: Plan,
    *,
    loss: Callable[[Tensor, Tensor], float] | None = None,
    most: int = MOST_IMAGES,
    progress: Callable[[int], object] = lambda steps: None,
) -> list[Trial]:
    """Ways to fit, the best first; one alone where the plan has nothing to fit.

    Args:
        calibration: the original's pass; its settings are where the choice starts.
        plan: what is fitted; the more consumers it has, the more the choice tells.
        loss: of a variant's answers against the original's; None for the calibration's own.
        most: images that take part.
        progress: called with every image that has passed through one encoder.
    """
    images = min(calibration.n_fit, most)
    held_out = round(_HELD_OUT * images)
    base = calibration.settings
    if not any(r.transform != "none" for r in plan.reuses) or not 0 < held_out < images:
        return [Trial(settings=base, loss=float("nan"))]
    tried: dict[FitSettings, Trial] = {}
    lost = loss or calibration.loss

    def best() -> FitSettings:
        return min(tried.values(), key=lambda trial: trial.loss).settings

    def attempt(ways: Iterator[FitSettings]) -> None:
        for way in ways:
            if way not in tried:
                fitter = PlanFitter(
                    calibration,
                    settings=way,
                    fit_rows=range(images - held_out),
                    measure_rows=range(images - held_out, images),
                    progress=progress,
                )
                (fitted,) = fitter.fit([plan])
                original = calibration.logits[images - held_out : images]
                tried[way] = Trial(settings=way, loss=lost(fitted.logits, original))

    attempt(replace(base, shrink=share) for share in _SHARES)
    chosen = best()
    attempt(replace(chosen, drift=drift) for drift in _DRIFTS)
    chosen = best()
    attempt(replace(chosen, class_weight=weight) for weight in _CLASS_WEIGHTS)
    chosen = best()
    attempt(replace(chosen, ridge=ridge) for ridge in _RIDGES)
    chosen = best()
    attempt(replace(chosen, producers=share) for share in _PRODUCERS)
    return sorted(tried.values(), key=lambda trial: trial.loss)


def steps_to_choose(calibration: Calibration, most: int = MOST_IMAGES) -> int:
    """How many images have to pass through how many encoders, at most."""
    images = min(calibration.n_fit, most)
    ways = sum(map(len, (_SHARES, _DRIFTS, _CLASS_WEIGHTS, _RIDGES, _PRODUCERS)))
    return ways * images * len(calibration.encoders)
