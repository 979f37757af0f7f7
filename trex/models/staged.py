"""Models in stages, and what UniForm and SHViT share: convolutional encoders on feature maps.

A model in stages is a stem, `stages` of `downsample` and `blocks`, and a head. UniForm and SHViT
project the attention's output by a ReLU and a 1×1 convolution with batch normalisation. A
consumer's projection is a linear layer into which the normalisation is folded as it is in
evaluation.

Letters: B images, C channels, H rows, W columns.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from trex.architecture import Architecture, Encoder, Operation
from trex.models.adapter import (
    Adapter,
    Consumer,
    ConsumerForm,
    Groups,
    Linear,
    Tokens,
    stages_of,
)
from trex.models.trace import trace_architecture
from trex.plan import Layout

#: A prefix of an operation's name in its block -> what it is, or what it is made of: parts with
#: the outputs that belong to each.
Parts = Sequence[tuple[str, str | tuple[tuple[str, int], ...]]]


class StagedAdapter(Adapter):
    """Stages of encoders; a stage whose blocks have no attention is passed through.

    Encoders are numbered over the blocks of the other stages. A plain stage belongs to the step
    before the next encoder, or to the head where none follows.
    """

    no_products = "an encoder in a model of stages"
    #: what holds the stages, and what in a stage its blocks
    stage_list: str = "stages"
    block_list: str = ".blocks"

    @abstractmethod
    def attends(self, stage: nn.Module) -> bool:
        """Whether the blocks of a stage are encoders; they are all alike."""

    @abstractmethod
    def parts(self, block: nn.Module) -> Parts:
        """The parts of an encoder's operations; the first prefix that fits decides."""

    @abstractmethod
    def heads(self, block: nn.Module) -> int:
        """An encoder's attention heads."""

    @abstractmethod
    def input_size(self, model: nn.Module) -> tuple[int, int, int]:
        """Channels, height and width of the images."""

    def embedded(self, model: nn.Module, images: Tensor) -> Tensor:
        """What enters the first stage."""
        return cast(Tensor, cast(Any, model).patch_embed(images))

    def classified(self, model: nn.Module, stream: Tensor) -> Tensor:
        """From what leaves the last stage to logits."""
        return cast(Tensor, cast(Any, model).forward_head(stream))

    def downsampled(self, stage: nn.Module, stream: Tensor) -> Tensor:
        """What enters a stage's first block."""
        return cast(Tensor, cast(Any, stage).downsample(stream))

    def left(self, stage: nn.Module, stream: Tensor) -> Tensor:
        """What leaves a stage of encoders, from what leaves its last block."""
        return stream

    def passed(self, stage: nn.Module, stream: Tensor) -> Tensor:
        """A whole stage without attention."""
        return cast(Tensor, cast(Any, stage).blocks(self.downsampled(stage, stream)))

    def containers(self, model: nn.Module) -> Sequence[str]:
        """The blocks of every stage with attention."""
        return [f"{self.stage_list}.{i}{self.block_list}" for i in self._attending(model)]

    def layout(self, model: nn.Module) -> Layout:
        """Grids stay grids, and the head reads all of them."""
        grid = f"{type(model).__name__} keeps its tokens in grids, which its stages need"
        return Layout(
            stages=stages_of(model, self.containers(model)),
            tokens=0,
            windows=tuple(map(self.window_tokens, self._blocks(model))),
            no_merging=grid,
            no_class_rows=f"{type(model).__name__} has no class token",
            no_map_rows=f"maps of {type(model).__name__} are of no fixed places in the image",
        )

    def window_tokens(self, block: nn.Module) -> int:
        """How many tokens of an encoder attend to each other; 0 where the image's size says."""
        return 0

    def _blocks(self, model: nn.Module) -> list[nn.Module]:
        names = self.containers(model)
        return [block for name in names for block in model.get_submodule(name).children()]

    def stem(self, model: nn.Module, images: Tensor) -> Tensor:
        """Everything before the first encoder."""
        return self._to_next_encoder(model, self.embedded(model, images), 0)

    def between(self, model: nn.Module, encoder: int, stream: Tensor) -> Tensor:
        """From a stage's last encoder to the next stage with attention."""
        last = -1
        attending, stages = self._attending(model), self._stages(model)
        for stage in attending:
            last += len(self.blocks_in(stages[stage]))
            if encoder == last and stage != attending[-1]:
                left = self.left(stages[stage], stream)
                return self._to_next_encoder(model, left, stage + 1)
        return stream

    def head(self, model: nn.Module, stream: Tensor) -> Tensor:
        """Stages without attention at the end, pooling, classifier."""
        last = self._attending(model)[-1]
        left = self.left(self._stages(model)[last], stream)
        return self.classified(model, self._to_next_encoder(model, left, last + 1))

    def spread(self, block: nn.Module, branch: Tensor, groups: Groups) -> Tensor:
        """Grids are copied to right behind the products."""
        return branch

    def linears(self, block: nn.Module) -> tuple[Linear, ...]:
        """All layers with weights: those of one part in the order in which they run."""
        parts = self.parts(block)
        found = []
        for path, module in block.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                part = _part_of(path, parts, path)
                computed = (part,) if isinstance(part, str) else tuple(name for name, _ in part)
                found.append(Linear(path, computed))
        return tuple(found)

    def architecture(self, model: nn.Module, name: str) -> Architecture:
        """The traced operations; those of an encoder's block together."""
        traced = trace_architecture(model, self.input_size(model), name)
        blocks: dict[str, tuple[int, nn.Module]] = {}
        for container in self.containers(model):
            for i, block in enumerate(cast(nn.Sequential, model.get_submodule(container))):
                blocks[f"{container}.{i}"] = (int(container.split(".")[1]), block)
        numbers = {name: number for number, name in enumerate(blocks)}

        def block_of(item: Operation | Encoder) -> str:
            parts = item.name.split(".") if isinstance(item, Operation) else []
            names = (".".join(parts[:length]) for length in (4, 3))
            return next((name for name in names if name in blocks), "")

        body: list[Operation | Encoder] = []
        for where, items in groupby(traced.body, key=block_of):
            if not where:
                body.extend(items)
                continue
            stage, block = blocks[where]
            operations = tuple(_labelled(cast("Iterable[Operation]", items), where, self, block))
            body.append(
                Encoder(
                    index=numbers[where],
                    # the residual addition at the end puts out the stream
                    tokens=operations[-1].vectors,
                    dim=operations[-1].out_features,
                    heads=self.heads(block),
                    operations=operations,
                    stage=stage,
                )
            )
        encoders = [item for item in body if isinstance(item, Encoder)]
        layout = self.layout(model)
        windows = (w or e.tokens for w, e in zip(layout.windows, encoders, strict=True))
        return replace(traced, body=tuple(body), layout=replace(layout, windows=tuple(windows)))

    def blocks_in(self, stage: nn.Module) -> Sequence[nn.Module]:
        """A stage's blocks, encoders or not."""
        return tuple(cast(Any, stage).blocks)

    def _stages(self, model: nn.Module) -> Any:
        return model.get_submodule(self.stage_list)

    def _attending(self, model: nn.Module) -> list[int]:
        stages = enumerate(self._stages(model))
        return [i for i, stage in stages if len(self.blocks_in(stage)) and self.attends(stage)]

    def _to_next_encoder(self, model: nn.Module, stream: Tensor, first: int) -> Tensor:
        """Run stages from `first` on, up to the first encoder."""
        attending = self._attending(model)
        for i, stage in enumerate(self._stages(model)):
            if i < first:
                continue
            if i in attending:
                return self.downsampled(stage, stream)
            stream = self.passed(stage, stream)
        return stream


