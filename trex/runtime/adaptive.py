"""Plans chosen by the image: cascades of two plans, and early exits.

A cascade asks a cheap plan and, where its confidence is low, a costly one, which goes on where
both still did the same: behind the stem at least. An early exit guesses the final class tokens
from those behind some encoder (a linear map solved in closed form), asks the model's own head, and
lets an image leave where that is confident.

Letters: B images, N tokens, D width, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from trex.errors import ModelError, PlanError
from trex.models.adapter import Adapter
from trex.plan import Plan
from trex.reuse.apply import route_of
from trex.reuse.route import Kept, Passed, Route, State, Step, encode, encoders_of
from trex.runtime.dynamic import DynamicModel, Quantity

Measure = Literal["margin", "entropy"]
MEASURES: Final[tuple[Measure, ...]] = get_args(Measure)


class Answer(NamedTuple):
    """Logits (B, C), and the way that every image took (B,): 0 is the shortest."""

    logits: Tensor
    way: Tensor


class ExitHead(NamedTuple):
    """From an encoder's class tokens to the final ones, side by side: (c·D, c·D) and (c·D,)."""

    weight: Tensor
    bias: Tensor


def confidence(logits: Tensor, measure: Measure) -> Tensor:
    """How sure logits (B, C) are, (B,), between 0 and 1.

    `margin`: the first guess's probability less the second's. `entropy`: one less the entropy as
    a share of the largest, that of equal probabilities.
    """
    log_p = logits.float().log_softmax(-1)
    if measure == "margin":
        first, second = log_p.topk(2, dim=-1).values.exp().unbind(-1)
        return first - second
    entropy = -(log_p.exp() * log_p).sum(-1)
    return 1.0 - entropy / math.log(log_p.shape[-1])


class _Path:
    """A plan of a dynamic model, run part by part by the executor."""

    def __init__(self, adapter: Adapter, module: nn.Module) -> None:
        self.adapter, self.module = adapter, module
        self.route: Route = route_of(module, adapter)
        self.blocks = [block for _, block in encoders_of(module, adapter)]

    def begin(self, images: Tensor) -> State:
        """The state that enters encoder 0."""
        places = self.adapter.places(self.module, images)
        return self.route.enter(self.adapter, self.adapter.stem(self.module, images), places)

    def go(
        self, state: State, first: int, stop: int, also: frozenset[Kept] = frozenset()
    ) -> State:
        """Through the encoders from `first` to before `stop`.

        Args:
            state: before them.
            first: encoder.
            stop: encoder.
            also: what is kept beside what the plan's own later encoders reuse.
        """
        steps = self.route.steps[first:stop]
        if also:
            steps = tuple(_keeping(step, also) for step in steps)
        return encode(
            self.adapter, self.blocks[first:stop], steps, state,
            between=lambda index, stream: self.adapter.between(self.module, index, stream),
        )  # fmt: skip

    def end(self, state: State) -> Tensor:
        """From the state behind the last encoder to logits."""
        return self.adapter.head(self.module, self.route.leave(state))


def _keeping(step: Step, also: frozenset[Kept]) -> Step:
    return replace(step, live=step.live | {of for of in also if of[0] <= step.index})


def chosen_rows(state: State, rows: Tensor) -> State:
    """The state of some images, by a mask or by numbers."""
    return State(
        state.stream[rows],
        None if state.sizes is None else state.sizes[rows],
        None if state.groups is None else state.groups[rows],
        {of: value[rows] for of, value in state.kept.items()},
        state.places,
    )


def shared_encoders(model: DynamicModel, first: str, second: str) -> int:
    """How many encoders from the start on do the same in two plans, with the same weights.

    -1 where not even what is before the encoders is the same.
    """
    paths = [_Path(model.adapter, model.variant(name)) for name in (first, second)]
    plans = [Plan.parse(model.point(name).plan) for name in (first, second)]
    if not _same(*(_outside(path) for path in paths)):
        return -1
    for index, blocks in enumerate(zip(*(path.blocks for path in paths), strict=True)):
        own, other = (block.state_dict(keep_vars=True) for block in blocks)
        if not _same(own, other) or plans[0].at(index) != plans[1].at(index):
            return index
    return len(paths[0].blocks)


