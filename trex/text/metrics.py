"""What CoLA is measured by."""

from __future__ import annotations

from torch import Tensor


def matthews(guesses: Tensor, labels: Tensor) -> float:
    """Matthews correlation of two classes' guesses (n,) and labels (n,), -1 to 1.

    0 is chance, whatever the share of either class, and what guessing one class alone gets
    (Matthews, 1975; where a class is missing, 0 by convention).
    """
    ours, right = guesses.double(), labels.double()
    covariance = (ours * right).mean() - ours.mean() * right.mean()
    spread = (ours.var(correction=0) * right.var(correction=0)).sqrt()
    return float(covariance / spread) if spread > 0 else 0.0
