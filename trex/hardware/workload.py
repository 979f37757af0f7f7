"""What a model does for one image under a plan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from trex.architecture import NO_ENCODERS, PARTS_SPARED, Architecture, Encoder, Operation
from trex.hardware.merging import (
    matching,
    merging,
    moved_places,
    proportional,
    reused_merging,
)
from trex.hardware.mixing import own_class_rows, own_maps
from trex.hardware.sharing import repeated_matching, shared_inputs
from trex.plan import EncoderPlan, Layout, Plan, Reuse, ReusedTensor, Rows, Transform

#: A plan's say in an encoder that stays as it is.
AS_IT_IS: Final = EncoderPlan(reuse=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderWork:
    """One encoder's operations under a plan.

    Attributes:
        encoder: as it is in the original.
        plan: what is done in it.
        tokens: in its attention (keys), and in its MLP.
        rows: of attention that it computes, in all its windows; 0 of one that reuses them all.
        source_tokens: in the attention of the encoder it reuses; of a producer, its own.
    """

    encoder: Encoder
    plan: EncoderPlan
    tokens: tuple[int, int]
    rows: int
    source_tokens: int
    operations: tuple[Operation, ...]

    @property
    def tensor(self) -> ReusedTensor | None:
        """What it reuses; None for a producer."""
        return self.plan.reuse.tensor if self.plan.reuse else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """A model's operations under a plan, and what the original needs, for comparison."""

    architecture: Architecture
    plan: Plan
    body: tuple[Operation | EncoderWork, ...]

    def __iter__(self) -> Iterator[Operation]:
        for item in self.body:
            if isinstance(item, EncoderWork):
                yield from item.operations
            else:
                yield item

    @property
    def macs(self) -> int:
        """Multiply-accumulates an image, everything included."""
        return sum(op.macs for op in self)

    @property
    def tokens(self) -> tuple[tuple[int, int], ...]:
        """For every encoder, tokens in its attention (keys) and in its MLP."""
        return tuple(item.tokens for item in self.body if isinstance(item, EncoderWork))

    @property
    def rows(self) -> tuple[int, ...]:
        """For every encoder, rows of attention that it computes."""
        return tuple(item.rows for item in self.body if isinstance(item, EncoderWork))


def workload(architecture: Architecture, plan: Plan | None = None) -> Workload:
    """The operations of a model that runs a plan.

    A consumer drops what the reused tensor spares it and gains its transform's operations. Where
    tokens merge, encoders gain what that takes, and everything behind works on what is left. Where
    they share rows, they gain what that takes, and compute as many queries, scores and outputs.
    Operations behind the encoders do so if the head reads class tokens only; else merged tokens
    are copied back to all their places, which is no arithmetic, and these stay as they are.

    Raises:
        PlanError: the model cannot run the plan.
    """
    plan = plan or Plan()
    plan.validate(architecture.layout)
    tokens = _tokens(architecture, plan)
    body: list[Operation | EncoderWork] = []
    whole = architecture.leaving(tokens[-1][1]) if plan.merges or plan.rows else architecture
    for item in whole.body:
        if isinstance(item, Encoder):
            here = plan.at(item.index)
            source = here.reuse.source if here.reuse else item.index
            counts = tokens[item.index], tokens[source][0]
            body.append(encoder_work(item, here, *counts, architecture.layout))
        else:
            body.append(item)
    return Workload(architecture=architecture, plan=plan, body=tuple(body))


def without_dead_rows(architecture: Architecture) -> Plan | None:
    """The plan that leaves out what the head does not read, and changes no answer.

    None where the head reads all tokens.
    """
    layout = architecture.layout
    if not layout.class_rows or layout.no_class_rows:
        return None
    return Plan(rows=(Rows(len(layout.stages) - 1),))


def encoder_work(
    encoder: Encoder,
    here: EncoderPlan = AS_IT_IS,
    tokens: tuple[int, int] | None = None,
    source_tokens: int | None = None,
    layout: Layout = NO_ENCODERS,
) -> EncoderWork:
    """One encoder under a plan.

    Args:
        encoder: of the original.
        here: what is done in it.
        tokens: in its attention and in its MLP; the original's unless given.
        source_tokens: in the attention of its source; as in its own unless given.
        layout: of the model.
    """
    keys, left = tokens or (encoder.tokens, encoder.tokens)
    source_tokens = source_tokens or keys
    if here.reuse is None:
        rows, operations = _producer(encoder, here, (keys, left), layout)
    else:
        rows = layout.class_tokens if here.own_class else 0
        operations = _consumer(encoder, here, (keys, left), source_tokens, rows)
    if here.pairs:
        if not _has(operations, "matching"):  # rows are shared by keys, as tokens are merged
            found = matching(encoder, keys, by_keys=here.reuse is None)
            operations = _before(operations, found, "scores", "context", "transform", "proj")
        operations = _before(operations, merging(encoder, here.pairs), "norm2")
    return EncoderWork(
        encoder=encoder,
        plan=here,
        tokens=(keys, left),
        rows=rows,
        source_tokens=source_tokens,
        operations=operations,
    )


