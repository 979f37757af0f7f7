"""What other methods make of a model, as operations that a chip can be priced on.

A method has one setting (how many encoders, what share of the tokens, ...), and each setting gives
a `Workload`. Which encoders it touches does not change the price of an isotropic model, so that is
chosen apart (`choose`), and how the variant runs is told apart too (`variants`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Final, Literal

from trex.architecture import Architecture, Operation
from trex.compare import tokens
from trex.hardware import Chip, Cost, EncoderWork, Workload, workload
from trex.plan import Layout, Plan, ReusedTensor, Rows, Transform

#: What an encoder without its attention branch lacks.
_BRANCH: Final = frozenset({
    "norm1", "q", "k", "v", "map_input", "key_input", "scores", "score_bias", "softmax", "context",
    "proj", "residual1",
})  # fmt: skip

#: Encoder indices, ascending.
Encoders = tuple[int, ...]


class Method(ABC):
    """A way to make a vision transformer cheaper.

    Attributes:
        name: on the command line.
        title: in tables.
        source: where it is from.
        full_only: whether the published equations have no term for what it changes.
        chooses: whether somebody must say which encoders.
        one_class_token: whether it needs a model with exactly one class token, and no other
            tokens beside its patches.
        accuracy: `loaded`: it runs on the loaded weights; `trained`: only training makes it of
            use; `exact`: it computes what the original does.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    full_only: ClassVar[bool] = False
    chooses: ClassVar[bool] = False
    one_class_token: ClassVar[bool] = False
    accuracy: ClassVar[Literal["loaded", "trained", "exact"]] = "loaded"

    @abstractmethod
    def settings(self, model: Architecture) -> Sequence[float]:
        """From the one that saves least to the one that saves most."""

    @abstractmethod
    def label(self, setting: float) -> str:
        """A setting in words."""

    @abstractmethod
    def work(self, model: Architecture, setting: float) -> Workload:
        """What is left to do."""

    def refusal(self, model: Architecture) -> str:
        """Why a model cannot be treated so; empty where it can."""
        return ""

    def note(self, model: Architecture) -> str:
        """What a reader of its row should know, or nothing."""
        return ""

    def chip(self, chip: Chip) -> Chip:
        """The chip as the method wants it built."""
        return chip

    def adjusted(self, cost: Cost, work: Workload, setting: float) -> Cost:
        """The price, where the method changes how work lies on the chip."""
        return cost

    def shared_parameters(self, model: Architecture, setting: float) -> int:
        """Parameters that are stored once for several operations of the workload."""
        return 0


@dataclass(frozen=True)
class Reuse(Method):
    """Consumers that take an earlier encoder's tensor as it is."""

    chooses = True
    tensor: ClassVar[ReusedTensor] = "output"
    transform: ClassVar[Transform] = "none"

    def refusal(self, model: Architecture) -> str:
        """Why maps cannot be exchanged."""
        return model.layout.no_maps if self.tensor == "map" else ""

    def free(self, layout: Layout) -> range:
        """The encoders that may reuse."""
        return range(1, len(layout.stages))

    def settings(self, model: Architecture) -> Sequence[float]:
        """How many encoders reuse."""
        return range(1, len(self.free(model.layout)) + 1)

    def label(self, setting: float) -> str:
        """How many."""
        return f"{setting:.0f} reuse"

    def work(self, model: Architecture, setting: float) -> Workload:
        """Evenly spread consumers: where they are changes no price."""
        return workload(model, self.plan(self.spread(model.layout, int(setting)), model.layout))

    def spread(self, layout: Layout, count: int) -> Encoders:
        """So many of the encoders that may reuse, evenly spread and late."""
        return spread(count, self.free(layout))

    def plan(self, encoders: Encoders, layout: Layout) -> Plan:
        """These encoders as consumers of their nearest producers."""
        return Plan.nearest(encoders, self.tensor, self.transform)


class FittedReuse(Reuse):
    """TReX, without a search: consumers chosen one after another, projections fitted."""

    name = "trex"
    title = "TReX linear"
    source = "TReX (arXiv 2408.12742); transforms fitted in closed form"
    transform: ClassVar[Transform] = "linear"


class FittedMapReuse(FittedReuse):
    """The same with maps: consumers keep their values, their projections are fitted."""

    name = "trex_map"
    title = "TReX map, linear"
    tensor = "map"


class MixedMapReuse(FittedReuse):
    """Average maps of the consumers' own heads, and their sources' heads aligned with these.

    Class tokens' rows stay the consumers' own, where there are any. The last encoder of a model
    whose head reads these alone then has no row left to reuse, and stays as it is.
    """

    name = "mixed_maps"
    title = "mixed maps"
    source = "average maps and mixed heads (docs/fitting.md), in closed form"
    tensor = "map"
    transform = "mixed"

    def refusal(self, model: Architecture) -> str:
        """Why maps cannot be mixed."""
        return super().refusal(model) or model.layout.no_map_rows

    def note(self, model: Architecture) -> str:
        """Which rows are not reused."""
        return "class tokens' rows are the consumers' own" if model.layout.class_tokens else ""

    def free(self, layout: Layout) -> range:
        """The encoders that may reuse."""
        free = super().free(layout)
        return free[:-1] if layout.class_rows else free

    def plan(self, encoders: Encoders, layout: Layout) -> Plan:
        """Consumers of their nearest producers, with class rows of their own."""
        reuses = super().plan(encoders, layout).reuses
        own = encoders if layout.class_tokens else ()
        return Plan(reuses, rows=tuple(map(Rows, own)))


