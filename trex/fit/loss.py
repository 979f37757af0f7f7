"""What a variant loses: how far its answers are from the original's."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


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
