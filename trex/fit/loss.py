"""What a variant loses: how far its answers are from the original's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def answers(logits: Tensor, original: Tensor) -> Tensor:
    """A variant's logits, (images, classes), for comparison with the original's.

    Where one is not finite, the variant answers nothing: it then counts as having ruled out the
    original's first guess, and knowing no more.
    """
    sound = logits.isfinite().all(dim=1, keepdim=True)
    if bool(sound.all()):
        return logits
    wrong = torch.zeros_like(original).scatter_(1, original.argmax(1, keepdim=True), -1.0)
    return torch.where(sound, logits, wrong.to(logits))


def mean_kl(logits: Tensor, original: Tensor) -> float:
    """KL divergence of a variant's probabilities from the original's, in nats an image."""
    return float(
        F.kl_div(
            logits.double().log_softmax(-1),
            original.double().log_softmax(-1),
            reduction="batchmean",
            log_target=True,
        )
    )
