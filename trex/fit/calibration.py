"""What the original does with the calibration images: where all fits start from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from trex.errors import DataError, ModelError
from trex.fit.loss import ROWS, answers, mean_kl
from trex.fit.scratch import TensorFile
from trex.models.adapter import Adapter
from trex.models.answers import answers_of
from trex.plan import Plan
from trex.reuse.precision import Precision, forward_precision
from trex.reuse.route import Passed, Route, Step, encoders_of, run_encoders

Progress = Callable[[int], object]

#: Average and mixed maps need few numbers: so many images' maps are kept, on disk.
MOST_MAPS: Final = 500

#: Logits of trained classifiers stay within a hundred; softmax of these is one class alone.
MOST_LOGIT: Final = 1e5
#: differences below this share of the largest logit are rounding, in bfloat16 too
SAME: Final = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class FitSettings:
    """How projections are fitted: where a choice for the model at hand starts (`fit.choose`).

    The start is the original's projection for mixed and average maps, of which it is nearly right,
    and nothing for other consumers.
    """

    #: how much more a class token's error counts than a patch token's
    class_weight: float = 100.0
    #: penalty on the way from the start, as a share of the features' mean square
    ridge: float = 0.1
    #: the share of the drift between the original's and the variant's stream that is corrected
    drift: float = 1.0
    #: how far to go from the start to the solved map: a small push in the right direction upsets
    #: later encoders less than the whole one
    shrink: float = 0.4
    #: how far producers behind the first fitted consumer go from the original's projection to
    #: one that is solved like a consumer's; None where they stay as they are
    producers: float | None = None
    #: images in one forward
    batch_size: int = 50
    #: of forwards; what is solved is solved in double precision
    precision: Precision = "float32"


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
        maps: the encoders whose attention maps are kept, for `map/mixed` and `map/average`.
        progress: called with the number of images done.

    Attributes:
        layout: which plans the model can run.
        answers: what the model puts out.
        encoders: with their names, in order.
        entry: of every image, the stream that enters encoder 0.
        places: what the model hands its encoders beside it, the same for all images.
        attended: of every encoder and fitted image, the stream behind its attention.
        maps: of the encoders asked for, the first fitted images' attention maps.
        n_maps: of how many images.
        logits: the original's, or its features, of every image; on the disk too.

    Raises:
        DataError: there is no image to fit on, or all are the same to the model.
        ModelError: what the original puts out is not finite, or absurd.
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
        maps: Collection[int] = (),
        progress: Progress = lambda images: None,
    ) -> None:
        self.model = model
        self.adapter = adapter
        self.settings = settings
        self.scratch = scratch
        self.layout = adapter.layout(model)
        self.answers = answers_of(model)
        self.encoders = list(encoders_of(model, adapter))
        self.entry = TensorFile(scratch)
        self.places: tuple[Tensor, ...] = ()
        self.attended = [TensorFile(scratch) for _ in self.encoders]
        self.maps = {index: TensorFile(scratch, torch.bfloat16) for index in sorted(maps)}
        self.n_fit = self.n_images = self.n_maps = 0
        route = Route.of(Plan(), self.layout)
        logits = TensorFile(scratch)
        model.eval()
        precision = forward_precision(settings.precision)
        with (
            torch.no_grad(),
            precision,
            closed_on_failure([self.entry, logits, *self.attended, *self.maps.values()]),
        ):
            for fitted, batches in ((True, fit_batches), (False, measure_batches)):
                for images in batches:
                    mapped = fitted and self.n_images < MOST_MAPS
                    of = self._collect(self._route(route, mapped), images, fitted)
                    logits.write(self.n_images, of)
                    self.n_images += len(images)
                    self.n_fit += len(images) if fitted else 0
                    self.n_maps += len(images) if mapped else 0
                    progress(len(images))
            if not self.n_fit:
                raise DataError("there is no image to fit on", hint="give more calibration images")
            self.logits = logits.mapped()
            logits.close()
            check_outputs(self.logits)

    def loss(self, found: Tensor, original: Tensor) -> float:
        """How far a variant's answers are from the original's, in nats an image."""
        return mean_kl(answers(found, original, self.answers), original, self.answers)

    def _route(self, route: Route, mapped: bool) -> Route:
        """The original's, with the maps that are asked for."""
        if not mapped or not self.maps:
            return route
        steps = (
            replace(step, live=frozenset({(step.index, "map")}))
            if step.index in self.maps
            else step
            for step in route.steps
        )
        return replace(route, steps=tuple(steps))

    def _collect(self, route: Route, images: Tensor, fitted: bool) -> Tensor:
        """Run one batch through the original; store its streams."""
        start = self.n_images

        def see(step: Step, passed: Passed) -> None:
            if fitted:
                self.attended[step.index].write(start, passed.attended.stream)
            for (_, _), value in passed.left.kept.items():
                self.maps[step.index].write(start, value)

        stream = self.adapter.stem(self.model, images)
        self.entry.write(start, stream)
        self.places = self.adapter.places(self.model, images)
        return run_encoders(self.model, self.adapter, route, stream, self.places, see=see)[1]

    def target(self, encoder: int, start: int, stop: int, drift: float) -> Tensor:
        """What an encoder's attention branch should add, plus `drift` times its residual's share.

        Of the fitted images from `start` to `stop` and the original's tokens. What entered the
        encoder is not stored: it is made anew where not all of the drift is corrected.
        """
        attended = self.attended[encoder].read(start, stop)
        if drift == 1.0:
            return attended
        entered = self._entered(encoder, start, stop)
        residual = self.adapter.residual(self.encoders[encoder][1], entered)
        return attended - (1.0 - drift) * residual

    def _entered(self, encoder: int, start: int, stop: int) -> Tensor:
        """The original's stream before an encoder's attention."""
        if encoder:
            before = self.encoders[encoder - 1][1]
            with torch.no_grad(), forward_precision(self.settings.precision):
                left = self.adapter.after(before, self.attended[encoder - 1].read(start, stop))
                stream = self.adapter.between(self.model, encoder - 1, left)
        else:
            stream = self.entry.read(start, stop)
        return self.adapter.before(self.encoders[encoder][1], stream)

    def close(self) -> None:
        """Give the disk space back."""
        for file in (self.entry, *self.attended, *self.maps.values()):
            file.close()


