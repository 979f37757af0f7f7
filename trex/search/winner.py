"""The winner's last fit: all calibration images, augmented views of them, and the refinement."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Final, NamedTuple

from torch import Tensor, nn

from trex.fit.calibration import Calibration, FitSettings
from trex.fit.fitter import PlanFitter, apply_fitted, is_fitted
from trex.fit.refine import Batch, Round, refine
from trex.plan import Plan
from trex.reuse import apply_plan
from trex.reuse.transforms import averaged
from trex.search.context import SearchContext
from trex.search.problem import progress_bar
from trex.training.data import ImageSet, ViewSet, batches
from trex.training.transforms import DataConfig, fitting_views

#: shares of the way to the solution that producers may go, beside staying as they are
_PRODUCERS: Final = (None, 0.5, 1.0)


class Winner(NamedTuple):
    """A plan fitted on all images.

    Attributes:
        variant: the running model.
        producers: what the plan lost on the images it is compared on, in nats, by the share of
            the way to the solution that producers behind its first change went; empty where
            none could.
        rounds: what the refinement did.
    """

    variant: nn.Module
    producers: dict[float, float]
    rounds: list[Round]


def fit_winner(context: SearchContext, plan: Plan) -> Winner:
    """The running variant of a plan; the original stays."""
    problem = context.problem
    settings, loaded = problem.settings, problem.loaded
    refines = plan.first_changed is not None and settings.refine.rounds > 0
    way, tried = _way_of(context, plan)
    fitted = any(map(is_fitted, plan.reuses)) or bool(tried and way.producers)
    variant = apply_plan(deepcopy(loaded.model), plan)
    if not (refines or fitted):
        return Winner(variant, tried, [])
    if fitted or settings.final_views:
        parts, logits, variant = _fitted(context, plan, way)
    else:  # what the original answers is known
        parts, logits = [context.parts.fit, *context.parts.measured], context.calibration.logits
    if not refines:
        return Winner(variant, tried, [])
    most = sum(map(len, parts)) * settings.refine.rounds
    with progress_bar("refinement", most, passes=problem.space.num_encoders) as advance:
        rounds = refine(
            variant,
            loaded.adapter,
            partial(answered, parts, logits, settings.fit.batch_size),
            settings=settings.refine,
            scratch=context.scratch,
            seed=settings.seed,
            progress=advance,
        )
    return Winner(variant, tried, rounds)


def _way_of(context: SearchContext, plan: Plan) -> tuple[FitSettings, dict[float, float]]:
    """How a plan is fitted, and what it lost by its producers' share.

    The search's fits have one share for all plans; how far to go differs from plan to plan.
    """
    way, first = context.fit_settings, plan.first_changed
    if (
        context.goes_on_from_v0_1
        or first is None
        or first + 1 == context.problem.space.num_encoders
    ):
        return way, {}
    fitters = [
        context.fitter(settings=replace(way, producers=share), unconsumed=True)
        for share in _PRODUCERS
    ]
    tried: dict[float, float] = {}
    steps = sum(fitter.steps([plan]) for fitter in fitters)
    with progress_bar("producers' share", steps, "encoder steps") as advance:
        for share, fitter in zip(_PRODUCERS, fitters, strict=True):
            (fitted,) = fitter.fit([plan])
            tried[share or 0.0] = context.selection(fitted.logits).loss
            advance(fitter.steps([plan]))
    best = min(tried, key=lambda share: (tried[share], share))
    return replace(way, producers=best or None), tried


def _fitted(
    context: SearchContext, plan: Plan, way: FitSettings
) -> tuple[list[ImageSet | ViewSet], Tensor, nn.Module]:
    """All images with their views, what the original answers, and the plan fitted on them."""
    problem = context.problem
    settings, loaded = problem.settings, problem.loaded
    parts: list[ImageSet | ViewSet] = [problem.images]
    if settings.final_views and isinstance(problem.data_config, DataConfig):
        views = fitting_views(problem.data_config, settings.final_views, settings.seed)
        parts.append(problem.images.with_views(views))
    total = sum(map(len, parts))
    pixels = (batch.images for part in parts for batch in batches(part, settings.fit.batch_size))
    passes = problem.space.num_encoders
    with progress_bar("final fit: original", total, passes=passes) as advance:
        calibration = Calibration(
            loaded.model,
            loaded.adapter,
            pixels,
            settings=way,
            scratch=context.scratch,
            maps=averaged([plan]),
            progress=advance,
        )
    try:
        fitter = partial(PlanFitter, calibration, unconsumed=not context.goes_on_from_v0_1)
        with progress_bar("final fit", fitter().steps([plan]), "encoder steps", 1) as advance:
            (fitted,) = fitter(progress=advance).fit([plan])
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
