"""What a model does for one image once a plan reuses some of its attention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from trex.architecture import PARTS_SPARED, TRANSFORMS, Architecture, Encoder, Operation, Transform
from trex.errors import PlanError
from trex.plan import ReusedTensor, ReusePlan

#: A transform for all consumers, or one for each of them by its encoder's index.
Transforms = Transform | Mapping[int, Transform]


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderWork:
    """One encoder's operations under a plan; `tensor` is None for a producer."""

    encoder: Encoder
    operations: tuple[Operation, ...]
    tensor: ReusedTensor | None = None
    transform: Transform | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """A model's operations under a plan, and what the original needs, for comparison."""

    architecture: Architecture
    plan: ReusePlan
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
    def transform(self) -> str | None:
        """The consumers' transform; None without consumers, `mixed` where they differ."""
        used = {item.transform for item in self.body if isinstance(item, EncoderWork)} - {None}
        if len(used) > 1:
            return "mixed"
        return used.pop() if used else None


def workload(
    architecture: Architecture, plan: ReusePlan | None = None, transforms: Transforms = "none"
) -> Workload:
    """The operations of a model whose encoders reuse attention as `plan` says.

    A consumer drops what the reused tensor spares it and gains its transform's operations.

    Raises:
        PlanError: the plan does not fit the model, crosses its stages, or a transform is unknown.
    """
    plan = plan or ReusePlan()
    encoders = architecture.encoders
    plan.validate(len(encoders))
    for reuse in plan:
        consumer, source = encoders[reuse.consumer], encoders[reuse.source]
        if _shape(consumer) != _shape(source):
            raise PlanError(
                f"encoder {reuse.consumer} cannot reuse encoder {reuse.source}: they lie in "
                "different stages of the model or differ in tokens, width or heads",
                hint="choose a source of the same stage",
            )
    body: list[Operation | EncoderWork] = []
    for item in architecture.body:
        if isinstance(item, Operation):
            body.append(item)
            continue
        reuse_here = plan.reuse_of(item.index)
        if reuse_here is None:
            body.append(encoder_work(item))
        else:
            body.append(encoder_work(item, reuse_here.tensor, _chosen(transforms, item.index)))
    return Workload(architecture=architecture, plan=plan, body=tuple(body))


def encoder_work(
    encoder: Encoder, tensor: ReusedTensor | None = None, transform: Transform = "none"
) -> EncoderWork:
    """One encoder as a producer (`tensor` None) or as a consumer."""
    if tensor is None:
        return EncoderWork(encoder=encoder, operations=encoder.operations)
    spared = set(PARTS_SPARED[tensor])
    if transform == "linear_own":
        spared.discard("norm1")
    kept = [op for op in encoder.operations if op.part not in spared]
    added = _transform_operations(encoder, transform)
    at = next((i for i, op in enumerate(kept) if op.part == "proj"), len(kept))
    operations = (*kept[:at], *added, *kept[at:])
    return EncoderWork(encoder=encoder, operations=operations, tensor=tensor, transform=transform)


def _transform_operations(encoder: Encoder, transform: Transform) -> tuple[Operation, ...]:
    """What a transform adds: `none` and `linear`, folded into the projection, add nothing."""
    name, tokens, dim = f"blocks.{encoder.index}.transform", encoder.tokens, encoder.dim

    def pointwise(where: str, function: str) -> Operation:
        return Operation(
            name=f"{name}.{where}", kind="elementwise", part="transform",
            vectors=tokens, out_features=dim, function=function,
        )  # fmt: skip

    linear = Operation(
        name=f"{name}.linear", kind="static_matmul", part="transform",
        vectors=tokens, in_features=dim, out_features=dim, bias=True,
    )  # fmt: skip
    if transform == "block":
        return (pointwise("norm", "layer_norm"), linear, pointwise("activation", "gelu"))
    if transform == "linear_own":
        return (linear, pointwise("residual", "add"))
    return ()


def _chosen(transforms: Transforms, consumer: int) -> Transform:
    transform = transforms if isinstance(transforms, str) else transforms.get(consumer, "none")
    if transform not in TRANSFORMS:
        raise PlanError(
            f"unknown transform {transform!r}", hint=f"choose one of {', '.join(TRANSFORMS)}"
        )
    return transform


def _shape(encoder: Encoder) -> tuple[int, int, int, int]:
    return encoder.stage, encoder.tokens, encoder.dim, encoder.heads
