"""The rungs after the fit: the best candidates compared on more images, then refined."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from functools import partial

import torch
from torch import nn

from trex.fit.fitter import FittedPlan, apply_fitted
from trex.fit.refine import refine
from trex.search.context import SearchContext
from trex.search.rungs import measure_rung, measured_selection
from trex.search.winner import answered
from trex.store.record import Record


def measure_refined(context: SearchContext, records: Sequence[Record]) -> None:
    """Refine fitted candidates on the images they were fitted on, measure and record them."""
    measure_rung(
        context,
        records,
        rung="refined",
        part="refined",
        images=lambda record: context.calibration.n_fit,
        measure=lambda record: measured_selection(context, refined_variant(context, record)),
    )


def measure_confirmed(context: SearchContext, records: Sequence[Record]) -> None:
    """Compare candidates once more, with images on which none was chosen."""
    measure_rung(
        context,
        records,
        rung="confirmed",
        part="confirmed",
        images=lambda record: 0,
        measure=lambda record: measured_selection(context, fitted_variant(context, record)),
    )


def fitted_variant(context: SearchContext, record: Record) -> nn.Module:
    """A recorded candidate as it was fitted for the selection, running; the original stays."""
    return apply_fitted(deepcopy(context.problem.loaded.model), _state(context, record))


def refined_variant(context: SearchContext, record: Record) -> nn.Module:
    """A recorded candidate fitted and refined on the images it is not compared on."""
    settings = context.problem.settings
    calibration = context.calibration
    variant = fitted_variant(context, record)
    refine(
        variant,
        context.problem.loaded.adapter,
        partial(answered, [context.parts.fit], calibration.logits, settings.fit.batch_size),
        settings=settings.refine,
        scratch=context.scratch,
        seed=settings.seed,
    )
    return variant


def _state(context: SearchContext, record: Record) -> FittedPlan:
    """A fitted candidate, fitted again where another machine did it, or its file is damaged."""
    plan = record.parsed
    if (state := context.run.usable_parameters(record.key)) is not None:
        return FittedPlan(plan=plan, state=state, logits=torch.empty(0))
    (fitted,) = context.fitter().fit([plan])
    return fitted
