"""Models whose encoders do on the way what no plan says: leave attention out, drop tokens.

The executor runs them (`trex.reuse.route`), with something else in the place of its step; no
forward is copied. The original's modules are used as they are, so a `Stepped` costs no weights of
its own.

Letters: B images, N tokens, D width, H heads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor, nn

from trex.compare.methods import Encoders
from trex.compare.tokens import kept_tokens
from trex.models.adapter import Adapter
from trex.plan import Plan
from trex.reuse.route import Kept, Passed, Route, State, Step, attend, enter, leave, run_model

#: keeps the mean of nothing (padding) at nothing
_LEAST: Final = 1e-12


class Stepped(nn.Module, ABC):
    """An original whose encoders run in another way.

    Args:
        model: the original; shared, not copied.
        adapter: of its family.
    """

    def __init__(self, model: nn.Module, adapter: Adapter) -> None:
        super().__init__()
        self.model = model
        self.adapter = adapter
        self.route = Route.of(Plan(), adapter.layout(model))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes)."""
        return run_model(self.model, self.adapter, self.route, images, run=self.step)[1]

    @abstractmethod
    def step(
        self,
        plain: Callable[..., Passed],
        adapter: Adapter,
        block: nn.Module,
        step: Step,
        state: State,
    ) -> Passed:
        """One encoder; `plain`, given the others, does what the original does."""


class SkippedAttention(Stepped):
    """Some encoders leave their attention branch out."""

    def __init__(self, model: nn.Module, adapter: Adapter, encoders: Encoders) -> None:
        super().__init__(model, adapter)
        self.encoders = encoders

    def step(
        self,
        plain: Callable[..., Passed],
        adapter: Adapter,
        block: nn.Module,
        step: Step,
        state: State,
    ) -> Passed:
        """Only the MLP and its residual where the encoder skips."""
        if step.index not in self.encoders:
            return plain(adapter, block, step, state)
        entered = enter(adapter, block, step, state)
        return Passed(entered, entered, leave(adapter, block, step, entered, None))


class PrunedTokens(Stepped):
    """EViT: some encoders keep the tokens that the class token attends to most, and fuse the rest.

    The fused token is the mean of the rest, weighted by their class attention. EViT leaves out
    the division by the weights' sum, which only training makes up for.

    Args:
        model: with one class token, the first.
        adapter: of its family.
        encoders: where.
        keep: the share that is kept there.
    """

    def __init__(
        self, model: nn.Module, adapter: Adapter, encoders: Encoders, keep: float
    ) -> None:
        super().__init__(model, adapter)
        self.encoders = encoders
        self.keep = keep

    def step(
        self,
        plain: Callable[..., Passed],
        adapter: Adapter,
        block: nn.Module,
        step: Step,
        state: State,
    ) -> Passed:
        """The pruning stands between attention and MLP."""
        tokens = state.stream.shape[1]
        kept = kept_tokens(tokens, self.keep)
        if step.index not in self.encoders or kept >= tokens - 1:
            return plain(adapter, block, step, state)
        entered = enter(adapter, block, step, state)
        own_map: Kept = (step.index, "map")
        offering = replace(step, live=frozenset({own_map}))
        attended, _ = attend(adapter, block, offering, entered)
        attention_BP = attended.kept[own_map][:, :, 0, 1:].mean(dim=1)
        pruned = State(fuse_inattentive(attended.stream, attention_BP, kept))
        if (sizes := attended.sizes) is not None:
            fused = fuse_inattentive(sizes[..., None], attention_BP, kept)
            pruned = pruned._replace(sizes=fused.squeeze(-1))
        return Passed(entered, attended, leave(adapter, block, step, pruned, None))


def fuse_inattentive(stream_BND: Tensor, attention_BP: Tensor, kept: int) -> Tensor:
    """The class token, the `kept` patches with the most attention in their order, the rest's mean.

    Args:
        stream_BND: class token first.
        attention_BP: of the class token to each of the N − 1 others.
        kept: fewer than N − 1.
    """
    order = attention_BP.argsort(dim=1, descending=True)
    width = stream_BND.shape[-1]

    def picked(indices: Tensor) -> Tensor:
        return stream_BND.gather(1, 1 + indices[..., None].expand(-1, -1, width))

    rest = order[:, kept:]
    weights = attention_BP.gather(1, rest)[..., None]
    total = weights.sum(dim=1, keepdim=True).clamp_min(_LEAST)
    fused = (picked(rest) * weights).sum(dim=1, keepdim=True) / total
    attentive = picked(order[:, :kept].sort(dim=1).values)
    return torch.cat((stream_BND[:, :1], attentive, fused), dim=1)
