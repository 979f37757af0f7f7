"""Which encoders reuse or skip: one after another, each time the one that then loses least.

Every choice is measured, together with those made before it, on calibration images, by KL from
the original. No evaluation image has a part in it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from trex.compare.methods import AttentionSkip, Encoders, FittedReuse, Method, Reuse
from trex.compare.variants import num_encoders, variant
from trex.fit.calibration import Calibration, FitSettings
from trex.fit.choose import choose_settings
from trex.fit.fitter import FittedPlan, PlanFitter
from trex.fit.loss import mean_kl
from trex.models.answers import answers_of, first_tensor
from trex.models.registry import LoadedModel
from trex.plan import Plan
from trex.reuse.transforms import AVERAGED, averaged

#: Losses of sets of encoders, in their order.
Losses = Callable[[Sequence[Encoders]], Sequence[float]]

#: Share of the calibration images that fitted plans are compared on, as in a search.
_SELECT_SHARE = 0.4


def greedy(free: Sequence[int], count: int, losses: Losses) -> Encoders:
    """`count` of the `free` encoders."""
    chosen: Encoders = ()
    for _ in range(count):
        sets = [tuple(sorted((*chosen, i))) for i in free if i not in chosen]
        values = losses(sets)
        chosen = sets[min(range(len(sets)), key=values.__getitem__)]
    return chosen


def choose_encoders(
    loaded: LoadedModel,
    method: Method,
    count: int,
    images: Sequence[Tensor],
    *,
    amp: bool = False,
) -> Encoders:
    """The encoders of a method that needs no fit.

    Args:
        loaded: the original.
        method: skips or reuses.
        count: how many encoders.
        images: batches (B, C, H, W) to compare on.
        amp: in mixed precision.
    """
    assert isinstance(method, (Reuse, AttentionSkip))
    free = range(num_encoders(loaded))
    if isinstance(method, Reuse):
        free = method.free(loaded.adapter.layout(loaded.model))
    precision = torch.autocast(images[0].device.type, torch.bfloat16, enabled=amp)
    with torch.no_grad(), precision, _bar(method, len(free), count) as bar:
        original, of = _logits(loaded.model, images), answers_of(loaded.model)

        def losses(sets: Sequence[Encoders]) -> list[float]:
            found = []
            for encoders in sets:
                running = variant(loaded, method, count, encoders).eval()
                found.append(mean_kl(_logits(running, images), original, of))
                bar.update()
            return found

        return greedy(free, count, losses)


def choose_fitted(
    loaded: LoadedModel, method: FittedReuse, count: int, images: Sequence[Tensor], scratch: Path
) -> Encoders:
    """The encoders of a method whose projections are fitted: each set is fitted and compared.

    Args:
        loaded: the original.
        method: reuse with fitted projections.
        count: how many encoders reuse.
        images: batches (B, C, H, W) in an order that is fair; a part of them is fitted on, the
            others are compared on.
        scratch: a folder with room for their activations.
    """
    settings, layout = FitSettings(), loaded.adapter.layout(loaded.model)
    free = method.free(layout)
    pictures = torch.cat(list(images))
    kept = max(1, round(_SELECT_SHARE * len(pictures)))
    part = Calibration(
        loaded.model,
        loaded.adapter,
        torch.split(pictures[: max(1, len(pictures) - kept)], settings.batch_size),
        torch.split(pictures[-kept:], settings.batch_size),
        settings=settings,
        scratch=scratch,
        maps=free if method.transform in AVERAGED else (),
    )
    try:
        original = part.logits[part.n_fit :]
        chosen = choose_settings(part, method.plan(tuple(free[::-3]), layout))[0].settings
        with _bar(method, len(free), count) as bar:

            def losses(sets: Sequence[Encoders]) -> list[float]:
                plans, found = [method.plan(s, layout) for s in sets], {}
                for fitted in PlanFitter(part, settings=chosen).fit(plans):
                    found[fitted.plan] = part.loss(fitted.logits, original)
                    bar.update()
                return [found[plan] for plan in plans]

            return greedy(free, count, losses)
    finally:
        part.close()


def fit_plan(
    loaded: LoadedModel, plan: Plan, images: Iterable[Tensor], scratch: Path
) -> FittedPlan:
    """A plan, fitted on batches of images (B, C, H, W)."""
    maps = averaged([plan])
    whole = Calibration(
        loaded.model, loaded.adapter, images, settings=FitSettings(), scratch=scratch, maps=maps
    )
    try:
        chosen = choose_settings(whole, plan)[0].settings
        (fitted,) = PlanFitter(whole, settings=chosen).fit([plan])
    finally:
        whole.close()
    return fitted


def _bar(method: Method, free: int, count: int) -> tqdm[Any]:
    total = sum(free - done for done in range(count))
    return tqdm(desc=f"choosing: {method.title}", total=total, file=sys.stderr, disable=None)


def _logits(model: nn.Module, images: Sequence[Tensor]) -> Tensor:
    return torch.cat([first_tensor(model(batch)) for batch in images])
