"""Closed-form fitting: every consumer's projection by weighted ridge regression, no training.

Encoder after encoder, on the variant's own activations: a consumer's projection is solved so that
from the reused tensor it puts out what the original's attention branch put out, plus a share of
the drift that has built up between the two residual streams. So later consumers correct earlier
ones' error. Activations pass through files (`reuse.scratch`), only Gram matrices are kept in
memory, and plans that begin alike share the work of their common beginning.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from trex.architecture import Transform
from trex.errors import DataError
from trex.models.adapter import Adapter, Consumer
from trex.plan import Reuse, ReusedTensor, ReusePlan
from trex.reuse.apply import apply_reuse, check_plan
from trex.reuse.precision import Precision, forward_precision
from trex.reuse.ridge import RidgeSystem
from trex.reuse.scratch import TensorFile
from trex.reuse.transforms import OWN_INPUT, make_transform

Progress = Callable[[int], object]
#: chooses which of some candidates to work on next; None for none of them
Take = Callable[[Sequence["Candidate"]], "Candidate | None"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FitSettings:
    """How projections are fitted; the defaults are those that measured best (docs/fitting.md)."""

    #: how much more a class token's error counts than a patch token's
    class_weight: float = 100.0
    #: penalty on the weights, as a share of the features' mean square
    ridge: float = 0.1
    #: the share of the drift between the original's and the variant's stream that is corrected
    drift: float = 1.0
    #: the share of the solved map that is used: a small push in the right direction upsets later
    #: encoders less than the whole one
    shrink: float = 0.4
    #: images in one forward
    batch_size: int = 50
    #: of forwards; what is solved is solved in double precision
    precision: Precision = "float32"


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A plan with a transform for each consumer: what is fitted and evaluated."""

    plan: ReusePlan
    transforms: Mapping[int, Transform]

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits that name this candidate in files."""
        text = " ".join(f"{reuse}/{self.transforms[reuse.consumer]}" for reuse in self.plan)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True, slots=True)
class FittedPlan:
    """A fitted candidate.

    Attributes:
        state: the parameters that differ from the original's, under the variant's names.
        logits: of the measured images, (images, classes).
    """

    candidate: Candidate
    state: dict[str, Tensor]
    logits: Tensor


def apply_fitted(model: nn.Module, fitted: FittedPlan) -> nn.Module:
    """Make an original `model` run the fitted plan, in place, and return it."""
    apply_reuse(model, fitted.candidate.plan, dict(fitted.candidate.transforms))
    state = model.state_dict()
    with torch.no_grad():
        for name, value in fitted.state.items():
            state[name].copy_(value)
    return model


class Calibration:
    """What the original does with the calibration images, and where variants start from.

    One pass over the images; those fitted on are numbered first, those measured on follow.

    Args:
        model: the original, which stays as it is.
        adapter: of its family.
        fit_batches: images (B, C, H, W) to fit on.
        measure_batches: images to measure on.
        settings: of all fits that start here.
        scratch: a folder on a disk with room for the fitted images' activations in every encoder.
        progress: called with the number of images done.

    Raises:
        DataError: there is no image to fit on.
    """

    def __init__(
        self,
        model: nn.Module,
        adapter: Adapter,
        fit_batches: Iterable[Tensor],
        measure_batches: Iterable[Tensor] = (),
        *,
        settings: FitSettings,
        scratch: Path,
        progress: Progress = lambda images: None,
    ) -> None:
        self.model = model
        self.adapter = adapter
        self.settings = settings
        self.scratch = scratch
        self.encoders: list[tuple[str, nn.Module]] = [
            (f"{name}.{position}", block)
            for name in adapter.containers(model)
            for position, block in enumerate(cast(nn.Sequential, model.get_submodule(name)))
        ]
        self.entry = TensorFile(scratch)
        self.targets = [TensorFile(scratch) for _ in self.encoders]
        self.n_fit = self.n_images = 0
        logits = []
        model.eval()
        precision = forward_precision(settings.precision)
        with torch.no_grad(), precision, _closed_on_failure(self.entry, *self.targets):
            for fitted, batches in ((True, fit_batches), (False, measure_batches)):
                for images in batches:
                    logits.append(self._collect(images, fitted))
                    self.n_images += len(images)
                    self.n_fit += len(images) if fitted else 0
                    progress(len(images))
            if not self.n_fit:
                raise DataError("there is no image to fit on", hint="give more calibration images")
        self.logits = torch.cat(logits).float()

    def _collect(self, images: Tensor, fitted: bool) -> Tensor:
        """Run one batch through the original; store its entry stream and the fit's targets."""
        start = self.n_images
        stream = self.adapter.stem(self.model, images)
        self.entry.write(start, stream)
        for index, (_, block) in enumerate(self.encoders):
            stream = self.adapter.before(block, stream)
            output, _ = self.adapter.attend(block, stream, frozenset())
            merged = self.adapter.merge(block, stream, output)
            if index and fitted:
                kept = 1.0 - self.settings.drift
                self.targets[index].write(start, merged - kept * stream)
            stream = self.adapter.between(self.model, index, self.adapter.after(block, merged))
        return self.adapter.head(self.model, stream)

    def close(self) -> None:
        """Give the disk space back."""
        for file in (self.entry, *self.targets):
            file.close()


