"""Mixed precision of a training: which one, and the scale that half precision's gradients need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from trex.reuse.precision import fastest_precision
from trex.training.finetune.recipe import Recipe

_AUTOCAST: Final = {"bf16": torch.bfloat16, "fp16": torch.float16}


def settled(recipe: Recipe, device: torch.device) -> Recipe:
    """The recipe with `auto` made one of the others: bf16 where the device multiplies it."""
    if recipe.precision != "auto":
        return recipe
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported()
    else:
        native = device.type == "cpu" and fastest_precision() == "bfloat16"
    return recipe.model_copy(update={"precision": "bf16" if native else "fp32"})


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Two products and a softmax in the inputs' own precision for every attention inside."""
    before = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()  # type: ignore[no-untyped-call]
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(before)


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

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Forwards inside this context multiply in the precision.

        On a CPU in bf16 attention is not fused: torch's fused kernel takes up to four times as
        long there to go backward as two plain products do (benchmarks/train_speed.py).
        """
        autocast = torch.autocast(self._device, self._dtype, enabled=self._dtype is not None)
        with self._attention(), autocast:
            yield

    def backward(self, loss: Tensor) -> None:
        """Add the scaled loss's gradients; what was checkpointed is recomputed as it was."""
        with self._attention():
            torch.autograd.backward(self.scaler.scale(loss))

    def _attention(self) -> AbstractContextManager[None]:
        plain = self._device == "cpu" and self._dtype == torch.bfloat16
        return _plain_attention() if plain else nullcontext()

    @property
    def may_overflow(self) -> bool:
        """Whether a gradient that is no number is the scale's fault: the step is left out."""
        return self.scaler.is_enabled() and self.scaler.get_scale() > 1
