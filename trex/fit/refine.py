"""Closed-form refinement by what the output feels: one ridge regression for all projections.

A fit in sequence (`fit.fitter`) makes every consumer imitate its original, all of its error alike.
But most directions of that error leave the output as it is. Linearised around the variant as it
stands, the logits change by J·d when all projections from the first consumer on change by d (the
producers' too: on the chip that costs nothing), and to second order

    KL(original || variant) = 1/2 · E[(h · (logits − original's logits + J·d))²]

with h the gradient of the log-likelihood of a label drawn from the variant's own output. That is a
linear regression with an equation for each label drawn of an image (Gauss-Newton with a sampled
Fisher metric). Where a model puts out features, u of length one, they are the means of normal
distributions (`fit.loss`), and h is a sample's gradient there: a standard normal vector. The dual
has one unknown an equation, so the solution is exact however many parameters there are. How far to
go is chosen by leave-one-image-out error, which the dual gives in closed form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trex.fit.calibration import Progress
from trex.fit.scratch import TensorFile
from trex.models.adapter import Adapter
from trex.models.answers import answers_of, first_tensor
from trex.plan import Plan
from trex.reuse.apply import consumers_of, plan_of, planned_containers
from trex.reuse.precision import Precision, forward_precision

#: what gradients are stored in: the equations they stand in are drawn at random anyway
_GRADIENT: Final = torch.bfloat16

#: images, the original's logits, and the number of the picture each image is made from
Batch = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class RefineSettings:
    """How far a variant is refined.

    Attributes:
        rounds: linearisations, each around what the one before found.
        draws: labels drawn of an image's output, an equation each.
        dampings: penalties to choose from, as shares of the mean squared gradient.
        most_equations: of one round; further images are left out.
        most_scratch_bytes: room for the gradients; where it is too little, so are further images.
        precision: of forwards, gradients and their products.
    """

    rounds: int = 3
    draws: int = 2
    dampings: tuple[float, ...] = (3.0, 10.0, 30.0)
    most_equations: int = 6000
    most_scratch_bytes: int = 8_000_000_000
    precision: Precision = "float32"


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """What one round did.

    Attributes:
        equations: how many it solved.
        damping: the penalty that was chosen.
        before: mean square of the equations' residuals before.
        predicted: the same for images left out of the solution, by the linear model.
    """

    equations: int
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
    """Refine the projections of a fitted variant from its first consumer on, in place.

    A round that would not lower the error of images left out changes nothing and is the last.
    Where no consumer was fitted (all transforms are `none`) nothing is refined.

    Args:
        variant: a fitted model that runs a plan.
        adapter: of its family.
        batches: makes the same batches anew at each call.
        settings: how far to go.
        scratch: a folder with room for `most_images` times the projections' parameters.
        seed: of the drawn labels.
        progress: called with the number of images done.
    """
    projections = _projections(variant, adapter)
    size = sum(p.weight.numel() + p.out_features for p in projections)
    room = settings.most_scratch_bytes // (_GRADIENT.itemsize * max(size, 1))
    most = min(settings.most_equations, room) // settings.draws
    rounds: list[Round] = []
    variant.eval()
    for number in range(settings.rounds if projections and most else 0):
        equations = _Equations(len(projections), scratch)
        try:
            generator = torch.Generator().manual_seed(seed + number)
            for images, original, pictures in _first(batches(), most):
                with forward_precision(settings.precision):
                    drawn = _linearise(
                        variant, adapter, projections, images, original, generator, settings.draws
                    )
                    for gradients, residuals in drawn:
                        equations.add(gradients, residuals, pictures)
                progress(len(images))
            solution, done = equations.solve(settings.dampings, settings.precision)
        finally:
            equations.close()
        if done.predicted >= done.before:
            break
        _apply(projections, solution)
        rounds.append(done)
    return rounds


def _projections(variant: nn.Module, adapter: Adapter) -> list[nn.Linear]:
    """The projections from the first encoder on that something is fitted for, in order.

    That is a consumer through a transform, or an encoder that merges tokens or shares rows.
    """
    plan, consumers = plan_of(variant) or Plan(), consumers_of(variant)
    fitted = {index for index, transform in plan.transforms.items() if transform != "none"}
    first = plan.first_changed
    found = []
    for _, blocks in planned_containers(variant):
        for index, block in enumerate(blocks.children(), start=blocks.first):
            own = index in fitted or index not in consumers
            if first is not None and index >= first and own:
                consumer = consumers.get(index)
                projection = consumer.projection if consumer else adapter.projection(block)
                # a convolution's projection is a copy: such producers stay as they are
                if any(module is projection for module in block.modules()):
                    found.append(projection)
    return found


class _Equations:
    """Equations gradient · change = residual. Gradients lie on disk, in half precision.

    Args:
        parts: into how many parts the parameters are divided; one is read at a time.
        scratch: where to.
    """

    def __init__(self, parts: int, scratch: Path) -> None:
        self._gradients = [TensorFile(scratch, _GRADIENT) for _ in range(parts)]
        self._residuals: list[Tensor] = []
        self._pictures: list[Tensor] = []
        self._count = 0

    def add(self, gradients: Sequence[Tensor], residuals: Tensor, pictures: Tensor) -> None:
        """Gradients (B, parameters) of every part, residuals (B,), picture numbers (B,)."""
        for file, gradient in zip(self._gradients, gradients, strict=True):
            file.write(self._count, gradient)
        self._residuals.append(residuals)
        self._pictures.append(pictures)
        self._count += len(residuals)

    def solve(
        self, dampings: Sequence[float], precision: Precision = "float32"
    ) -> tuple[list[Tensor], Round]:
        """Every part's change, with the damping that predicts left-out pictures best.

        Half precision rounds each part's share of the kernel, far below any damping.
        """
        kernel = torch.zeros(self._count, self._count)
        for part in self._parts():
            with forward_precision(precision):
                kernel += part @ part.T
        residuals = torch.cat(self._residuals)
        groups = _groups(torch.cat(self._pictures))
        mean = kernel.diagonal().mean()
        if not mean:
            kernel.fill_diagonal_(1.0)  # nothing changes the output: no change is what solves it
            mean = torch.ones(())
        best: tuple[float, float, Tensor] | None = None
        for damping in dampings:
            inverse = torch.cholesky_inverse(
                torch.linalg.cholesky(kernel + damping * mean * torch.eye(len(kernel)))
            )
            dual = inverse @ residuals
            left_out = _left_out_square(inverse, dual, groups)
            if best is None or left_out < best[0]:
                best = (left_out, damping, dual)
        assert best is not None
        predicted, damping, dual = best
        change = [part.T @ dual for part in self._parts()]
        return change, Round(
            equations=self._count,
            damping=damping,
            before=float(residuals.square().mean()),
            predicted=predicted,
        )

    def _parts(self) -> Iterator[Tensor]:
        return (file.read(0, self._count) for file in self._gradients)

    def close(self) -> None:
        """Give the disk space back."""
        for file in self._gradients:
            file.close()


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
    projections: Sequence[nn.Linear],
    images: Tensor,
    original: Tensor,
    generator: torch.Generator,
    draws: int,
) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Gradients (B, parameters) of every projection and residuals (B,) of one batch, each draw's.

    Scaled so that the equations of one image weigh as much as one draw's alone would.
    """
    features = answers_of(variant) == "features"
    with torch.enable_grad(), _recording(projections) as seen:
        logits = first_tensor(variant(images)).float()
        if features:
            logits, original = F.normalize(logits, dim=-1), F.normalize(original, dim=-1)
    directions = (_of_features if features else _of_labels)(logits.detach(), draws, generator)
    outputs = [seen[projection][1] for projection in projections]
    inputs = [_with_constant(adapter.vectors(seen[p][0]).flatten(1, -2), p) for p in projections]
    for draw, direction in enumerate(directions):
        direction *= draws**-0.5
        with torch.enable_grad():
            felt = torch.autograd.grad(
                (logits * direction).sum(), outputs, retain_graph=draw < draws - 1
            )
        residuals = -(direction * (logits.detach() - original)).sum(-1)
        yield (
            [
                torch.einsum("bnd,bne->bde", adapter.vectors(g).flatten(1, -2), x).flatten(1)
                for g, x in zip(felt, inputs, strict=True)
            ],
            residuals,
        )


