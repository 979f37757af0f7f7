"""Fits of small staged models, whole solutions: what the solver finds, not how much is used."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from tiny_models import Kind

from trex.architecture import Transform
from trex.models.registry import adapter_of
from trex.plan import ReusePlan
from trex.reuse.fit import Calibration, Candidate, FitSettings, PlanFitter


def fit_losses(
    kind: Kind, plan: str, transforms: Sequence[Transform], scratch: Path
) -> dict[str, float]:
    """Mean squared difference of the logits from the original's, by transform."""
    model, images = kind.build(), kind.images(48)
    parsed = ReusePlan.parse(plan)
    candidates = [
        Candidate(plan=parsed, transforms=dict.fromkeys(parsed.consumers, transform))
        for transform in transforms
    ]
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
            fitted.candidate.transforms[parsed.consumers[0]]: float(
                (fitted.logits - expected).square().mean()
            )
            for fitted in PlanFitter(calibration).fit(candidates)
        }
