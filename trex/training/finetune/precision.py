"""Mixed precision of a training: which one, and the scale that half precision's gradients need."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Final

import torch
from torch import Tensor

from trex.reuse.precision import fastest_precision
from trex.training.finetune.recipe import Precision, Recipe

_AUTOCAST: Final = {"bf16": torch.bfloat16, "fp16": torch.float16}


def settled_precision(asked: Precision, device: torch.device) -> Precision:
    """`auto` made one of the others: bf16 where the device multiplies it."""
    if asked != "auto":
        return asked
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported()
    else:
        native = device.type == "cpu" and fastest_precision() == "bfloat16"
    return "bf16" if native else "fp32"


class MixedPrecision:
    """Forwards and backwards of a training in the recipe's precision.

    Gradients of fp16 are computed of the loss times a scale, which falls where they overflow and
    rises where they long have not; with other precisions the scale is one.

    Args:
        recipe: a settled one.
        device: of the training.
    """

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self._dtype = _AUTOCAST.get(recipe.precision)
        self._device = device.type
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")

    def forward(self) -> AbstractContextManager[None]:
        """Forwards inside this context multiply in the precision."""
        context: AbstractContextManager[None] = torch.autocast(
            self._device, self._dtype, enabled=self._dtype is not None
        )
        return context

    def backward(self, loss: Tensor) -> None:
        """Add the scaled loss's gradients."""
        torch.autograd.backward(self.scaler.scale(loss))

    @property
    def may_overflow(self) -> bool:
        """Whether a gradient that is no number is the scale's fault: the step is left out."""
        return self.scaler.is_enabled() and self.scaler.get_scale() > 1