def _of_labels(logits: Tensor, draws: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Gradients by the logits, (B, C), of the log-likelihoods of labels that are drawn."""
    probabilities = logits.softmax(-1)
    labels = torch.multinomial(probabilities, draws, replacement=True, generator=generator)
    for draw in range(draws):
        direction = -probabilities
        direction[torch.arange(len(labels)), labels[:, draw]] += 1.0
        yield direction


def _of_features(features: Tensor, draws: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Gradients by the features, (B, D), of the log-likelihoods of features that are drawn."""
    for _ in range(draws):
        yield torch.randn(features.shape, generator=generator)


def _with_constant(inputs: Tensor, projection: nn.Linear) -> Tensor:
    if projection.bias is not None:
        inputs = torch.cat((inputs, torch.ones_like(inputs[..., :1])), dim=-1)
    return inputs


@contextmanager
def _recording(
    projections: Sequence[nn.Linear],
) -> Iterator[dict[nn.Module, tuple[Tensor, Tensor]]]:
    """What goes into and comes out of every projection in the next forward."""
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen[module] = (inputs[0].detach(), output)

    handles = [projection.register_forward_hook(note) for projection in projections]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _apply(projections: Sequence[nn.Linear], changes: Sequence[Tensor]) -> None:
    """Add the changes to the projections."""
    with torch.no_grad():
        for projection, change in zip(projections, changes, strict=True):
            part = change.view(projection.out_features, -1).to(projection.weight)
            projection.weight.add_(part[:, : projection.in_features])
            if projection.bias is not None:
                projection.bias.add_(part[:, -1])


def _first(batches: Iterable[Batch], most: int) -> Iterator[Batch]:
    """The first `most` images."""
    left = most
    for images, original, pictures in batches:
        if left <= 0:
            return
        yield images[:left], original[:left], pictures[:left]
        left -= len(images)