class ConvolutionalAdapter(StagedAdapter):
    """Encoders that are convolutions, behind whose attention are a ReLU and a 1×1 convolution."""

    no_products = "a convolutional encoder"

    @abstractmethod
    def projecting(self, block: nn.Module) -> nn.Sequential:
        """An encoder's ReLU and 1×1 convolution."""

    def branch(self, block: nn.Module, output: Tensor) -> Tensor:
        """ReLU and projection."""
        return cast(Tensor, self.projecting(block)(output))

    def projection(self, block: nn.Module) -> nn.Linear:
        """A linear layer that does what the convolution and its normalisation do."""
        return folded_projection(self.projecting(block)[1])

    def vectors(self, stream: Tensor) -> Tensor:
        """(B, C, H, W) as (B, H, W, C)."""
        return stream.movedim(1, -1)


class StagedConsumer(Consumer):
    """A convolutional encoder that reuses.

    The transform stands behind the ReLU, right before the projection: only there does a linear
    map fold into it.
    """

    def __init__(self, projecting: nn.Sequential, form: ConsumerForm) -> None:
        super().__init__()
        self.tensor = form.tensor
        self.own_input = form.own_input
        self.act = projecting[0]
        self.transform = form.transform
        self.proj = folded_projection(projecting[1], own_input=form.own_input)

    @abstractmethod
    def context(self, stream: Tensor, reused: Tensor) -> Tensor:
        """What the ReLU reads, (B, C, H, W): made from the reused tensor."""

    @abstractmethod
    def own(self, stream: Tensor) -> Tensor:
        """The consumer's own input as its attention would read it, (B, C, H, W)."""

    @property
    def projection(self) -> nn.Linear:
        """The projection, its batch normalisation folded in."""
        return self.proj

    def features(self, stream: Tensor, reused: Tensor | None, tokens: Tokens) -> Tensor:
        """The transformed reused output, or reused map on the own values: (B, C, H, W).

        With `own_input`, the own input stands behind it: (B, 2·C, H, W).
        """
        assert reused is not None
        context_BCHW = self.act(self.context(stream, reused))
        features = self.transform(context_BCHW.movedim(1, -1)).movedim(-1, 1)
        if self.own_input:
            features = torch.cat((features, self.own(stream)), dim=1)
        return cast(Tensor, features)

    def merge(self, stream: Tensor, features: Tensor) -> Tensor:
        """Projection and residual."""
        return stream + cast(Tensor, self.proj(features))


