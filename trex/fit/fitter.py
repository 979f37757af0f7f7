"""Closed-form fitting: every consumer's projection by weighted ridge regression, no training.

Encoder after encoder, on the variant's own activations: a consumer's projection is solved so that
from the reused tensor it puts out what the original's attention branch put out, plus a share of
the drift that has built up between the two residual streams. So later consumers correct earlier
ones' error; so can producers behind the first one, from their own projections on. Where tokens
were merged, the original's are averaged as the variant's were, and an error counts as often as the
token it is made on. Activations pass through files (`fit.scratch`), only Gram matrices are kept in
memory, and plans that begin alike share the work of their common beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from trex.errors import ReuseError
from trex.fit.calibration import Calibration, FitSettings, Progress, closed_on_failure
from trex.fit.mixing import set_mixing
from trex.fit.ridge import RidgeSystem
from trex.fit.scratch import TensorFile
from trex.models.adapter import Adapter, Consumer
from trex.plan import EncoderPlan, Plan, Reuse
from trex.reuse.apply import apply_plan, remove_plan
from trex.reuse.precision import forward_precision
from trex.reuse.route import (
    Kept,
    Route,
    State,
    Step,
    advance,
    enter,
    features,
    kept_until,
    producer_features,
)
from trex.reuse.transforms import consumer_of

#: chooses which of some plans to work on next; None for none of them
Take = Callable[[Sequence[Plan]], "Plan | None"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FittedPlan:
    """A fitted plan.

    Attributes:
        plan: what was fitted.
        state: the parameters that differ from the original's, under the variant's names.
        logits: of the measured images, (images, classes).
    """

    plan: Plan
    state: dict[str, Tensor]
    logits: Tensor


def apply_fitted(model: nn.Module, fitted: FittedPlan) -> nn.Module:
    """Make an original `model` run the fitted plan, in place, and return it.

    Raises:
        ReuseError: the parameters are not this model's; it is then as it was.
    """
    apply_plan(model, fitted.plan)
    state = model.state_dict()
    for name, value in fitted.state.items():
        if name not in state or state[name].shape != value.shape:
            remove_plan(model)
            raise ReuseError(
                f'"{fitted.plan}": the fitted parameter {name} is not one of this model',
                hint="fit the plan on this model",
            )
    with torch.no_grad():
        for name, value in fitted.state.items():
            state[name].copy_(value)
    return model


@dataclass(slots=True)
class _Node:
    """The plans that agree up to some encoder; `children` differ in what the next encoder does."""

    children: dict[EncoderPlan, _Node] = field(default_factory=dict)
    #: what plans below reuse of the encoders up to this node's
    live: set[Kept] = field(default_factory=set)
    plan: Plan | None = None
    #: whether a plan below fits a later encoder, for which the fitted images must go on
    fits: bool = False
    #: whether an encoder before it was fitted
    behind: bool = False
    #: all plans of this node and below, in order
    below: list[Plan] = field(default_factory=list)


def _below(node: _Node) -> Iterator[_Node]:
    """All nodes below one."""
    for child in node.children.values():
        yield child
        yield from _below(child)


@dataclass(slots=True)
class _Aim:
    """The plan that is worked towards; the next one is taken when a way has to be chosen."""

    take: Take
    plan: Plan | None = None

    def leads_to(self, node: _Node) -> bool:
        """Whether to go through a node; takes a plan below it where none is aimed at."""
        if self.plan is None and node.below:
            self.plan = self.take(node.below)
        return any(plan is self.plan for plan in node.below)


#: a part of a state: `stream`, `sizes`, `groups`, or what is kept of an encoder
_Part = str | Kept


@dataclass(frozen=True, slots=True)
class _Stored:
    """A state of all images, a file a part; sizes without one are the adapter's of the stream."""

    adapter: Adapter
    files: Mapping[_Part, TensorFile]
    places: tuple[Tensor, ...]

    def read(self, start: int, stop: int) -> State:
        """The images from `start` to `stop`."""
        parts: dict[_Part, Tensor] = {p: f.read(start, stop) for p, f in self.files.items()}
        stream = parts.pop("stream")
        sizes = parts.pop("sizes") if "sizes" in parts else self.adapter.sizes(stream)
        groups = parts.pop("groups", None)
        kept = cast("dict[Kept, Tensor]", parts)
        return State(stream, sizes, groups, kept, self.places)


