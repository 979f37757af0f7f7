"""Closed-form refinement: what the output feels, one ridge regression for all consumers at once.

A fit in sequence (`reuse.fit`) makes every consumer imitate its original, all of its error alike.
But most directions of that error leave the output as it is. Linearised around the variant as it
stands, the logits change by J·d when all consumers' projections change by d, and to second order

    KL(original || variant) = 1/2 · E[(h · (logits − original's logits + J·d))²]

with h the gradient of the log-likelihood of a label drawn from the variant's own output. That is a
linear regression with one equation an image (Gauss-Newton with a sampled Fisher metric). Its dual
has one unknown an image, so the solution is exact however many parameters there are. How far to go
is chosen by leave-one-image-out error, which the dual gives in closed form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from trex.models.adapter import Adapter, Consumer
from trex.reuse.apply import consumers_of, reuse_of
from trex.reuse.fit import Progress
from trex.reuse.scratch import TensorFile

#: images, the original's logits, and the number of the picture each image is made from
Batch = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class RefineSettings:
    """How far consumers are refined.

    Attributes:
        rounds: linearisations, each around what the one before found.
        dampings: penalties to choose from, as shares of the mean squared gradient.
        most_images: equations of one round; further images are left out.
        most_scratch_bytes: room for the gradients; where it is too little, so are further images.
    """

    rounds: int = 2
    dampings: tuple[float, ...] = (0.3, 1.0, 3.0, 10.0, 30.0)
    most_images: int = 5000
    most_scratch_bytes: int = 8_000_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """What one round did.

    Attributes:
        images: equations it solved.
        damping: the penalty that was chosen.
        before: mean square of the equations' residuals before.
        predicted: the same for images left out of the solution, by the linear model.
    """

    images: int
    damping: float
    before: float
    predicted: float


def refine(
    variant: nn.Module,
    adapter: Adapter,
    batches: Callable[[], Iterable[Batch]],
    *,
    settings: RefineSettings,
    scratch: Path,
    seed: int = 0,
    progress: Progress = lambda images: None,
) -> list[Round]:
    """Refine the projections of all consumers of a fitted variant, in place.

    A round that would not lower the error of images left out changes nothing and is the last.
    Consumers with the transform `none` stay as they are.

    Args:
        variant: a fitted, reusing model.
        adapter: of its family.
        batches: makes the same batches anew at each call.
        settings: how far to go.
        scratch: a folder with room for `most_images` times the projections' parameters.
        seed: of the drawn labels.
        progress: called with the number of images done.
    """
    _, transforms = reuse_of(variant) or (None, {})
    consumers = [c for i, c in consumers_of(variant).items() if transforms[i] != "none"]
    size = sum(c.projection.weight.numel() + c.projection.bias.numel() for c in consumers)
    most = min(settings.most_images, settings.most_scratch_bytes // (4 * max(size, 1)))
    rounds: list[Round] = []
    variant.eval()
    for number in range(settings.rounds if consumers and most else 0):
        equations = _Equations(scratch)
        try:
            generator = torch.Generator().manual_seed(seed + number)
            for images, original, pictures in _first(batches(), most):
                equations.add(
                    *_linearise(variant, adapter, consumers, images, original, generator), pictures
                )
                progress(len(images))
            solution, done = equations.solve(settings.dampings)
        finally:
            equations.close()
        if done.predicted >= done.before:
            break
        _apply(consumers, solution)
        rounds.append(done)
    return rounds


class _Equations:
    """One equation an image: gradient · change = residual. Gradients lie on disk."""

    #: gradients read at once, in images
    _CHUNK = 500

    def __init__(self, scratch: Path) -> None:
        self._gradients = TensorFile(scratch)
        self._residuals: list[Tensor] = []
        self._pictures: list[Tensor] = []
        self._count = 0

    def add(self, gradients: Tensor, residuals: Tensor, pictures: Tensor) -> None:
        """Gradients (B, parameters), residuals (B,) and picture numbers (B,)."""
        self._gradients.write(self._count, gradients)
        self._residuals.append(residuals.double())
        self._pictures.append(pictures)
        self._count += len(residuals)

    def solve(self, dampings: Sequence[float]) -> tuple[Tensor, Round]:
        """The change (parameters,) with the damping that predicts left-out pictures best."""
        kernel = self._kernel()
        residuals = torch.cat(self._residuals)
        groups = _groups(torch.cat(self._pictures))
        mean = kernel.diagonal().mean()
        best: tuple[float, float, Tensor] | None = None
        for damping in dampings:
            inverse = torch.linalg.inv(kernel + damping * mean * torch.eye(len(kernel)))
            dual = inverse @ residuals
            left_out = _left_out_square(inverse, dual, groups)
            if best is None or left_out < best[0]:
                best = (left_out, damping, dual)
        assert best is not None
        predicted, damping, dual = best
        parts = [
            self._gradients.read(start, stop).T @ dual[start:stop].float()
            for start, stop in self._chunks()
        ]
        return torch.stack(parts).sum(0), Round(
            images=self._count,
            damping=damping,
            before=float(residuals.square().mean()),
            predicted=predicted,
        )

    def _kernel(self) -> Tensor:
        """Products of all pairs of gradients, (images, images)."""
        kernel = torch.empty(self._count, self._count, dtype=torch.float64)
        for start, stop in self._chunks():
            rows = self._gradients.read(start, stop)
            for other, end in self._chunks():
                if other > start:
                    break
                block = rows @ self._gradients.read(other, end).T
                kernel[start:stop, other:end] = block
                kernel[other:end, start:stop] = block.T
        return kernel

    def _chunks(self) -> Iterator[tuple[int, int]]:
        for start in range(0, self._count, self._CHUNK):
            yield start, min(start + self._CHUNK, self._count)

    def close(self) -> None:
        """Give the disk space back."""
        self._gradients.close()


def _groups(pictures: Tensor) -> list[Tensor]:
    """For every picture, the equations that are made from it."""
    counts = torch.bincount(pictures)
    sizes: list[int] = counts[counts > 0].tolist()
    return list(torch.split(pictures.argsort(stable=True), sizes))


def _left_out_square(inverse: Tensor, dual: Tensor, groups: Sequence[Tensor]) -> float:
    """Mean squared residual of every picture's equations when they are left out of the solution.

    For the rows g of a picture it is (inverse[g, g])⁻¹ · dual[g], exactly.
    """
    total = 0.0
    for rows in groups:
        block = inverse[rows][:, rows]
        total += float(torch.linalg.solve(block, dual[rows]).square().sum())
    return total / len(dual)


def _linearise(
    variant: nn.Module,
    adapter: Adapter,
    consumers: Sequence[Consumer],
    images: Tensor,
    original: Tensor,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Gradients (B, parameters) and residuals (B,) of one batch."""
    with torch.enable_grad(), _recording(consumers) as seen:
        logits = variant(images)
        probabilities = logits.detach().softmax(-1)
        labels = torch.multinomial(probabilities, 1, generator=generator).squeeze(1)
        direction = -probabilities
        direction[torch.arange(len(labels)), labels] += 1.0
        outputs = [seen[consumer][1] for consumer in consumers]
        felt = torch.autograd.grad((logits * direction).sum(), outputs)
    with torch.no_grad():
        residuals = -(direction * (logits.detach() - original)).sum(-1)
        parts = []
        for consumer, gradient in zip(consumers, felt, strict=True):
            inputs = adapter.vectors(seen[consumer][0]).flatten(1, -2)
            upstream = adapter.vectors(gradient).flatten(1, -2)
            with_bias = torch.cat((inputs, torch.ones_like(inputs[..., :1])), dim=-1)
            parts.append(torch.einsum("bnd,bne->bde", upstream, with_bias).flatten(1))
    return torch.cat(parts, dim=1), residuals


