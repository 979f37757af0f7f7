"""Measuring a model's accuracy, and a variant's against its original on the same images.

Every accuracy, difference and interval is a fraction of the images, between 0 and 1 (differences
between -1 and 1). Letters in tensor names: B images, C classes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from scipy.stats import binomtest
from torch import Tensor, nn
from tqdm import tqdm

from trex.errors import DataError
from trex.fit.loss import mean_kl
from trex.models.answers import first_tensor
from trex.progress import is_told, tell
from trex.training.data import Batch

#: Resamplings of the images behind a confidence interval.
_RESAMPLES: Final = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictions:
    """A model's answers, in memory of the CPU.

    Attributes:
        logits: (B, C), in fp32.
        labels: (B,), -1 where an image has none.
        indices: (B,), the images' numbers in their data set.
    """

    logits: Tensor
    labels: Tensor
    indices: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Throughput:
    """Speed of two models alone, without loading or moving images, on the same batches in turn.

    Attributes:
        images_per_second: of the variant.
        baseline_images_per_second: of the original.
        speedup: the first over the second.
    """

    images_per_second: float
    baseline_images_per_second: float
    speedup: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracy:
    """Share of `n` images whose class is the first guess, or among the first five."""

    top1: float
    top5: float
    n: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedComparison:
    """A variant against its original on the same images, in fractions.

    Attributes:
        top1: of the variant.
        top5: of the variant.
        baseline_top1: of the original.
        baseline_top5: of the original.
        difference: `top1 - baseline_top1`.
        ci95: bootstrap interval of the difference, over images.
        p_value: McNemar's exact test that both err equally often.
        agreement: share of images on which both have the same first guess.
        mean_kl: of the variant's probabilities from the original's, in nats an image.
        n: number of images.
    """

    top1: float
    top5: float
    baseline_top1: float
    baseline_top5: float
    difference: float
    ci95: tuple[float, float]
    p_value: float
    agreement: float
    mean_kl: float
    n: int


def predict(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    device: torch.device | str = "cpu",
    amp: bool = False,
    label: str = "predict",
) -> Predictions:
    """A model's answers to all images, in evaluation mode.

    Args:
        model: is moved to `device` and otherwise left as it was.
        batches: the images.
        device: where to run.
        amp: in mixed precision (bf16 on a CPU, fp16 on a GPU).
        label: of the progress bar, which only a terminal shows.

    Raises:
        DataError: there are no images.
        ModelError: the model does not put out logits.
    """
    (answers,), _ = _run((model,), batches, torch.device(device), amp, label, warm_up=False)
    return answers


def predict_paired(
    model: nn.Module,
    baseline: nn.Module,
    batches: Iterable[Batch],
    *,
    device: torch.device | str = "cpu",
    amp: bool = False,
    label: str = "evaluate",
) -> tuple[Predictions, Predictions, Throughput]:
    """The answers of a variant and its original in one pass over the images, and their speed.

    Both run on each batch, the first one changing from batch to batch, so that whatever slows the
    machine down slows both. An extra run of each on the first batch is not timed.

    Raises:
        DataError: there are no images.
    """
    (answers, of_baseline), (seconds, baseline_seconds) = _run(
        (model, baseline), batches, torch.device(device), amp, label, warm_up=True
    )
    speed = Throughput(
        images_per_second=len(answers.labels) / seconds,
        baseline_images_per_second=len(answers.labels) / baseline_seconds,
        speedup=baseline_seconds / seconds,
    )
    return answers, of_baseline, speed


def accuracy(logits: Tensor, labels: Tensor) -> Accuracy:
    """Accuracy of logits (B, C) by labels (B,).

    Raises:
        DataError: a label is missing, or not one of the C classes.
    """
    first, first_five = _hits(logits, labels)
    return Accuracy(
        top1=first.double().mean().item(), top5=first_five.double().mean().item(), n=len(labels)
    )


def compare_paired(
    logits: Tensor, baseline_logits: Tensor, labels: Tensor, *, seed: int = 0
) -> PairedComparison:
    """Compare a variant's logits (B, C) with its original's on the same images, by labels (B,).

    Raises:
        DataError: a label is missing, or not one of the C classes.
    """
    ours, theirs = accuracy(logits, labels), accuracy(baseline_logits, labels)
    right, baseline_right = _hits(logits, labels)[0], _hits(baseline_logits, labels)[0]
    gained = int((right & ~baseline_right).sum())
    lost = int((baseline_right & ~right).sum())
    agreement = (logits.argmax(dim=1) == baseline_logits.argmax(dim=1)).double().mean()
    return PairedComparison(
        top1=ours.top1,
        top5=ours.top5,
        baseline_top1=theirs.top1,
        baseline_top5=theirs.top5,
        difference=(gained - lost) / ours.n,
        ci95=_bootstrap(gained, lost, ours.n, seed),
        p_value=float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0,
        agreement=agreement.item(),
        mean_kl=mean_kl(logits, baseline_logits),
        n=ours.n,
    )


def _bootstrap(gained: int, lost: int, n: int, seed: int) -> tuple[float, float]:
    # An image's difference is -1, 0 or 1: drawing n images again is one multinomial draw.
    shares = np.array([lost, n - gained - lost, gained]) / n
    counts = np.random.default_rng(seed).multinomial(n, shares, size=_RESAMPLES)
    low, high = np.quantile((counts[:, 2] - counts[:, 0]) / n, (0.025, 0.975))
    return float(low), float(high)


def _hits(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Whether the first guess, and any of the first five, is right: two of (B,)."""
    classes = logits.shape[1]
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise DataError(
            f"{len(wrong)} of {len(labels)} images have no label from 0 to {classes - 1}",
            hint="accuracy needs a labelled data set: class folders, or --class-map",
        )
    guesses = logits.topk(min(5, classes), dim=1).indices == labels[:, None]
    return guesses[:, 0], guesses.any(dim=1)


