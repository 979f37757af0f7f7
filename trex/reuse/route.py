"""The executor: how a model runs a plan, one encoder after another.

A route says of every encoder what it does; a state is what flows from one to the next. Running
models, fits, bit densities, fine-tuning and comparisons all go through `encode`: nothing else
loops over encoders.

Letters: B images, N tokens, D width, H heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, TypeVar, cast

from torch import Tensor, nn

from trex.errors import PlanError
from trex.models.adapter import Adapter, AttentionRows, Consumer, Wanted
from trex.plan import EncoderPlan, Layout, Plan, Reuse, ReusedTensor, check_pairs, most_pairs
from trex.reuse.merge import Assignment, Sharing, copies_of_groups, match, mean_of_groups

#: an encoder and what is kept of it for later ones
Kept = tuple[int, ReusedTensor | Literal["groups"]]
ResultT = TypeVar("ResultT")


class State(NamedTuple):
    """What flows from encoder to encoder.

    Attributes:
        stream: the family's own; (B, N, D) where tokens can merge.
        sizes: (B, N), how many of the model's first tokens each stands for, in float32; None
            where that is one each.
        groups: (B, N0), the token in which each of the first tokens is now; None where no token
            was merged.
        kept: what later encoders reuse of earlier ones.
        places: what the model says of its first tokens' places, for all encoders or for each; see
            `Adapter.places`.
    """

    stream: Tensor
    sizes: Tensor | None = None
    groups: Tensor | None = None
    kept: Mapping[Kept, Tensor] = {}
    places: tuple[Tensor, ...] = ()

    @property
    def place(self) -> Tensor | None:
        """What one encoder is told of places; see `at`."""
        return self.places[0] if self.places else None

    def at(self, encoder: int) -> State:
        """The same, with the places of one encoder."""
        if len(self.places) < 2:
            return self
        return self._replace(places=(self.places[encoder],))

    @property
    def merged(self) -> Assignment | None:
        """How the model's first tokens became these; None where none was merged."""
        if self.groups is None:
            return None
        assert self.sizes is not None
        share = 1.0 / self.sizes.gather(1, self.groups).clamp_min(1.0)
        return Assignment(self.groups, share, self.sizes)

    def tokens_of(self, rows_BND: Tensor) -> Tensor:
        """Rows of the model's first tokens, (B, N0, D), as this state's tokens, (B, N, D)."""
        if self.groups is not None:
            assert self.sizes is not None
            rows_BND = rows_BND.expand(self.groups.shape[0], -1, -1)
            rows_BND = mean_of_groups(rows_BND, self.groups, self.sizes.shape[1])
        return rows_BND[:, : self.stream.shape[1]]

    def map_of(self, map_HNN: Tensor) -> Tensor:
        """A map over the model's first tokens as one over this state's, (B or 1, H, N, N)."""
        whole, merged = map_HNN[None], self.merged
        if merged is None:
            return whole
        return merged.mean_map(whole.expand(merged.target.shape[0], -1, -1, -1))


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What one encoder does.

    Attributes:
        index: the encoder's.
        reuse: what it reuses; None for a producer.
        live: what later encoders reuse of it and of those before it.
        pairs: of tokens it merges.
        rows: how many rows it computes, the first; None for all.
        shared: how many rows its tokens share; 0 where each has its own.
        groups_of: the encoder whose groups share them; None where it matches them itself.
        own_rows: of a consumer of maps, the first so many rows are its own.
        protected: the first so many tokens do not merge and share no row.
    """

    index: int
    reuse: Reuse | None = None
    live: frozenset[Kept] = frozenset()
    pairs: int = 0
    rows: int | None = None
    shared: int = 0
    groups_of: int | None = None
    own_rows: int = 0
    protected: int = 0

    @property
    def offers(self) -> frozenset[ReusedTensor | Literal["groups"]]:
        """What later encoders reuse of it."""
        return frozenset(part for encoder, part in self.live if encoder == self.index)

    @classmethod
    def of(cls, index: int, here: EncoderPlan, live: frozenset[Kept], layout: Layout) -> Step:
        """An encoder's step.

        Args:
            index: the encoder's.
            here: what is done there.
            live: what later encoders reuse of it and of those before it.
            layout: of the model.
        """
        return cls(
            index=index,
            reuse=here.reuse,
            live=live,
            pairs=here.pairs,
            rows=layout.class_rows if here.only_class else None,
            shared=here.shared,
            groups_of=here.groups_of,
            own_rows=layout.class_tokens if here.own_class else 0,
            protected=layout.protected,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """A plan as steps of one model.

    Attributes:
        plan: what it is made of.
        layout: of the model.
        steps: one an encoder.
        copies: whether tokens go back to all their places at the end, for a head that reads all.
    """

    plan: Plan
    layout: Layout
    steps: tuple[Step, ...]
    copies: bool

    @classmethod
    def of(cls, plan: Plan, layout: Layout) -> Route:
        """The route of a plan.

        Raises:
            PlanError: a model of this layout cannot run it.
        """
        plan.validate(layout)
        kept, steps = kept_until(plan), []
        for index in range(len(layout.stages)):
            live = frozenset(of for of, last in kept if of[0] <= index < last)
            steps.append(Step.of(index, plan.at(index), live, layout))
        copies = bool(plan.merges) and not layout.class_rows
        return cls(plan=plan, layout=layout, steps=tuple(steps), copies=copies)

    def enter(self, adapter: Adapter, stream: Tensor, places: tuple[Tensor, ...] = ()) -> State:
        """The state before the first encoder of a container."""
        return State(stream, adapter.sizes(stream), places=places)

    def leave(self, state: State) -> Tensor:
        """The stream as what follows the encoders reads it."""
        if self.copies and state.groups is not None:
            return copies_of_groups(state.stream, state.groups)
        return state.stream


def kept_until(plan: Plan) -> list[tuple[Kept, int]]:
    """What encoders keep for later ones, each with one that takes it."""
    reused: list[tuple[Kept, int]] = [((r.source, r.tensor), r.consumer) for r in plan.reuses]
    shared: list[tuple[Kept, int]] = [
        ((r.source, "groups"), r.encoder) for r in plan.rows if r.source is not None
    ]
    return reused + shared


class Passed(NamedTuple):
    """One encoder's way.

    Attributes:
        entered: before its attention.
        attended: behind its attention's projection and residual, before anything merges.
        left: behind all of it.
    """

    entered: State
    attended: State
    left: State


def enter(adapter: Adapter, block: nn.Module, step: Step, state: State) -> State:
    """What an encoder does before its attention."""
    before = block.before if isinstance(block, Consumer) else _of(adapter.before, block)
    return state._replace(stream=before(state.stream))


def attend(
    adapter: Adapter, block: nn.Module, step: Step, state: State
) -> tuple[State, Tensor | None]:
    """Attention, projection and residual; also what tokens are matched by, where they merge.

    Producers match by their keys. Consumers have none: they match by their stream.
    """
    stream = state.stream
    keys: Tensor | None = None
    kept = {of: tensor for of, tensor in state.kept.items() if of in step.live}
    if step.reuse is None:
        wanted: set[Wanted] = {*step.offers, "keys"} if step.pairs else set(step.offers)
        rows = _rows(step, state)
        output, found = adapter.attend(
            block,
            stream,
            frozenset(wanted),
            sizes=state.sizes,
            rows=rows,
            tokens=state.at(step.index),
        )
        keys = found.get("keys")
        kept |= {(step.index, part): found[part] for part in step.offers}
        branch = adapter.branch(block, output)
        if isinstance(rows, Sharing):
            branch = adapter.spread(block, branch, rows.assigned(found["groups"]))
        merged = adapter.join(block, _first(stream, step.rows), branch)
    else:
        consumer = cast(Consumer, block)
        merged = consumer.merge(_first(stream, step.rows), features(block, step, state))
        keys = stream if step.pairs else None
    return state._replace(stream=merged, kept=kept), keys


def features(block: nn.Module, step: Step, state: State) -> Tensor:
    """What a consumer's projection reads, from the state before its attention."""
    assert step.reuse is not None
    consumer, reuse = cast(Consumer, block), step.reuse
    if consumer.average_tokens:
        _check_average(step.index, consumer.average_tokens, state)
    reused = None if reuse.is_average else state.kept[reuse.source, reuse.tensor]
    if step.rows is not None and reused is not None:
        reused = reused[:, : step.rows]
    return consumer.features(_first(state.stream, step.rows), reused, state.at(step.index))