def _same(own: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return own.keys() == other.keys() and all(
        own[name] is other[name] or torch.equal(own[name], other[name]) for name in own
    )


def _outside(path: _Path) -> dict[str, Tensor]:
    """What a plan's module has outside its encoders."""
    inside = tuple(f"{name}." for name, _ in encoders_of(path.module, path.adapter))
    state = path.module.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in state.items() if not name.startswith(inside)}


class Cascade(nn.Module):
    """A cheap plan for all images, and a costly one for those that it is not sure of.

    Args:
        model: that has both plans.
        first: the plan that answers first.
        second: the one that runs where confidence is below the threshold.
        measure: of confidence.
        threshold: images at least as sure stay with the first plan's answer.

    Attributes:
        shared: how many encoders both plans have in common, which run once; -1 where they do not
            even share what is before the encoders.

    Raises:
        PlanError: there is no such plan, or both are the same.
    """

    def __init__(
        self, model: DynamicModel, first: str, second: str, *, measure: Measure, threshold: float
    ) -> None:
        super().__init__()
        if first == second:
            raise PlanError(f"a cascade of {first} and itself", hint="name two plans")
        self.model, self.first, self.second = model, first, second
        self.measure, self.threshold = measure, threshold
        self.shared = shared_encoders(model, first, second)

    def costs(self, quantity: Quantity) -> tuple[float, float]:
        """What images cost that stay, and those that go on, in SI units."""
        return cascade_costs(self.model, self.first, self.second, self.shared, quantity)

    def answer(self, images: Tensor) -> Answer:
        """Logits, and who went on (way 1)."""
        cheap, costly = (
            _Path(self.model.adapter, self.model.variant(name))
            for name in (self.first, self.second)
        )
        common = max(self.shared, 0)
        live = frozenset(of for step in costly.route.steps[:common] for of in step.live)
        state = cheap.go(cheap.begin(images), 0, common, live)
        logits = cheap.end(cheap.go(state, common, len(cheap.blocks)))
        unsure = confidence(logits, self.measure) < self.threshold
        if bool(unsure.any()):
            rest = chosen_rows(state, unsure) if self.shared >= 0 else costly.begin(images[unsure])
            rest = costly.go(rest, common, len(costly.blocks))
            logits = logits.clone()
            logits[unsure] = costly.end(rest).to(logits.dtype)
        return Answer(logits, unsure.long())

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        return self.answer(images).logits


def cascade_costs(
    model: DynamicModel, first: str, second: str, shared: int, quantity: Quantity
) -> tuple[float, float]:
    """What images of a cascade cost that stay with the first plan, and those that go on."""
    of_first, of_second = model.point(first), model.point(second)
    parts = of_second.parts[f"{quantity}_{'s' if quantity == 'latency' else 'j'}"]
    stay = of_first.cost(quantity)
    return stay, stay + of_second.cost(quantity) - sum(parts[: shared + 1])


