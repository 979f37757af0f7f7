"""The winner's last fit: all calibration images, augmented views of them, and the refinement."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from functools import partial

from torch import Tensor, nn

from trex.fit.calibration import Calibration
from trex.fit.fitter import PlanFitter, apply_fitted, is_fitted
from trex.fit.refine import Batch, Round, refine
from trex.plan import Plan
from trex.reuse import apply_plan
from trex.reuse.transforms import averaged
from trex.search.problem import progress_bar
from trex.search.workshop import Workshop
from trex.training.data import ImageSet, ViewSet, batches
from trex.training.transforms import DataConfig, fitting_views


def fit_winner(shop: Workshop, plan: Plan) -> tuple[nn.Module, list[Round]]:
    """The running variant of a plan, and what its refinement did; the original stays."""
    problem = shop.problem
    settings, loaded = problem.settings, problem.loaded
    refines = plan.first_changed is not None and settings.refine.rounds > 0
    fitted = any(map(is_fitted, plan.reuses))
    variant = apply_plan(deepcopy(loaded.model), plan)
    if not (refines or fitted):
        return variant, []
    if fitted or settings.final_views:
        parts, logits, variant = _fitted(shop, plan)
    else:  # what the original answers is known
        parts, logits = [shop.parts.fit, *shop.parts.measured], shop.calibration.logits
    if not refines:
        return variant, []
    most = sum(map(len, parts)) * settings.refine.rounds
    with progress_bar("refinement", most) as advance:
        rounds = refine(
            variant,
            loaded.adapter,
            partial(answered, parts, logits, settings.fit.batch_size),
            settings=settings.refine,
            scratch=shop.scratch,
            seed=settings.seed,
            progress=advance,
        )
    return variant, rounds


def _fitted(shop: Workshop, plan: Plan) -> tuple[list[ImageSet | ViewSet], Tensor, nn.Module]:
    """All images with their views, what the original answers, and the plan fitted on them."""
    problem = shop.problem
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
            settings=shop.fit_settings,
            scratch=shop.scratch,
            maps=averaged([plan]),
            progress=advance,
        )
    try:
        steps = PlanFitter(calibration).steps([plan])
        with progress_bar("final fit", steps, "encoder steps") as advance:
            (fitted,) = PlanFitter(calibration, progress=advance).fit([plan])
    finally:
        calibration.close()
    return parts, calibration.logits, apply_fitted(deepcopy(loaded.model), fitted)


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