def _run(
    models: Sequence[nn.Module],
    batches: Iterable[Batch],
    device: torch.device,
    amp: bool,
    label: str,
    *,
    warm_up: bool,
) -> tuple[list[Predictions], list[float]]:
    """Every model's answers, and the seconds it took for them."""
    logits: list[list[Tensor]] = [[] for _ in models]
    seconds = [0.0] * len(models)
    labels, indices = [], []
    with _evaluation(models, device, amp):
        hidden = True if is_told() else None
        bar = tqdm(batches, desc=label, unit="batch", file=sys.stderr, leave=False, disable=hidden)
        for number, batch in enumerate(bar):
            images = batch.images.to(device)
            if warm_up and number == 0:
                for model in models:
                    _timed(model, images)
            order = range(len(models)) if number % 2 == 0 else reversed(range(len(models)))
            for i in order:
                output, taken = _timed(models[i], images)
                logits[i].append(output.float().cpu())
                seconds[i] += taken
            labels.append(batch.labels)
            indices.append(batch.indices)
            tell(label, number + 1, int(bar.total or 0), "batches")
    if not labels:
        raise DataError("there are no images to run the model on", hint="check the data set")
    answers = [
        Predictions(logits=torch.cat(of), labels=torch.cat(labels), indices=torch.cat(indices))
        for of in logits
    ]
    return answers, seconds


def _timed(model: nn.Module, images: Tensor) -> tuple[Tensor, float]:
    _wait_for(images.device)
    start = time.perf_counter()
    output = first_tensor(model(images))
    _wait_for(images.device)
    return output, time.perf_counter() - start


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


@contextmanager
def _evaluation(models: Sequence[nn.Module], device: torch.device, amp: bool) -> Iterator[None]:
    training = [(module, module.training) for model in models for module in model.modules()]
    try:
        for model in models:
            model.eval().to(device)
        # not inference_mode: its outputs could not be targets of a later training
        with torch.no_grad(), torch.autocast(device.type, enabled=amp):
            yield
    finally:
        for module, was in training:
            module.training = was