def producer_features(adapter: Adapter, block: nn.Module, step: Step, state: State) -> Tensor:
    """What a producer's projection reads, from the state before its attention; every token's."""
    rows = _rows(step, state)
    output, found = adapter.attend(
        block,
        state.stream,
        frozenset(),
        sizes=state.sizes,
        rows=rows,
        tokens=state.at(step.index),
    )
    if isinstance(rows, Sharing):
        output = adapter.spread(block, output, rows.assigned(found["groups"]))
    return output


def leave(
    adapter: Adapter, block: nn.Module, step: Step, state: State, keys: Tensor | None
) -> State:
    """Merging, then the rest of the encoder."""
    if step.pairs:
        assert keys is not None
        state = merge(state, _matched(step, state, keys))
    after = block.after if isinstance(block, Consumer) else _of(adapter.after, block)
    return state._replace(stream=after(state.stream))


def merge(state: State, assignment: Assignment) -> State:
    """A state whose tokens become others: stream, sizes and all that is kept with them."""
    kept = {
        of: assignment.mean_map(value) if of[1] == "map" else assignment.mean(value)
        for of, value in state.kept.items()
    }
    groups = assignment.follow(state.groups)
    stream = assignment.mean(state.stream)
    return State(stream, assignment.sizes, groups, kept, state.places)