@contextmanager
def _recording(
    consumers: Sequence[Consumer],
) -> Iterator[dict[Consumer, tuple[Tensor, Tensor]]]:
    """What goes into and comes out of every consumer's projection, in the next forward."""
    seen: dict[Consumer, tuple[Tensor, Tensor]] = {}
    handles = []
    for consumer in consumers:

        def note(
            _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, of: Consumer = consumer
        ) -> None:
            seen[of] = (inputs[0].detach(), output)

        handles.append(consumer.projection.register_forward_hook(note))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _apply(consumers: Sequence[Consumer], change: Tensor) -> None:
    """Add the change to the projections."""
    offset = 0
    with torch.no_grad():
        for consumer in consumers:
            projection = consumer.projection
            rows, columns = projection.weight.shape
            part = change[offset : offset + rows * (columns + 1)].view(rows, columns + 1)
            projection.weight.add_(part[:, :-1].to(projection.weight))
            projection.bias.add_(part[:, -1].to(projection.bias))
            offset += part.numel()


def _first(batches: Iterable[Batch], most: int) -> Iterator[Batch]:
    """The first `most` images."""
    left = most
    for images, original, pictures in batches:
        if left <= 0:
            return
        yield images[:left], original[:left], pictures[:left]
        left -= len(images)
