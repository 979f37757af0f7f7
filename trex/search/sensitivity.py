"""How much the network's output feels each reuse, from one pass with gradients.

To second order, the KL divergence of a variant from its original is

    KL = 1/2 · E[(sum over consumers of r)²],    r = sum over tokens of g · d

with g the gradient of the log-likelihood of a label drawn from the original's own output, at the
stream behind the consumer's attention branch, and d the error that its reuse adds there. So one
number an image and option is enough to predict every combination of options: what pairs lose
beyond both is the correlation of their r. Memory holds these numbers and Gram matrices only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from trex.architecture import Transform
from trex.models.adapter import Adapter, Consumer
from trex.plan import Reuse, ReusedTensor
from trex.reuse.fit import Candidate, FitSettings, Progress
from trex.reuse.ridge import RidgeSystem
from trex.reuse.transforms import OWN_INPUT, make_transform

Option = tuple[Reuse, Transform]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sensitivity:
    """What every combination of options is predicted to lose.

    Attributes:
        options: consumer, source, tensor and transform of each.
        matrix: (options, options), half the mean product of their r, in nats an image.
    """

    options: tuple[Option, ...]
    matrix: Floats

    def predict(self, candidates: Sequence[Candidate]) -> Floats:
        """The predicted loss of each candidate, in nats an image.

        Raises:
            KeyError: a candidate uses an option that was not measured.
        """
        number = {option: i for i, option in enumerate(self.options)}
        losses = np.empty(len(candidates))
        for row, candidate in enumerate(candidates):
            chosen = [number[r, candidate.transforms[r.consumer]] for r in candidate.plan]
            losses[row] = self.matrix[np.ix_(chosen, chosen)].sum()
        return losses


class _Probe:
    """One option on the original's activations: fitted first, its error felt afterwards."""

    def __init__(self, option: Option, block: nn.Module, adapter: Adapter) -> None:
        self.reuse, transform = option
        self.fits = transform != "none"
        self.consumer: Consumer = adapter.make_consumer(
            block,
            self.reuse.tensor,
            make_transform(transform, adapter.projection(block)),
            own_input=transform in OWN_INPUT,
        ).eval()
        projection = self.consumer.projection
        self.system = RidgeSystem(projection.in_features, projection.out_features)

    def solve(self, ridge: float) -> None:
        weight, bias = self.system.solve(ridge)
        self.consumer.projection.weight.copy_(weight)
        self.consumer.projection.bias.copy_(bias)


@dataclass(slots=True)
class _Step:
    """What one encoder of the original did with a batch."""

    stream: Tensor
    merged: Tensor
    kept: dict[ReusedTensor, Tensor]


def measure_sensitivity(
    model: nn.Module,
    adapter: Adapter,
    options: Sequence[Option],
    fit_batches: Iterable[Tensor],
    measure_batches: Iterable[Tensor],
    *,
    settings: FitSettings,
    label_draws: int = 2,
    seed: int = 0,
    progress: Progress = lambda images: None,
) -> Sensitivity:
    """Fit every option on its own and measure what the output feels of it.

    Args:
        model: the original, which stays as it is.
        adapter: of its family.
        options: what consumers may do.
        fit_batches: images (B, C, H, W) to fit with.
        measure_batches: other images, to measure on.
        settings: of the fits.
        label_draws: labels drawn from the original's output for every image.
        seed: of the drawn labels.
        progress: called with the number of images done, in both passes.
    """
    blocks = [
        b for n in adapter.containers(model) for b in cast(nn.Sequential, model.get_submodule(n))
    ]
    probes = [_Probe(option, blocks[option[0].consumer], adapter) for option in options]
    offers: list[frozenset[ReusedTensor]] = [
        frozenset(r.tensor for r, _ in options if r.source == i) for i in range(len(blocks))
    ]
    model.eval()
    for images in fit_batches:
        with torch.no_grad():
            steps, _ = _run(model, adapter, blocks, offers, images)
            for probe in probes:
                _add(probe, steps, model, adapter, settings)
        progress(len(images))
    with torch.no_grad():
        for probe in probes:
            if probe.fits:
                probe.solve(settings.ridge)
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(len(probes), len(probes), dtype=torch.float64)
    count = 0
    for images in measure_batches:
        felt = _felt(model, adapter, blocks, offers, probes, images, label_draws, generator)
        total += felt.T @ felt
        count += len(felt)
        progress(len(images))
    return Sensitivity(options=tuple(options), matrix=(total / (2 * max(count, 1))).numpy())


def _run(
    model: nn.Module,
    adapter: Adapter,
    blocks: Sequence[nn.Module],
    offers: Sequence[frozenset[ReusedTensor]],
    images: Tensor,
) -> tuple[list[_Step], Tensor]:
    """One pass of the original, step by step, and its logits."""
    steps = []
    stream = adapter.stem(model, images)
    if torch.is_grad_enabled():
        stream = stream.detach().requires_grad_()
    for index, block in enumerate(blocks):
        stream = adapter.before(block, stream)
        output, kept = adapter.attend(block, stream, offers[index])
        merged = adapter.merge(block, stream, output)
        steps.append(_Step(stream, merged, kept))
        stream = adapter.between(model, index, adapter.after(block, merged))
    return steps, adapter.head(model, stream)


def _add(
    probe: _Probe,
    steps: Sequence[_Step],
    model: nn.Module,
    adapter: Adapter,
    settings: FitSettings,
) -> None:
    if not probe.fits:
        return
    step = steps[probe.reuse.consumer]
    features = _features(probe, steps)
    target = step.merged - step.stream
    weights = adapter.token_weights(model, target, settings.class_weight)
    probe.system.add(adapter.vectors(features), adapter.vectors(target), weights)


def _features(probe: _Probe, steps: Sequence[_Step]) -> Tensor:
    reused = steps[probe.reuse.source].kept[probe.reuse.tensor]
    return probe.consumer.features(steps[probe.reuse.consumer].stream, reused)


def _felt(
    model: nn.Module,
    adapter: Adapter,
    blocks: Sequence[nn.Module],
    offers: Sequence[frozenset[ReusedTensor]],
    probes: Sequence[_Probe],
    images: Tensor,
    label_draws: int,
    generator: torch.Generator,
) -> Tensor:
    """The r of every drawn label and option: (draws · images, options)."""
    with torch.enable_grad():
        steps, logits = _run(model, adapter, blocks, offers, images)
        labels = torch.multinomial(
            logits.detach().softmax(-1), label_draws, replacement=True, generator=generator
        )
        gradients = [
            torch.autograd.grad(
                F.cross_entropy(logits, labels[:, draw], reduction="sum"),
                [step.merged for step in steps],
                retain_graph=draw + 1 < label_draws,
            )
            for draw in range(label_draws)
        ]
    felt = torch.empty(label_draws, len(images), len(probes), dtype=torch.float64)
    with torch.no_grad():
        for column, probe in enumerate(probes):
            index = probe.reuse.consumer
            step = steps[index]
            error = probe.consumer.merge(step.stream, _features(probe, steps)) - step.merged
            for draw in range(label_draws):
                felt[draw, :, column] = (gradients[draw][index] * error).flatten(1).sum(1)
    return felt.flatten(0, 1)
