"""The rungs after the fit: the best candidates compared on more images, then refined."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from functools import partial

import torch
from torch import nn

from trex.fit.fitter import FittedPlan, apply_fitted
from trex.fit.refine import refine
from trex.search.rungs import measure_rung, measured_selection
from trex.search.winner import answered
from trex.search.workshop import Workshop
from trex.store.record import Record


def measure_refined(shop: Workshop, records: Sequence[Record]) -> None:
    """Refine fitted candidates on the images they were fitted on, measure and record them."""
    measure_rung(
        shop,
        records,
        rung="refined",
        part="refined",
        images=lambda record: shop.calibration.n_fit,
        measure=lambda record: measured_selection(shop, refined_variant(shop, record)),
    )


def measure_confirmed(shop: Workshop, records: Sequence[Record]) -> None:
    """Compare candidates once more, with images on which none was chosen."""
    measure_rung(
        shop,
        records,
        rung="confirmed",
        part="confirmed",
        images=lambda record: 0,
        measure=lambda record: measured_selection(shop, fitted_variant(shop, record)),
    )


def fitted_variant(shop: Workshop, record: Record) -> nn.Module:
    """A recorded candidate as it was fitted for the selection, running; the original stays."""
    return apply_fitted(deepcopy(shop.problem.loaded.model), _state(shop, record))


def refined_variant(shop: Workshop, record: Record) -> nn.Module:
    """A recorded candidate fitted and refined on the images it is not compared on."""
    settings = shop.problem.settings
    calibration = shop.calibration
    variant = fitted_variant(shop, record)
    refine(
        variant,
        shop.problem.loaded.adapter,
        partial(answered, [shop.parts.fit], calibration.logits, settings.fit.batch_size),
        settings=settings.refine,
        scratch=shop.scratch,
        seed=settings.seed,
    )
    return variant


def _state(shop: Workshop, record: Record) -> FittedPlan:
    """A fitted candidate, fitted again where another machine did it, or its file is damaged."""
    plan = record.parsed
    if (state := shop.run.usable_parameters(record.key)) is not None:
        return FittedPlan(plan=plan, state=state, logits=torch.empty(0))
    (fitted,) = shop.fitter().fit([plan])
    return fitted