def check_outputs(logits: Tensor) -> None:
    """See that an original says something about images that a variant can be compared with.

    Args:
        logits: of every calibration image, (images, classes).

    Raises:
        ModelError: they are not finite, or larger than any classifier's.
        DataError: they are the same for all images.
    """
    parts = torch.split(logits, ROWS)
    unsound = sum(int((~part.isfinite().all(dim=1)).sum()) for part in parts)
    if unsound:
        raise ModelError(
            f"the original puts out what is no number for {unsound} of {len(logits)} "
            "calibration images",
            hint="check its weights, its preprocessing (--mean, --std) and --precision float32",
        )
    largest = max(float(part.abs().max()) for part in parts)
    if largest > MOST_LOGIT:
        raise ModelError(
            f"the original's answers reach {largest:.3g}, which no trained model's do",
            hint="check its weights and its preprocessing (--mean, --std)",
        )
    spread = max(float((part - logits[0]).abs().max()) for part in parts)
    if len(logits) > 1 and spread <= SAME * max(largest, SAME):
        raise DataError(
            f"the original answers the same to all {len(logits)} calibration images",
            hint="check that they are not copies of one, or all black, and that its weights are "
            "not all zero",
        )


@contextmanager
def closed_on_failure(files: Collection[TensorFile]) -> Iterator[None]:
    """Give disk space back at once where what fills the files fails or is interrupted."""
    try:
        yield
    except BaseException:
        for file in files:
            file.close()
        raise
