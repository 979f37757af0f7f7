"""Finding the cascade and the early exits that lose least at a mean cost, without labels.

Thresholds, pairs of plans and places of exits are chosen on one half of the calibration images;
exits are fitted on the other half. What counts is the mean divergence from the original's answers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trex.errors import InfeasibleError
from trex.fit.ridge import RidgeSystem
from trex.models.answers import first_tensor
from trex.runtime.adaptive import (
    MEASURES,
    Cascade,
    EarlyExits,
    ExitHead,
    Measure,
    cascade_costs,
    class_tokens,
    confidence,
    exit_costs,
    exit_logits,
    shared_encoders,
    traced_classes,
)
from trex.runtime.dynamic import DynamicModel, Quantity
from trex.training.data import Batch

Floats = NDArray[np.float64]
Progress = Callable[[int], object]

#: Penalty of the exits' linear maps, as a share of the class tokens' mean square.
RIDGE: Final = 0.03
#: Exits a plan has at most.
_MOST_EXITS: Final = 2
#: Thresholds that are tried between the least and the largest confidence of the images.
_THRESHOLDS: Final = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """A way to answer, and what it came to on the images that chose it.

    Attributes:
        kind: `plan`, `cascade` or `exits`.
        plans: one, or a cascade's two.
        exits: encoders behind which images may leave.
        measure: of confidence.
        threshold: as `Cascade` and `EarlyExits` take it.
        cost: the mean, in SI units.
        shares: of the images that took each way.
        loss: mean divergence from the original, in nats an image.
        agreement: share of images of the original's first guess.
        images: so many chose it.
    """

    kind: Literal["plan", "cascade", "exits"]
    plans: tuple[str, ...]
    exits: tuple[int, ...] = ()
    measure: Measure = "margin"
    threshold: float = 0.0
    cost: float
    shares: tuple[float, ...]
    loss: float
    agreement: float
    images: int

    @property
    def title(self) -> str:
        """For people."""
        if self.kind == "plan":
            return f"plan {self.plans[0]}"
        rule = f"{self.measure} {self.threshold:.3f}"
        if self.kind == "cascade":
            return f"cascade {self.plans[0]}, then {self.plans[1]} ({rule})"
        places = " and ".join(map(str, self.exits))
        return f"exits of {self.plans[0]} behind encoder {places} ({rule})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What one way says of every image: its loss, whether it agrees, how sure it is."""

    loss: Floats
    agrees: Floats
    sure: Mapping[Measure, Floats]

    @classmethod
    def of(cls, logits: Tensor, original: Tensor) -> Seen:
        """From logits (B, C) and the original's."""
        log_p = original.double().log_softmax(-1)
        log_q = logits.double().log_softmax(-1)
        return cls(
            loss=(log_p.exp() * (log_p - log_q)).sum(-1).numpy(),
            agrees=(logits.argmax(1) == original.argmax(1)).double().numpy(),
            sure={of: confidence(logits, of).double().numpy() for of in MEASURES},
        )

    @classmethod
    def joined(cls, parts: Sequence[Seen]) -> Seen:
        """Of several batches."""
        return cls(
            loss=np.concatenate([part.loss for part in parts]),
            agrees=np.concatenate([part.agrees for part in parts]),
            sure={of: np.concatenate([part.sure[of] for part in parts]) for of in MEASURES},
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """What all plans and all exits say of the images that choose.

    Attributes:
        plans: by name.
        exits: by plan's name, then by encoder; empty where the model can have none.
    """

    plans: Mapping[str, Seen]
    exits: Mapping[str, Mapping[int, Seen]]


@torch.no_grad()
def fit_exits(
    model: DynamicModel,
    encoders: Sequence[int],
    batches: Iterable[Batch],
    *,
    ridge: float = RIDGE,
    progress: Progress = lambda images: None,
) -> dict[str, dict[int, ExitHead]]:
    """Solve for every plan's exits behind some encoders.

    Args:
        model: whose plans.
        encoders: behind which.
        batches: images to fit on.
        ridge: penalty, as a share of the class tokens' mean square.
        progress: called with the number of images done.

    Returns:
        By plan's name, then by encoder.

    Raises:
        ModelError: the model's head reads other tokens than class tokens.
    """
    class_tokens(model)
    systems: dict[tuple[str, int], RidgeSystem] = {}
    for batch in batches:
        for plan in model.plans:
            seen, final, _ = traced_classes(model, plan, encoders, batch.images)
            for encoder, tokens in seen.items():
                size = tokens.shape[1]
                system = systems.setdefault((plan, encoder), RidgeSystem(size, size))
                system.add(tokens, final, torch.ones(len(tokens)))
        progress(len(batch.images))
    heads: dict[str, dict[int, ExitHead]] = {plan: {} for plan in model.plans}
    for (plan, encoder), system in systems.items():
        weight, bias = system.solve(ridge)
        heads[plan][encoder] = ExitHead(weight.float(), bias.float())
    return heads


@torch.no_grad()
def observe(
    model: DynamicModel,
    heads: Mapping[str, Mapping[int, ExitHead]],
    batches: Iterable[Batch],
    *,
    progress: Progress = lambda images: None,
) -> Observed:
    """Run all plans, and their exits, on the images that choose."""
    plans: dict[str, list[Seen]] = {name: [] for name in model.plans}
    exits: dict[str, dict[int, list[Seen]]] = {
        name: {encoder: [] for encoder in heads.get(name, {})} for name in model.plans
    }
    for batch in batches:
        original = first_tensor(model.base(batch.images)).float()
        for name in model.plans:
            own, module = heads.get(name, {}), model.variant(name)
            if own:
                seen, _, logits = traced_classes(model, name, tuple(own), batch.images)
                for encoder, head in own.items():
                    tokens = seen[encoder].reshape(len(batch.images), class_tokens(model), -1)
                    guess = exit_logits(model, module, head, tokens)
                    exits[name][encoder].append(Seen.of(guess, original))
            else:
                logits = first_tensor(module(batch.images))
            plans[name].append(Seen.of(logits, original))
        progress(len(batch.images))
    return Observed(
        plans={name: Seen.joined(parts) for name, parts in plans.items()},
        exits={
            name: {encoder: Seen.joined(parts) for encoder, parts in of.items()}
            for name, of in exits.items()
        },
    )


def choose(
    model: DynamicModel,
    seen: Observed,
    limit: float,
    *,
    quantity: Quantity,
    exit_cost: Mapping[str, float],
) -> dict[str, Chosen]:
    """The best plan, the best cascade and the best early exits within a mean cost.

    Args:
        model: whose plans.
        seen: what they say of the images that choose.
        limit: of the mean cost, in SI units.
        quantity: of the limit.
        exit_cost: of an exit's linear map, by quantity.

    Returns:
        By kind: `plan`, `cascade`, `exits`; what fits nothing is left out.

    Raises:
        InfeasibleError: nothing fits the limit.
    """
    found: dict[str, Chosen] = {}
    for candidate in itertools.chain(
        _plans(model, seen, quantity),
        _cascades(model, seen, limit, quantity),
        _exits(model, seen, limit, quantity, exit_cost),
    ):
        if candidate.cost > limit * (1 + 1e-9):
            continue
        best = found.get(candidate.kind)
        if best is None or candidate.loss < best.loss:
            found[candidate.kind] = candidate
    if not found:
        raise InfeasibleError(
            f"no plan, cascade or exit of this bundle has a mean {quantity} of {limit:.4g}",
            hint="raise the limit",
        )
    return found


def _plans(model: DynamicModel, seen: Observed, quantity: Quantity) -> Iterable[Chosen]:
    for name, own in seen.plans.items():
        yield Chosen(
            kind="plan", plans=(name,), cost=model.point(name).cost(quantity), shares=(1.0,),
            loss=float(own.loss.mean()), agreement=float(own.agrees.mean()), images=len(own.loss),
        )  # fmt: skip


def _cascades(
    model: DynamicModel, seen: Observed, limit: float, quantity: Quantity
) -> Iterable[Chosen]:
    """Every pair, with the threshold that spends all of the limit."""
    for first, second in itertools.permutations(model.plans, 2):
        shared = shared_encoders(model, first, second)
        stay, go = cascade_costs(model, first, second, shared, quantity)
        if stay > limit or stay >= model.point(second).cost(quantity):
            continue
        own, other = seen.plans[first], seen.plans[second]
        most = min(1.0, (limit - stay) / (go - stay))
        for measure in MEASURES:
            sure = own.sure[measure]
            number = int(most * len(sure))
            # below the threshold lie the `number` least sure images, or fewer where some tie
            bounds = _between(np.sort(sure))
            threshold = float(bounds[number])
            on = sure < threshold
            share = float(on.mean())
            yield Chosen(
                kind="cascade", plans=(first, second), measure=measure, threshold=threshold,
                cost=stay + share * (go - stay), shares=(1 - share, share),
                loss=float(np.where(on, other.loss, own.loss).mean()),
                agreement=float(np.where(on, other.agrees, own.agrees).mean()), images=len(sure),
            )  # fmt: skip


def _between(ordered: Floats) -> Floats:
    """Below all of some numbers, between neighbours, above all: so rounding decides nothing."""
    inner = (ordered[:-1] + ordered[1:]) / 2
    return np.concatenate([ordered[:1] - 1e-6, inner, ordered[-1:] + 1e-6])


def _exits(
    model: DynamicModel,
    seen: Observed,
    limit: float,
    quantity: Quantity,
    exit_cost: Mapping[str, float],
) -> Iterable[Chosen]:
    """Every plan with one exit or two, at the largest threshold that keeps the limit."""
    for name, exits in seen.exits.items():
        for number in range(1, _MOST_EXITS + 1):
            for places in itertools.combinations(sorted(exits), number):
                costs = np.array(exit_costs(model, name, places, exit_cost, quantity))
                if costs[0] > limit:
                    continue
                ways = [*(exits[place] for place in places), seen.plans[name]]
                for measure in MEASURES:
                    candidate = _at_limit(ways, costs, limit, measure)
                    if candidate is not None:
                        yield Chosen(kind="exits", plans=(name,), exits=places, **candidate)


def _at_limit(
    ways: Sequence[Seen], costs: Floats, limit: float, measure: Measure
) -> dict[str, Any] | None:
    """The largest threshold whose mean cost keeps the limit, and what comes of it."""
    every = np.stack([way.sure[measure] for way in ways[:-1]])
    bounds = _between(np.unique(every))
    some = np.unique(np.linspace(0, len(bounds) - 1, min(_THRESHOLDS, len(bounds))).round())
    for threshold in bounds[some.astype(int)][::-1]:
        leaves = np.vstack([every >= threshold, np.ones(every.shape[1], dtype=bool)])
        way = leaves.argmax(axis=0)
        cost = float(costs[way].mean())
        if cost <= limit:
            picked = way[None]
            loss = np.take_along_axis(np.stack([of.loss for of in ways]), picked, 0)
            agrees = np.take_along_axis(np.stack([of.agrees for of in ways]), picked, 0)
            return {
                "measure": measure,
                "threshold": float(threshold),
                "cost": cost,
                "shares": tuple(float((way == n).mean()) for n in range(len(ways))),
                "loss": float(loss.mean()),
                "agreement": float(agrees.mean()),
                "images": len(way),
            }
    return None


def running(
    model: DynamicModel,
    chosen: Chosen,
    heads: Mapping[str, Mapping[int, ExitHead]],
    exit_cost: Mapping[str, float],
) -> Cascade | EarlyExits | None:
    """The module of a cascade or of early exits; None for a plan."""
    if chosen.kind == "cascade":
        first, second = chosen.plans
        return Cascade(model, first, second, measure=chosen.measure, threshold=chosen.threshold)
    if chosen.kind == "exits":
        (plan,) = chosen.plans
        return EarlyExits(
            model, plan, {place: heads[plan][place] for place in chosen.exits},
            exit_cost=exit_cost, measure=chosen.measure, threshold=chosen.threshold,
        )  # fmt: skip
    return None