def _producer(
    encoder: Encoder, here: EncoderPlan, tokens: tuple[int, int], layout: Layout
) -> tuple[int, tuple[Operation, ...]]:
    """Rows that an encoder computes, and what it does; merging apart."""
    keys, left = tokens
    grid, whole = bool(layout.windows), encoder.attention
    rows = left if here.only_class else keys
    now = encoder.at(keys, left, rows)
    attending = whole.tokens if grid else keys
    shares = 0 < here.shared < attending
    if shares:
        rows = here.shared * whole.windows
        now = now.sharing(here.shared, grid=grid)
    operations = now.operations
    if keys < encoder.tokens:
        operations = _before(operations, proportional(encoder, keys, rows), "softmax")
        operations = _before(operations, moved_places(encoder, keys), "q")
    if shares:
        inputs = shared_inputs(encoder, attending, here.shared, grid=grid)
        if here.groups_of is None:
            found = repeated_matching(encoder, attending, here.shared, layout.protected)
            inputs = (*found, *inputs)
        operations = _before(operations, inputs, "scores" if grid else "q")
    return rows, operations


def _consumer(
    encoder: Encoder,
    here: EncoderPlan,
    tokens: tuple[int, int],
    source_tokens: int,
    own_rows: int,
) -> tuple[Operation, ...]:
    """What of an encoder's operations a consumer keeps, and what it adds; merging apart."""
    assert here.reuse is not None
    (keys, left), reuse = tokens, here.reuse
    rows = left if here.only_class else keys
    kept = _kept(encoder.at(keys, left, rows), reuse, rows)
    added: tuple[Operation, ...] = ()
    if source_tokens > keys and not here.only_class:  # class tokens never merge
        added = reused_merging(encoder, source_tokens, keys, reuse.tensor, own_rows)
    if reuse.tensor == "map":
        added += own_maps(encoder, reuse.transform, keys, own_rows)
    if own_rows:
        added = (*own_class_rows(encoder, keys, own_rows), *added)
    return _before(kept, added, "context", "transform", "proj")


def _kept(encoder: Encoder, reuse: Reuse, rows: int) -> tuple[Operation, ...]:
    """What of an encoder's operations a consumer keeps, and its transform."""
    spared = set(PARTS_SPARED[reuse.tensor])
    if reuse.transform == "linear_own":
        spared.discard("norm1")
    kept = tuple(op for op in encoder.operations if op.part not in spared)
    if reuse.tensor == "output":  # what is normalised is read by the transform alone
        kept = tuple(replace(op, vectors=rows) if op.part == "norm1" else op for op in kept)
    return _before(kept, _transform_operations(encoder, reuse.transform, rows), "proj")


def _transform_operations(
    encoder: Encoder, transform: Transform, rows: int
) -> tuple[Operation, ...]:
    """What a transform adds: `none` and `linear`, folded into the projection, add nothing."""
    name, dim = f"blocks.{encoder.index}.transform", encoder.dim

    def pointwise(where: str, function: str) -> Operation:
        return Operation(
            name=f"{name}.{where}", kind="elementwise", part="transform",
            vectors=rows, out_features=dim, function=function,
        )  # fmt: skip

    linear = Operation(
        name=f"{name}.linear", kind="static_matmul", part="transform",
        vectors=rows, in_features=dim, out_features=dim, bias=True,
    )  # fmt: skip
    if transform == "block":
        return (pointwise("norm", "layer_norm"), linear, pointwise("activation", "gelu"))
    if transform == "linear_own":
        return (linear, pointwise("residual", "add"))
    return ()


def _has(operations: tuple[Operation, ...], part: str) -> bool:
    return any(op.part == part for op in operations)


def _before(
    operations: tuple[Operation, ...], added: tuple[Operation, ...], *parts: str
) -> tuple[Operation, ...]:
    """Operations with others in front of the first of these parts; at the end without one."""
    at = (i for i, op in enumerate(operations) if op.part in parts)
    cut = next(at, len(operations))
    return (*operations[:cut], *added, *operations[cut:])


def _tokens(architecture: Architecture, plan: Plan) -> list[tuple[int, int]]:
    """As `Plan.tokens`, also of models whose stages have unlike tokens, which never merge."""
    if (plan.merges or plan.rows) and not architecture.layout.windows:
        return list(plan.tokens(architecture.layout))
    return [(encoder.tokens, encoder.tokens) for encoder in architecture.encoders]
