"""Fitted selection losses of many plans, kept in a file: what several benchmarks start from.

Not a script. Losses are measured as a search measures them, with the closed-form fit, on images of
one calibration set: some are fitted on, others compared on. What a store holds is not measured
again, so a benchmark can be stopped at any moment and goes on where it was.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor

from trex.files import append_line, read_jsonl
from trex.fit.calibration import Calibration
from trex.fit.fitter import FittedPlan, PlanFitter
from trex.models.registry import LoadedModel, load
from trex.plan import Plan
from trex.search.problem import SearchSettings
from trex.search.records import selection_metrics
from trex.stored import plan_fields
from trex.training.data import ImageSet, batches, dataset_fingerprint, open_dataset
from trex.training.transforms import DataConfig, eval_transform


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model and images, and where losses are kept."""
    parser.add_argument("--model", default="deit_tiny_patch16_224")
    parser.add_argument("--weights", type=Path, help="local file; else timm's")
    parser.add_argument("--calib", required=True, metavar="DATASET")
    parser.add_argument("--class-map", type=Path, metavar="FILE")
    parser.add_argument("--store", required=True, type=Path, metavar="FILE", help="losses, JSONL")
    parser.add_argument("--bf16", action="store_true", help="forwards in mixed precision")
    parser.add_argument("--seconds", type=float, help="stop measuring after so many; go on later")


class Measured:
    """A store of losses for one model, one set of images and one way to fit.

    Args:
        args: of `add_arguments`.
        fit_images: images to fit on.
        select_images: other images to compare on.
    """

    def __init__(self, args: argparse.Namespace, fit_images: int, select_images: int) -> None:
        self.settings = SearchSettings()
        self.loaded: LoadedModel = load(args.model, weights=args.weights)
        self.config = DataConfig.of_model(self.loaded.model)
        self.final = self.open(args.calib, args.class_map)
        share = self.settings.select_share
        parts = self.final.split((1.0 - share, share), self.settings.seed)
        # The same images, in the same order, as a search takes for its surrogate.
        shuffled = [part.shuffled(self.settings.seed) for part in parts]
        self._fit, self._select = (
            replace(part, positions=part.positions[:n], labels=part.labels and part.labels[:n])
            for part, n in zip(shuffled, (fit_images, select_images), strict=True)
        )
        self._bf16: bool = args.bf16
        self._stop_at = time.monotonic() + args.seconds if args.seconds else float("inf")
        self._head = {
            "model": self.loaded.name,
            "weights_sha256": self.loaded.weights_sha256,
            "images": [dataset_fingerprint(part) for part in (self._fit, self._select)],
            "n": [len(self._fit), len(self._select)],
            "bf16": self._bf16,
        }
        self._store: Path = args.store
        if not self._store.exists():
            append_line(self._store, json.dumps(self._head))
        head, *records = read_jsonl(self._store).records
        if head != self._head:
            raise SystemExit(f"{self._store} is of other settings: {head}, now {self._head}")
        self.records = {record["key"]: record for record in records}

    def open(self, source: str, class_map: Path | None) -> ImageSet:
        """A labelled set, prepared for the model."""
        return open_dataset(
            source,
            transform=eval_transform(self.config),
            class_map=class_map,
            num_classes=self.loaded.model.num_classes,
        )

    def describe(self) -> str:
        """What losses were measured on."""
        precision = "bf16 forwards" if self._bf16 else "fp32"
        return (
            f"{self.loaded.name}, fitted on {len(self._fit)} images, compared on "
            f"{len(self._select)} others, {precision}"
        )

    def loss(self, plan: Plan) -> float:
        """The KL divergence from the original on the images compared on, in nats an image."""
        return float(self.records[plan.key]["loss"])

    def measure(self, plans: Iterable[Plan]) -> None:
        """Measure what the store does not hold.

        Raises:
            SystemExit: the time is over; the same command goes on.
        """
        wanted = {c.key: c for c in plans if c.key not in self.records}
        if not wanted:
            return
        with self._precision(), tempfile.TemporaryDirectory() as scratch:
            calibration, labels = self._calibrate(Path(scratch))
            original = calibration.logits[calibration.n_fit :].float()
            fitter = PlanFitter(calibration)
            print(
                f"measuring {len(wanted)} plans, {fitter.steps([*wanted.values()])} encoder steps"
            )
            with contextlib.closing(fitter.fit([*wanted.values()])) as fits:
                for fitted in fits:
                    self._keep(fitted, original, labels)
                    self.stop_if_late()

    def fitted_finally(self, plans: Sequence[Plan]) -> Iterator[FittedPlan]:
        """Plans fitted on the images `final`; by default all there are."""
        with self._precision(), tempfile.TemporaryDirectory() as scratch:
            calibration = Calibration(
                self.loaded.model,
                self.loaded.adapter,
                (batch.images for batch in batches(self.final, self.settings.fit.batch_size)),
                settings=self.settings.fit,
                scratch=Path(scratch),
            )
            yield from PlanFitter(calibration).fit(plans)

    def stop_if_late(self) -> None:
        """End the program where the time is over.

        Raises:
            SystemExit: it is.
        """
        if time.monotonic() > self._stop_at:
            raise SystemExit("the time is over; the same command goes on")

    def _precision(self) -> contextlib.AbstractContextManager[object]:
        if self._bf16:
            return torch.autocast("cpu", torch.bfloat16)
        return contextlib.nullcontext()

    def _calibrate(self, scratch: Path) -> tuple[Calibration, Tensor]:
        size = self.settings.fit.batch_size
        select = [*batches(self._select, size)]
        calibration = Calibration(
            self.loaded.model,
            self.loaded.adapter,
            (batch.images for batch in batches(self._fit, size)),
            (batch.images for batch in select),
            settings=self.settings.fit,
            scratch=scratch,
        )
        return calibration, torch.cat([batch.labels for batch in select])

    def _keep(self, fitted: FittedPlan, original: Tensor, labels: Tensor) -> None:
        record = {
            "key": fitted.plan.key,
            **plan_fields(fitted.plan),
            **selection_metrics(fitted.logits.float(), original, labels).as_json(),
        }
        append_line(self._store, json.dumps(record))
        self.records[record["key"]] = record


def encoder_steps(plans: Iterable[Plan], num_encoders: int) -> int:
    """How many encoders a set of images passes when plans share their beginnings."""
    return len(
        {
            tuple(plan.at(encoder) for encoder in range(depth))
            for plan in plans
            for depth in range(1, num_encoders + 1)
        }
    )
