"""What a model answers: logits of classes, or features where it has no head; one row an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from trex.errors import ModelError

#: what a model puts out for every image: logits of classes, or features, where it has no head
Answers = Literal["classes", "features"]


def answers_of(model: nn.Module) -> Answers:
    """What a model puts out: features where timm says that it has no classes."""
    return "features" if getattr(model, "num_classes", None) == 0 else "classes"


def first_tensor(outputs: Tensor | Sequence[Tensor]) -> Tensor:
    """One row for every image, (B, C), of a model that may put out several tensors.

    Logits or pooled features as they are. Of tokens' features (B, N, D) each token's is divided by
    its length, and all of an image's stand side by side: its tokens then count alike.

    Raises:
        ModelError: there is no such tensor in front.
    """
    rows = outputs if isinstance(outputs, torch.Tensor) else outputs[0]
    if isinstance(rows, torch.Tensor) and rows.ndim == 3:
        return torch.nn.functional.normalize(rows, dim=-1).flatten(1)
    if not isinstance(rows, torch.Tensor) or rows.ndim != 2:
        raise ModelError(
            "the model does not put out one row of logits or features per image",
            hint="give a classification model or one without a head, in evaluation mode",
        )
    return rows
