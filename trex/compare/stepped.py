"""Models run encoder by encoder through their adapter, with something else done on the way.

Only the adapter's steps and the encoders' own children are called; no forward is copied. The
original's modules are used as they are, so a `Stepped` costs no weights of its own.

Letters: B images, N tokens, D width, H heads, E width of a head.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, cast

import torch
from torch import Tensor, nn

from trex.compare.merging import merge_pairs
from trex.compare.methods import Encoders
from trex.compare.tokens import kept_tokens
from trex.models.adapter import Adapter, Consumer
from trex.models.vit import split_heads


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
        self.blocks: list[nn.Module] = [
            block
            for name in adapter.containers(model)
            for block in cast(nn.Sequential, model.get_submodule(name))
        ]

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes)."""
        stream = self.adapter.stem(self.model, images)
        # what a token stands for: one patch, until tokens are merged
        sizes = torch.ones(stream.shape[:2], dtype=stream.dtype, device=stream.device)
        for index, block in enumerate(self.blocks):
            stream, sizes = self.encoder(index, block, stream, sizes)
            stream = self.adapter.between(self.model, index, stream)
        return self.adapter.head(self.model, stream)

    @abstractmethod
    def encoder(
        self, index: int, block: nn.Module, stream: Tensor, sizes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """From an encoder's input (B, N, D) and its tokens' sizes (B, N) to the next one's."""


class SkippedAttention(Stepped):
    """Some encoders leave their attention branch out."""

    def __init__(self, model: nn.Module, adapter: Adapter, encoders: Encoders) -> None:
        super().__init__(model, adapter)
        self.encoders = encoders

    def encoder(
        self, index: int, block: nn.Module, stream: Tensor, sizes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Only the MLP and its residual where the encoder skips."""
        adapter = self.adapter
        stream = adapter.before(block, stream)
        if index not in self.encoders:
            output, _ = adapter.attend(block, stream, frozenset())
            stream = adapter.merge(block, stream, output)
        return adapter.after(block, stream), sizes


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

    def encoder(
        self, index: int, block: nn.Module, stream: Tensor, sizes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The pruning stands between attention and MLP."""
        adapter = self.adapter
        stream = adapter.before(block, stream)
        kept = kept_tokens(stream.shape[1], self.keep)
        if index not in self.encoders or kept >= stream.shape[1] - 1:
            output, _ = adapter.attend(block, stream, frozenset())
            return adapter.after(block, adapter.merge(block, stream, output)), sizes
        output, tensors = adapter.attend(block, stream, frozenset({"map"}))
        merged = adapter.merge(block, stream, output)
        pruned = fuse_inattentive(merged, tensors["map"][:, :, 0, 1:].mean(dim=1), kept)
        return adapter.after(block, pruned), sizes[:, : pruned.shape[1]]


class MergedTokens(Stepped):
    """ToMe: every encoder merges pairs of tokens whose keys are alike.

    Attention is proportional: softmax(QKᵀ/√E + log s), which is the plain map times the sizes s,
    normalised again; the values are multiplied by a `map` consumer made of the block.

    Args:
        model: a ViT with one class token, the first.
        adapter: of its family.
        r: pairs an encoder merges.
    """

    def __init__(self, model: nn.Module, adapter: Adapter, r: int) -> None:
        super().__init__(model, adapter)
        self.r = r
        self.consumers = nn.ModuleList(
            adapter.make_consumer(block, "map", nn.Identity(), own_input=False).eval()
            for block in self.blocks
        )

    def encoder(
        self, index: int, block: nn.Module, stream: Tensor, sizes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The merging stands between attention and MLP."""
        adapter, consumer = self.adapter, cast(Consumer, self.consumers[index])
        stream = adapter.before(block, stream)
        _, tensors = adapter.attend(block, stream, frozenset({"map"}))
        weighted = tensors["map"] * sizes[:, None, None, :]
        proportional = weighted / weighted.sum(dim=-1, keepdim=True)
        attended = consumer.merge(stream, consumer.features(stream, proportional))
        merged, sizes = merge_pairs(attended, sizes, mean_keys(block, stream), self.r)
        return adapter.after(block, merged), sizes


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
    fused = (picked(rest) * weights).sum(dim=1, keepdim=True) / weights.sum(dim=1, keepdim=True)
    attentive = picked(order[:, :kept].sort(dim=1).values)
    return torch.cat((stream_BND[:, :1], attentive, fused), dim=1)


def mean_keys(block: nn.Module, stream_BND: Tensor) -> Tensor:
    """A ViT block's keys, averaged over its heads, (B, N, E)."""
    parts = cast(Any, block)
    attention = parts.attn
    _, key_BHNE, _ = split_heads(
        attention.qkv(parts.norm1(stream_BND)), attention.num_heads, attention.head_dim
    )
    return cast(Tensor, attention.k_norm(key_BHNE)).mean(dim=1)
