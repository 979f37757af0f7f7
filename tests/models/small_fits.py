"""Fits of small staged models, whole solutions: what the solver finds, not how much is used."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from tiny_models import Kind

from trex.fit.calibration import Calibration, FitSettings
from trex.fit.fitter import PlanFitter
from trex.models.registry import adapter_of
from trex.plan import Plan, Transform


def fit_losses(
    kind: Kind, plan: str, transforms: Sequence[Transform], scratch: Path
) -> dict[str, float]:
    """Mean squared difference of the logits from the original's, by transform."""
    model, images = kind.build(), kind.images(48)
    parsed = Plan.parse(plan)
    candidates = [parsed.with_transforms(transform) for transform in transforms]
    settings = FitSettings(ridge=1e-3, batch_size=16, drift=0.5, shrink=1.0)
    batches = list(images.split(16))
    with closing(
        Calibration(
            model, adapter_of(model), batches[:2], batches[2:], settings=settings,
            scratch=scratch,
        )
    ) as calibration:  # fmt: skip
        expected = calibration.logits[32:]
        return {
            fitted.plan.transforms[parsed.consumers[0]]: float(
                (fitted.logits - expected).square().mean()
            )
            for fitted in PlanFitter(calibration).fit(candidates)
        }
