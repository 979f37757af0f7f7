"""The winner's last fit: all calibration images, augmented views of them, and the refinement."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from trex.fit.calibration import Calibration, FitSettings
from trex.fit.fitter import PlanFitter, apply_fitted
from trex.fit.refine import Batch, Round, refine
from trex.plan import Plan
from trex.reuse import apply_plan
from trex.reuse.transforms import averaged
from trex.search.problem import Problem, progress_bar
from trex.training.data import ImageSet, ViewSet, batches
from trex.training.transforms import DataConfig, fitting_views


def fit_winner(
    problem: Problem, plan: Plan, fit: FitSettings, scratch: Path
) -> tuple[nn.Module, list[Round]]:
    """The running variant of a plan, and what its refinement did; the original stays."""
    refines = plan.first_changed is not None and problem.settings.refine.rounds > 0
    if not refines and all(transform == "none" for transform in plan.transforms.values()):
        return apply_plan(deepcopy(problem.loaded.model), plan), []  # nothing to fit
    settings, loaded = problem.settings, problem.loaded
    parts: list[ImageSet | ViewSet] = [problem.images]
    if settings.final_views and isinstance(problem.data_config, DataConfig):
        views = fitting_views(problem.data_config, settings.final_views, settings.seed)
        parts.append(problem.images.with_views(views))
    total = sum(map(len, parts))
    pixels = (batch.images for part in parts for batch in batches(part, settings.fit.batch_size))
    with progress_bar("final fit: original", total) as advance:
        calibration = Calibration(
            loaded.model,
            loaded.adapter,
            pixels,
            settings=fit,
            scratch=scratch,
            maps=averaged([plan]),
            progress=advance,
        )
    try:
        steps = PlanFitter(calibration).steps([plan])
        with progress_bar("final fit", steps, "encoder steps") as advance:
            (fitted,) = PlanFitter(calibration, progress=advance).fit([plan])
    finally:
        calibration.close()

    variant = apply_fitted(deepcopy(loaded.model), fitted)
    if not refines:
        return variant, []
    most = total * settings.refine.rounds
    with progress_bar("refinement", most) as advance:
        rounds = refine(
            variant,
            loaded.adapter,
            partial(answered, parts, calibration.logits, settings.fit.batch_size),
            settings=settings.refine,
            scratch=scratch,
            seed=settings.seed,
            progress=advance,
        )
    return variant, rounds


def answered(
    parts: Sequence[ImageSet | ViewSet], logits: Tensor, batch_size: int
) -> Iterator[Batch]:
    """Images with the original's `logits`, which go on from part to part, and picture numbers."""
    start = 0
    for part in parts:
        per_picture = part.views.count if isinstance(part, ViewSet) else 1
        for batch in batches(part, batch_size):
            stop = start + len(batch.images)
            yield batch.images, logits[start:stop], batch.indices // per_picture
            start = stop