def advance(adapter: Adapter, block: nn.Module, step: Step, state: State) -> Passed:
    """One encoder."""
    entered = enter(adapter, block, step, state)
    attended, keys = attend(adapter, block, step, entered)
    return Passed(entered, attended, leave(adapter, block, step, attended, keys))


def _call(function: Callable[..., ResultT], *args: Any) -> ResultT:
    return function(*args)


#: runs `advance`, or something in its place
Run = Callable[..., Passed]
#: sees what every encoder did
See = Callable[[Step, Passed], object]
_DIRECT: Final[Run] = _call


def encode(
    adapter: Adapter,
    blocks: Sequence[nn.Module],
    steps: Sequence[Step],
    state: State,
    *,
    run: Run = _DIRECT,
    see: See | None = None,
    between: Callable[[int, Tensor], Tensor] | None = None,
) -> State:
    """Encoder after encoder.

    Args:
        adapter: of the model's family.
        blocks: encoders, some of them consumers.
        steps: theirs.
        state: before the first of them.
        run: is given `advance` and its arguments.
        see: is shown every encoder's way.
        between: from an encoder's output stream to the next one's input.
    """
    for block, step in zip(blocks, steps, strict=True):
        passed = run(advance, adapter, block, step, state)
        if see is not None:
            see(step, passed)
        state = passed.left
        if between is not None:
            state = state._replace(stream=between(step.index, state.stream))
    return state


def run_model(
    model: nn.Module,
    adapter: Adapter,
    route: Route,
    images: Tensor,
    *,
    run: Run = _DIRECT,
    see: See | None = None,
) -> tuple[State, Tensor]:
    """A whole model by its adapter's steps: the state behind the last encoder, and the logits.

    Args:
        model: an original, or one whose encoders run the route's plan.
        adapter: of its family.
        route: what its encoders do.
        images: (B, C, H, W), or what the family reads.
        run: as in `encode`.
        see: as in `encode`.
    """
    stream, places = adapter.stem(model, images), adapter.places(model, images)
    return run_encoders(model, adapter, route, stream, places, run=run, see=see)


def run_encoders(
    model: nn.Module,
    adapter: Adapter,
    route: Route,
    stream: Tensor,
    places: tuple[Tensor, ...] = (),
    *,
    run: Run = _DIRECT,
    see: See | None = None,
) -> tuple[State, Tensor]:
    """The same, from the stream that enters encoder 0 and what is said of its tokens' places."""
    state = encode(
        adapter,
        [block for _, block in encoders_of(model, adapter)],
        route.steps,
        route.enter(adapter, stream, places),
        run=run,
        see=see,
        between=lambda index, stream: adapter.between(model, index, stream),
    )
    return state, adapter.head(model, route.leave(state))


def encoders_of(model: nn.Module, adapter: Adapter) -> Iterator[tuple[str, nn.Module]]:
    """Every encoder with its name in the model, in order."""
    for container in adapter.containers(model):
        for position, block in enumerate(model.get_submodule(container).children()):
            yield f"{container}.{position}", block


def _rows(step: Step, state: State) -> AttentionRows:
    if not step.shared:
        return step.rows
    target = None if step.groups_of is None else state.kept[step.groups_of, "groups"]
    return Sharing(step.index, step.shared, step.protected, state.sizes, target)


def _check_average(encoder: int, known: int, state: State) -> None:
    tokens = state.stream.shape[1] if state.groups is None else state.groups.shape[1]
    if tokens != known:
        raise PlanError(
            f"encoder {encoder} has average maps of {known} tokens; the images make {tokens}",
            hint="give images of the size it was fitted on, or fit it anew at this size",
        )


def _matched(step: Step, state: State, keys: Tensor) -> Assignment:
    tokens = keys.shape[1]
    check_pairs(step.index, step.pairs, tokens, most_pairs(tokens, step.protected))
    return match(keys, step.pairs, protected=step.protected, sizes_BN=state.sizes)


def _first(rows: Tensor, count: int | None) -> Tensor:
    return rows if count is None else rows[:, :count]


def _of(function: Callable[[nn.Module, Tensor], Tensor], block: nn.Module) -> Any:
    return lambda stream: function(block, stream)