class ChannelLinear(nn.Linear):
    """A linear layer on the channels of feature maps (B, C, H, W)."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, outputs, H, W)."""
        return super().forward(x_BCHW.movedim(1, -1)).movedim(-1, 1)


def conv_and_norm(module: nn.Module) -> tuple[nn.Conv2d, nn.BatchNorm2d | None]:
    """A convolution and the batch normalisation behind it; None where it is folded already."""
    if isinstance(module, nn.Conv2d):
        return module, None
    convolution, norm = module.children()
    return cast(nn.Conv2d, convolution), cast(nn.BatchNorm2d, norm)


@torch.no_grad()
def folded_projection(module: nn.Module, *, own_input: bool = False) -> nn.Linear:
    """A 1×1 convolution with its normalisation in evaluation, as one linear layer.

    Args:
        module: the convolution, alone or with its normalisation.
        own_input: make room for as many inputs again, with weights of zero.
    """
    convolution, norm = conv_and_norm(module)
    weight, bias = convolution.weight, convolution.bias
    if norm is not None:
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None
        assert variance is not None
        weight, bias = fuse_conv_bn_weights(
            weight, bias, mean, variance, norm.eps, norm.weight, norm.bias
        )
    outputs, inputs = weight.shape[:2]
    linear = ChannelLinear(
        inputs * (2 if own_input else 1), outputs, device=weight.device, dtype=weight.dtype
    )
    linear.weight.zero_()
    linear.weight[:, :inputs] = weight.flatten(1)
    linear.bias.copy_(torch.zeros_like(linear.bias) if bias is None else bias)
    return linear


def _labelled(
    operations: Iterable[Operation], where: str, adapter: StagedAdapter, block: nn.Module
) -> Iterable[Operation]:
    """A block's operations by their parts; one that makes several parts becomes several."""
    parts = adapter.parts(block)
    for op in operations:
        name = op.name.removeprefix(f"{where}.")
        part = _part_of(name, parts, op.part)
        if isinstance(part, str):
            yield replace(op, part=part)
            continue
        assert op.out_features == sum(width for _, width in part)
        for each, width in part:
            yield replace(op, name=f"{op.name}.{each}", part=each, out_features=width)


def _part_of(name: str, parts: Parts, otherwise: str) -> str | tuple[tuple[str, int], ...]:
    """What an operation is in its block, or what it is made of; by the first prefix that fits."""
    fitting = (part for prefix, part in parts if f"{name}.".startswith(f"{prefix}."))
    return next(fitting, otherwise)
