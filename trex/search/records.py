"""What measuring a candidate leaves in its record."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trex.fit.loss import ROWS, answers, mean_kl
from trex.fit.neighbours import neighbour_scores
from trex.models.answers import Answers
from trex.store.record import Measured, Spent


def spent_on(rung: str, loss: float, images: int, seconds: float) -> Spent:
    """What one rung found and spent on a candidate, for its record."""
    return Spent(rung=rung, loss=loss, images=images, seconds=round(seconds, 3))


def soft_agreement(logits: Tensor, original: Tensor) -> float:
    """How surely a variant gives the original's first guess, between 0 and 1.

    The mean of 1 / (1 + exp(-margin)), with the margin in logits by which the original's first
    guess leads all other classes. It is agreement without its jumps, so a few hundred images tell
    plans apart, and it ranks top-1 on other images better than KL divergence (docs/search.md).
    """
    margins = []
    for part, wanted in zip(torch.split(logits, ROWS), torch.split(original, ROWS), strict=True):
        first = wanted.argmax(1, keepdim=True)
        own = part.double().gather(1, first)
        others = part.double().scatter(1, first, -math.inf).amax(1, keepdim=True)
        margins.append(own - others)
    return float(torch.cat(margins).sigmoid().mean())


def selection_metrics(
    logits: Tensor, original: Tensor, labels: Tensor, of: Answers = "classes"
) -> Measured:
    """How a fitted candidate does on the selection images; accuracies None without labels.

    Features guess the image that is most like theirs, and its label.
    """
    labelled = bool((labels >= 0).all())
    logits = answers(logits, original, of)
    loss = mean_kl(logits, original, of)
    if of == "features":
        logits, original = neighbour_scores(logits), neighbour_scores(original)
    guess, wanted = logits.argmax(1), original.argmax(1)

    def top1(guess: Tensor) -> float | None:
        if not labelled:
            return None
        said = labels[guess] if of == "features" else guess
        return float((said == labels).double().mean())

    return Measured(
        loss=loss,
        agreement=float((guess == wanted).double().mean()),
        soft_agreement=soft_agreement(logits, original),
        top1=top1(guess),
        baseline_top1=top1(wanted),
        n=len(logits),
    )