def is_fitted(reuse: Reuse) -> bool:
    """Whether anything of a consumer is fitted: its projection, or its average map."""
    return reuse.transform != "none" or reuse.tensor == "map"


def _parts(state: State) -> dict[_Part, Tensor]:
    parts: dict[_Part, Tensor] = {"stream": state.stream}
    for part, value in (("sizes", state.sizes), ("groups", state.groups)):
        if value is not None:
            parts[part] = value
    return {**parts, **{part: value for part, value in state.kept.items()}}


class PlanFitter:
    """Fits and runs many plans over the images of one calibration, sharing beginnings.

    Args:
        calibration: the original's pass.
        settings: of the fit; the calibration's unless given, and its batches and precision in any
            case.
        fit_rows: the images that are fitted on, below `calibration.n_fit`.
        measure_rows: the images whose logits are returned.
        unconsumed: whether producers are also solved behind the first change of plans that
            solve for no consumer.
        progress: called with every image that has passed through one encoder.
    """

    def __init__(
        self,
        calibration: Calibration,
        *,
        settings: FitSettings | None = None,
        unconsumed: bool = False,
        fit_rows: range | None = None,
        measure_rows: range | None = None,
        progress: Progress = lambda steps: None,
    ) -> None:
        self._calibration = calibration
        self._settings = settings or calibration.settings
        self._adapter = calibration.adapter
        self._unconsumed = unconsumed
        self._fit_rows = fit_rows if fit_rows is not None else range(calibration.n_fit)
        self._measure_rows = (
            measure_rows
            if measure_rows is not None
            else range(calibration.n_fit, calibration.n_images)
        )
        self._progress = progress

    def steps(self, plans: Sequence[Plan]) -> int:
        """How many images have to pass through how many encoders, in all."""
        fitted, measured = len(self._fit_rows), len(self._measure_rows)
        return sum(measured + fitted * node.fits for node in _below(self._tree(plans)))

    def fit(
        self, plans: Sequence[Plan], take: Take = lambda left: left[0]
    ) -> Iterator[FittedPlan]:
        """Fit plans and yield each as soon as it is done; the order is the tree's.

        Args:
            plans: what may be fitted.
            take: asked before any work that only the given ones need; others may have taken them.

        Raises:
            PlanError: a plan does not fit the model; raised before any work.
        """
        for plan in plans:
            plan.validate(self._calibration.layout)
        files: dict[_Part, TensorFile] = {"stream": self._calibration.entry}
        entry = _Stored(self._adapter, files, self._calibration.places)
        with torch.no_grad():
            yield from self._visit(self._tree(plans), 0, entry, {}, _Aim(take))

    def _tree(self, plans: Sequence[Plan]) -> _Node:
        root = _Node()
        for plan in plans:
            node, path = root, []
            for index in range(len(self._calibration.encoders)):
                node = node.children.setdefault(plan.at(index), _Node())
                node.below.append(plan)
                path.append(node)
            for kept, last in kept_until(plan):
                for passed in path[kept[0] : last]:
                    passed.live.add(kept)
            fitted = [r.consumer for r in plan.reuses if is_fitted(r)]
            last = max(fitted, default=0)
            first = self._first_solved(plan)
            if first is not None and self._settings.producers:
                last = len(path) - 1
                for passed in path[first + 1 :]:
                    passed.behind = True
            for passed in path[:last]:
                passed.fits = True
            node.plan = plan
        return root

    def _first_solved(self, plan: Plan) -> int | None:
        """The encoder behind which producers are solved."""
        solved = [r.consumer for r in plan.reuses if r.transform != "none"]
        return min(solved, default=plan.first_changed if self._unconsumed else None)

    def _visit(
        self, node: _Node, index: int, before: _Stored, state: dict[str, Tensor], aim: _Aim
    ) -> Iterator[FittedPlan]:
        for decision, child in node.children.items():
            if not aim.leads_to(child):
                continue
            step = Step.of(index, decision, frozenset(child.live), self._calibration.layout)
            block, fitted = self._block(step, decision, before, child.behind)
            after, made = self._advance(block, step, before, fits=child.fits)
            try:
                if child.plan is not None:
                    aim.plan = None
                    yield FittedPlan(
                        plan=child.plan,
                        state={**state, **fitted},
                        logits=self._head(child.plan, after),
                    )
                yield from self._visit(child, index + 1, after, {**state, **fitted}, aim)
            finally:
                for file in made:
                    file.close()

    def _batches(self, *row_ranges: range) -> Iterator[tuple[int, int]]:
        size = self._calibration.settings.batch_size
        for rows in row_ranges:
            for start in range(rows.start, rows.stop, size):
                yield start, min(start + size, rows.stop)

    def _block(
        self, step: Step, decision: EncoderPlan, before: _Stored, behind: bool
    ) -> tuple[nn.Module, dict[str, Tensor]]:
        """The encoder a step runs, fitted where it consumes; its own parameters by name.

        A producer is fitted where it is `behind` a fitted consumer.
        """
        name, block = self._calibration.encoders[step.index]
        if step.reuse is None:
            return self._producer(name, block, step, before) if behind else (block, {})
        layout = self._calibration.layout
        consumer = consumer_of(block, decision, layout, self._adapter).eval()
        if consumer.average_tokens:
            set_mixing(consumer, step, partial(self._mapped, before), self._calibration)
        if step.reuse.transform != "none":
            self._solve(consumer, step, before)
        originals = {id(value) for value in (*block.parameters(), *block.buffers())}
        named = (*consumer.named_parameters(), *consumer.named_buffers())
        own = {key: value for key, value in named if id(value) not in originals}
        return consumer, {f"{name}.{key}": p.detach().clone() for key, p in own.items()}

    def _producer(
        self, name: str, block: nn.Module, step: Step, before: _Stored
    ) -> tuple[nn.Module, dict[str, Tensor]]:
        """A producer with its projection fitted, and that by name.

        As it is where the projection is a convolution's or has no bias to take the constant.
        """
        producer = deepcopy(block)
        projection = self._adapter.projection(producer)
        paths = [path for path, part in producer.named_modules() if part is projection]
        if not paths or projection.bias is None:
            return block, {}
        self._solve_producer(producer, projection, step, before)
        named = projection.named_parameters(prefix=f"{name}.{paths[0]}")
        return producer, {key: value.detach() for key, value in named}

    def _mapped(self, before: _Stored) -> Iterator[tuple[range, State]]:
        """States before an encoder of the fitted images whose maps are kept."""
        rows = self._fit_rows
        for start, stop in self._batches(
            range(rows.start, min(rows.stop, self._calibration.n_maps))
        ):
            yield range(start, stop), before.read(start, stop)

    def _advance(
        self, block: nn.Module, step: Step, before: _Stored, *, fits: bool
    ) -> tuple[_Stored, list[TensorFile]]:
        """The state behind an encoder, and the files that were made for it.

        Only where a later encoder is fitted do the fitted images go on.
        """
        fitted = self._fit_rows if fits else range(0)
        calibration, adapter = self._calibration, self._adapter
        made: dict[_Part, TensorFile] = {}
        parts: dict[_Part, Tensor] = {}
        with self._precision(), closed_on_failure(made.values()):
            for start, stop in self._batches(fitted, self._measure_rows):
                state = before.read(start, stop)
                left = advance(adapter, block, step, state).left
                stream = adapter.between(calibration.model, step.index, left.stream)
                known, parts = _parts(state), _parts(left._replace(stream=stream))
                for part, value in parts.items():
                    if part not in before.files or value is not known[part]:
                        made.setdefault(part, self._file(value)).write(start, value)
                self._progress(stop - start)
        files = {part: made.get(part) or before.files[part] for part in parts}
        return _Stored(adapter, files, before.places), list(made.values())

    def _solve(self, consumer: Consumer, step: Step, before: _Stored) -> None:
        """Solve for a consumer's projection."""
        projection = consumer.projection
        if not consumer.average_tokens:
            projection.weight.zero_()
            projection.bias.zero_()

        def read(state: State) -> tuple[Tensor, Tensor | None]:
            return features(consumer, step, state), None

        self._regress(consumer, projection, step, before, read, self._settings.shrink)

    def _solve_producer(
        self, producer: nn.Module, projection: nn.Linear, step: Step, before: _Stored
    ) -> None:
        """Solve for a producer's projection, whose outputs the branch may scale."""
        adapter = self._adapter

        def read(state: State) -> tuple[Tensor, Tensor | None]:
            found = producer_features(adapter, producer, step, state)
            branch, plain = adapter.branch(producer, found), projection(found)
            every = tuple(range(plain.ndim - 1))
            scale = (branch * plain).sum(every) / plain.square().sum(every).clamp_min(1e-30)
            return found, scale.where(scale != 0, 1.0)

        share = self._settings.producers
        assert share is not None
        self._regress(producer, projection, step, before, read, share)

    def _regress(
        self,
        block: nn.Module,
        projection: nn.Linear,
        step: Step,
        before: _Stored,
        read: Callable[[State], tuple[Tensor, Tensor | None]],
        share: float,
    ) -> None:
        """Go a share of the way from a projection as it stands to the solved one.

        Args:
            block: the encoder.
            projection: its.
            step: its.
            before: the states that reach it.
            read: what the projection reads, and what the branch multiplies its outputs by.
            share: of the way.
        """
        calibration, settings, adapter = self._calibration, self._settings, self._adapter
        system = RidgeSystem(projection.in_features, projection.out_features)
        for start, stop in self._batches(self._fit_rows):
            with self._precision():
                state = enter(adapter, block, step, before.read(start, stop))
                inputs, scale = read(state)
            target = calibration.target(step.index, start, stop, settings.drift)
            wanted = state.tokens_of(target)
            stream = state.stream if step.rows is None else state.stream[:, : step.rows]
            residual = adapter.residual(block, stream)
            target = wanted[:, : stream.shape[1]] - settings.drift * residual
            weights = adapter.token_weights(calibration.model, stream, settings.class_weight)
            if state.sizes is not None:
                weights = weights * state.sizes[:, : stream.shape[1]]
            wanted = adapter.vectors(target)
            system.add(
                adapter.vectors(inputs), wanted if scale is None else wanted / scale, weights
            )
        weight, bias = system.solve(settings.ridge, projection.weight)
        projection.weight.lerp_(weight.to(projection.weight), share)
        projection.bias.lerp_(bias.to(projection.bias), share)

    def _head(self, plan: Plan, after: _Stored) -> Tensor:
        route = Route.of(plan, self._calibration.layout)
        with self._precision():
            logits = TensorFile(self._calibration.scratch)
            first = self._measure_rows.start
            with closed_on_failure([logits]):
                for start, stop in self._batches(self._measure_rows):
                    state = route.leave(after.read(start, stop))
                    logits.write(start - first, self._adapter.head(self._calibration.model, state))
                found = logits.mapped()
                logits.close()
        return found

    def _file(self, value: Tensor) -> TensorFile:
        dtype = torch.float32 if value.is_floating_point() else torch.int32
        return TensorFile(self._calibration.scratch, dtype)

    def _precision(self) -> AbstractContextManager[None]:
        return forward_precision(self._calibration.settings.precision)