@dataclass(slots=True)
class _Node:
    """The plans that agree up to some encoder; `children` differ in what the next encoder does."""

    children: dict[tuple[Reuse, Transform] | None, _Node] = field(default_factory=dict)
    #: tensors of the encoder above this node that some plan below reuses
    offers: set[ReusedTensor] = field(default_factory=set)
    candidate: Candidate | None = None
    #: all candidates of this node and below, in order
    below: list[Candidate] = field(default_factory=list)


@dataclass(slots=True)
class _Aim:
    """The candidate that is worked towards; the next one is taken when a way has to be chosen."""

    take: Take
    candidate: Candidate | None = None

    def leads_to(self, node: _Node) -> bool:
        """Whether to go through a node; takes a candidate below it where none is aimed at."""
        if self.candidate is None and node.below:
            self.candidate = self.take(node.below)
        return any(candidate is self.candidate for candidate in node.below)


class PlanFitter:
    """Fits and runs many candidates over the images of one calibration, sharing beginnings.

    Args:
        calibration: the original's pass.
        fit_rows: the images that are fitted on, below `calibration.n_fit`.
        measure_rows: the images whose logits are returned.
        progress: called with every image that has passed through one encoder.
    """

    def __init__(
        self,
        calibration: Calibration,
        *,
        fit_rows: range | None = None,
        measure_rows: range | None = None,
        progress: Progress = lambda steps: None,
    ) -> None:
        self._calibration = calibration
        self._adapter = calibration.adapter
        self._fit_rows = fit_rows if fit_rows is not None else range(calibration.n_fit)
        self._measure_rows = (
            measure_rows
            if measure_rows is not None
            else range(calibration.n_fit, calibration.n_images)
        )
        self._progress = progress

    def steps(self, candidates: Sequence[Candidate]) -> int:
        """How many images have to pass through how many encoders, in all."""
        return self._count(self._tree(candidates)) * (
            len(self._fit_rows) + len(self._measure_rows)
        )

    def fit(
        self, candidates: Sequence[Candidate], take: Take = lambda left: left[0]
    ) -> Iterator[FittedPlan]:
        """Fit candidates and yield each as soon as it is done; the order is the tree's.

        Args:
            candidates: what may be fitted.
            take: asked before any work that only the given ones need; others may have taken them.

        Raises:
            PlanError: a plan does not fit the model; raised before any work.
        """
        for candidate in candidates:
            check_plan(candidate.plan, self._calibration.model, self._adapter)
        entry = self._calibration.entry
        with torch.no_grad():
            yield from self._visit(self._tree(candidates), 0, entry, {}, {}, _Aim(take))

    def _tree(self, candidates: Sequence[Candidate]) -> _Node:
        root = _Node()
        for candidate in candidates:
            node, path = root, []
            for index in range(len(self._calibration.encoders)):
                reuse = candidate.plan.reuse_of(index)
                decision = (reuse, candidate.transforms[index]) if reuse else None
                node = node.children.setdefault(decision, _Node())
                node.below.append(candidate)
                path.append(node)
                if reuse:
                    path[reuse.source].offers.add(reuse.tensor)
            node.candidate = candidate
        return root

    def _count(self, node: _Node) -> int:
        return sum(1 + self._count(child) for child in node.children.values())

    def _visit(
        self,
        node: _Node,
        index: int,
        stream: TensorFile,
        kept: dict[tuple[int, ReusedTensor], TensorFile],
        state: dict[str, Tensor],
        aim: _Aim,
    ) -> Iterator[FittedPlan]:
        for decision, child in node.children.items():
            if not aim.leads_to(child):
                continue
            offered: dict[tuple[int, ReusedTensor], TensorFile] = {}
            fitted: dict[str, Tensor] = {}
            if decision is None:
                moved, offered = self._produce(index, stream, frozenset(child.offers))
            else:
                reuse, transform = decision
                source = kept[reuse.source, reuse.tensor]
                moved, fitted = self._consume(reuse, transform, stream, source)
            try:
                if child.candidate is not None:
                    aim.candidate = None
                    yield FittedPlan(
                        candidate=child.candidate,
                        state={**state, **fitted},
                        logits=self._head(moved),
                    )
                yield from self._visit(
                    child, index + 1, moved, {**kept, **offered}, {**state, **fitted}, aim
                )
            finally:
                for file in (moved, *offered.values()):
                    file.close()

    def _batches(self, *row_ranges: range) -> Iterator[tuple[int, int]]:
        size = self._calibration.settings.batch_size
        for rows in row_ranges:
            for start in range(rows.start, rows.stop, size):
                yield start, min(start + size, rows.stop)

    def _produce(
        self, index: int, stream: TensorFile, tensors: frozenset[ReusedTensor]
    ) -> tuple[TensorFile, dict[tuple[int, ReusedTensor], TensorFile]]:
        adapter, (_, block) = self._adapter, self._calibration.encoders[index]
        moved = TensorFile(self._calibration.scratch)
        offered = {(index, t): TensorFile(self._calibration.scratch) for t in tensors}
        with self._precision(), _closed_on_failure(moved, *offered.values()):
            for start, stop in self._batches(self._fit_rows, self._measure_rows):
                x = adapter.before(block, stream.read(start, stop))
                output, kept = adapter.attend(block, x, tensors)
                x = adapter.after(block, adapter.merge(block, x, output))
                moved.write(start, adapter.between(self._calibration.model, index, x))
                for tensor, value in kept.items():
                    offered[index, tensor].write(start, value)
                self._progress(stop - start)
        return moved, offered

    def _consume(
        self, reuse: Reuse, transform: Transform, stream: TensorFile, source: TensorFile
    ) -> tuple[TensorFile, dict[str, Tensor]]:
        calibration, adapter, index = self._calibration, self._adapter, reuse.consumer
        name, block = calibration.encoders[index]
        consumer = adapter.make_consumer(
            block,
            reuse.tensor,
            make_transform(transform, adapter.projection(block)),
            own_input=transform in OWN_INPUT,
        ).eval()
        if transform != "none":
            self._solve(consumer, index, stream, source)
        moved = TensorFile(calibration.scratch)
        with self._precision(), _closed_on_failure(moved):
            for start, stop in self._batches(self._fit_rows, self._measure_rows):
                x = consumer(stream.read(start, stop), source.read(start, stop))
                moved.write(start, adapter.between(calibration.model, index, x))
                self._progress(stop - start)
        originals = {id(p) for p in block.parameters()}
        own = {n: p for n, p in consumer.named_parameters() if id(p) not in originals}
        return moved, {f"{name}.{key}": p.detach().clone() for key, p in own.items()}

    def _solve(
        self, consumer: Consumer, index: int, stream: TensorFile, source: TensorFile
    ) -> None:
        calibration, settings = self._calibration, self._calibration.settings
        projection = consumer.projection
        system = RidgeSystem(projection.in_features, projection.out_features)
        for start, stop in self._batches(self._fit_rows):
            with self._precision():
                x = consumer.before(stream.read(start, stop))
                features = consumer.features(x, source.read(start, stop))
            target = calibration.targets[index].read(start, stop) - settings.drift * x
            weights = self._adapter.token_weights(calibration.model, x, settings.class_weight)
            system.add(self._adapter.vectors(features), self._adapter.vectors(target), weights)
        weight, bias = system.solve(settings.ridge)
        projection.weight.copy_(settings.shrink * weight)
        projection.bias.copy_(settings.shrink * bias)

    def _head(self, stream: TensorFile) -> Tensor:
        with self._precision():
            logits = [
                self._adapter.head(self._calibration.model, stream.read(start, stop))
                for start, stop in self._batches(self._measure_rows)
            ]
        return torch.cat(logits).float() if logits else torch.empty(0)

    def _precision(self) -> AbstractContextManager[None]:
        return forward_precision(self._calibration.settings.precision)


@contextmanager
def _closed_on_failure(*files: TensorFile) -> Iterator[None]:
    """Give disk space back at once where what fills it fails or is interrupted."""
    try:
        yield
    except BaseException:
        for file in files:
            file.close()
        raise