class BlockReuse(Reuse):
    """TReX as published: the Transformation Block, which only training makes useful."""

    name = "trex_block"
    title = "TReX block"
    source = "TReX (arXiv 2408.12742); under full accounting its block is priced"
    transform = "block"
    accuracy = "trained"


class IdentityReuse(Reuse):
    """The source's attention output as it is."""

    name = "identity_reuse"
    title = "identity reuse"
    source = "SkipAt's ablation (arXiv 2301.02240): no transform"


class MapReuse(Reuse):
    """The source's attention probabilities on the own values."""

    name = "map_reuse"
    title = "map reuse"
    source = "PSViT (arXiv 2108.03428), LazyFormer (arXiv 2102.12702)"
    tensor = "map"


class AttentionSkip(Method):
    """Encoders without their attention branch: x + mlp(norm2(x))."""

    name = "attention_skip"
    title = "attention skipping"
    source = "PIVOT (arXiv 2404.15185), its form; the same path for every image"
    chooses = True

    def settings(self, model: Architecture) -> Sequence[float]:
        """How many encoders skip."""
        return range(1, len(model.encoders) + 1)

    def label(self, setting: float) -> str:
        """How many."""
        return f"{setting:.0f} skip"

    def work(self, model: Architecture, setting: float) -> Workload:
        """Evenly spread encoders skip: where they are changes no price."""
        skipping = set(spread(int(setting), range(len(model.encoders))))
        whole = workload(model)
        body: list[Operation | EncoderWork] = [
            without_attention(item)
            if isinstance(item, EncoderWork) and item.encoder.index in skipping
            else item
            for item in whole.body
        ]
        return replace(whole, body=tuple(body))


class EvitPruning(Method):
    """Tokens with little class attention are fused into one."""

    name = "evit"
    title = "EViT pruning"
    source = "EViT (arXiv 2202.07800)"
    one_class_token = True

    def settings(self, model: Architecture) -> Sequence[float]:
        """The share of tokens kept, at every number of patches."""
        return _shares(model)

    def label(self, setting: float) -> str:
        """The share."""
        return f"keep {setting:.2f}"

    def work(self, model: Architecture, setting: float) -> Workload:
        """The counts of three prunings, and what chooses the tokens."""
        encoders = model.encoders
        counts = tokens.evit_counts(len(encoders), encoders[0].tokens, setting)
        added = {e.index: tokens.evit_operations(e, *counts[e.index]) for e in encoders}
        return workload(tokens.with_tokens(model, counts, added))


class DynamicVit(Method):
    """Three trained predictors drop patches."""

    name = "dynamicvit"
    title = "DynamicViT"
    source = "DynamicViT (arXiv 2106.02034), its predictors priced"
    one_class_token = True
    accuracy = "trained"

    def settings(self, model: Architecture) -> Sequence[float]:
        """The share of patches kept, at every number of patches."""
        return _shares(model)

    def label(self, setting: float) -> str:
        """The share."""
        return f"keep {setting:.2f}"

    def work(self, model: Architecture, setting: float) -> Workload:
        """The counts, and the predictors before the encoders that prune."""
        encoders = model.encoders
        counts = tokens.dynamicvit_counts(len(encoders), encoders[0].tokens, setting)
        entering = [encoders[0].tokens, *(after for _, after in counts)]
        added = {
            stage - 1: tokens.dynamicvit_operations(encoders[stage], entering[stage])
            for stage in tokens.stages(len(encoders))
        }
        return workload(tokens.with_tokens(model, counts, added))


def without_attention(encoder: EncoderWork) -> EncoderWork:
    """An encoder that only runs its MLP."""
    kept = tuple(op for op in encoder.operations if op.part not in _BRANCH)
    return replace(encoder, rows=0, operations=kept)


def spread(count: int, free: range) -> Encoders:
    """`count` of the encoders in `free`, evenly spread and late, as the paper found best."""
    return tuple(sorted(free[-1] - k * len(free) // count for k in range(count)))


def closest_from_below(
    settings: Sequence[float], latency_s: Callable[[float], float], limit_s: float
) -> tuple[float, bool]:
    """The first setting within the limit, and whether there is one; else the last setting.

    Args:
        settings: from the slowest to the fastest.
        latency_s: of a setting.
        limit_s: the most allowed.
    """
    low, high = 0, len(settings)
    while low < high:
        middle = (low + high) // 2
        if latency_s(settings[middle]) <= limit_s * (1 + 1e-9):
            high = middle
        else:
            low = middle + 1
    return (settings[low], True) if low < len(settings) else (settings[-1], False)


def _shares(model: Architecture) -> Sequence[float]:
    patches = model.encoders[0].tokens - 1
    return [kept / patches for kept in range(patches - 1, 0, -1)]


def parameters(operations: tuple[Operation, ...]) -> int:
    """Weights and biases of matrix products, scales and shifts of layer norms, heads' weights."""
    count = 0
    for op in operations:
        if op.kind == "static_matmul":
            count += op.groups * op.out_features * (op.in_features + op.bias)
        elif op.function == "layer_norm":
            count += 2 * op.out_features
        elif op.part == "mixing" and op.function == "multiply_add":
            count += op.groups * op.in_features
    return count