class EarlyExits(nn.Module):
    """A plan whose images leave behind an encoder where its exit is confident.

    Args:
        model: that has the plan.
        plan: its name.
        heads: by encoder, as `fit_exits` makes them.
        exit_cost: of the linear map, by quantity; `{"latency": 0.0, "energy": 0.0}` where nobody
            priced it.
        measure: of confidence.
        threshold: images that are at least as sure leave.

    Attributes:
        exits: the encoders, in order.

    Raises:
        ModelError: the model's head reads other tokens than class tokens.
        PlanError: there is no such plan.
    """

    def __init__(
        self,
        model: DynamicModel,
        plan: str,
        heads: Mapping[int, ExitHead],
        *,
        exit_cost: Mapping[str, float],
        measure: Measure,
        threshold: float,
    ) -> None:
        super().__init__()
        class_tokens(model)
        self.model, self.plan = model, model.point(plan).name
        self.exits = tuple(sorted(heads))
        for encoder in self.exits:
            for name, tensor in heads[encoder]._asdict().items():
                self.register_buffer(f"exit{encoder}_{name}", tensor.clone())
        self.exit_cost = dict(exit_cost)
        self.measure, self.threshold = measure, threshold

    def costs(self, quantity: Quantity) -> tuple[float, ...]:
        """What images cost by the way they take: an exit each, then the whole plan."""
        return exit_costs(self.model, self.plan, self.exits, self.exit_cost, quantity)

    def head(self, encoder: int) -> ExitHead:
        """The linear map of an exit."""
        return ExitHead(*(self.get_buffer(f"exit{encoder}_{name}") for name in ExitHead._fields))

    def answer(self, images: Tensor) -> Answer:
        """Logits, and the number of the exit at which every image left."""
        path = _Path(self.model.adapter, self.model.variant(self.plan))
        here = torch.arange(len(images), device=images.device)
        state, first = path.begin(images), 0
        parts: list[tuple[Tensor, Tensor]] = []
        way = torch.full((len(images),), len(self.exits), device=images.device)
        for number, encoder in enumerate(self.exits):
            state = path.go(state, first, encoder + 1)
            first = encoder + 1
            logits = exit_logits(self.model, path.module, self.head(encoder), state.stream)
            sure = confidence(logits, self.measure) >= self.threshold
            parts.append((here[sure], logits[sure]))
            way[here[sure]] = number
            here, state = here[~sure], chosen_rows(state, ~sure)
            if not len(here):
                break
        if len(here):
            parts.append((here, path.end(path.go(state, first, len(path.blocks)))))
        order = torch.cat([numbers for numbers, _ in parts]).argsort()
        return Answer(torch.cat([logits for _, logits in parts])[order], way)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        return self.answer(images).logits


def exit_costs(
    model: DynamicModel,
    plan: str,
    encoders: Sequence[int],
    exit_cost: Mapping[str, float],
    quantity: Quantity,
) -> tuple[float, ...]:
    """What images cost that leave behind each of some encoders, then of those that never leave.

    Every exit that an image passes costs it the linear map and the model's head.
    """
    point = model.point(plan)
    parts = point.parts[f"{quantity}_{'s' if quantity == 'latency' else 'j'}"]
    asked = float(exit_cost[quantity]) + parts[-1]
    left = [
        sum(parts[: encoder + 2]) + number * asked
        for number, encoder in enumerate(encoders, start=1)
    ]
    return (*left, point.cost(quantity) + len(encoders) * asked)


def class_tokens(model: DynamicModel) -> int:
    """How many class tokens an exit reads.

    Raises:
        ModelError: the model's head reads other tokens too.
    """
    layout = model.adapter.layout(model.base)
    if not layout.class_rows:
        raise ModelError(
            f"early exits read class tokens, and {layout.no_class_rows or 'the model has none'}",
            hint="use a cascade, which any model can",
        )
    return layout.class_rows


def exit_logits(
    model: DynamicModel, module: nn.Module, head: ExitHead, stream_BND: Tensor
) -> Tensor:
    """What the model's head says of the final class tokens that an exit guesses."""
    tokens = stream_BND[:, : class_tokens(model)]
    guess = nn.functional.linear(tokens.flatten(1), head.weight, head.bias)
    return model.adapter.head(module, guess.view_as(tokens))


def traced_classes(
    model: DynamicModel, plan: str, encoders: Sequence[int], images: Tensor
) -> tuple[dict[int, Tensor], Tensor, Tensor]:
    """Class tokens behind some encoders of a plan and behind the last, and the logits.

    Returns:
        By encoder, (B, c·D); those behind the last encoder; logits (B, C).
    """
    number = class_tokens(model)
    path = _Path(model.adapter, model.variant(plan))
    wanted = frozenset(encoders)
    seen: dict[int, Tensor] = {}

    def see(step: Step, passed: Passed) -> None:
        if step.index in wanted:
            seen[step.index] = passed.left.stream[:, :number].flatten(1)

    state = encode(
        path.adapter, path.blocks, path.route.steps, path.begin(images), see=see,
        between=lambda index, stream: path.adapter.between(path.module, index, stream),
    )  # fmt: skip
    return seen, state.stream[:, :number].flatten(1), path.end(state)
