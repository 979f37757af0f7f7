"""What stands between the reused tensor and the consumer's projection.

`none` and `linear` add no module: a linear map folds into the projection that follows it, so
fitting or training that projection *is* the linear transform. `linear_own` adds none either: the
projection then reads the reused tensor and the consumer's own normalised input side by side.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trex.models.adapter import Adapter, Consumer, ConsumerForm
from trex.plan import EncoderPlan, Layout, Plan, Transform

#: transforms after which the projection also reads the consumer's own normalised input
OWN_INPUT: Final[frozenset[Transform]] = frozenset({"linear_own"})
#: transforms of maps that add the consumer's own average maps
AVERAGED: Final[frozenset[Transform]] = frozenset({"mixed", "average"})

#: Where a fresh block sits on GELU's curve: far enough right to pass its input almost unchanged.
_PASS_THROUGH_BIAS: Final = 2.0


class TransformationBlock(nn.Module):
    """The paper's Transformation Block: LayerNorm, d×d linear, GELU (TReX §III).

    Fresh, the linear layer is the identity shifted to where GELU is nearly linear, so that the
    block passes the normalised tensor on and a closed-form fit of the projection starts close.
    """

    def __init__(
        self, dim: int, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6, device=device, dtype=dtype)
        self.linear = nn.Linear(dim, dim, device=device, dtype=dtype)
        with torch.no_grad():
            nn.init.eye_(self.linear.weight)
            self.linear.bias.fill_(_PASS_THROUGH_BIAS)

    def forward(self, reused: Tensor) -> Tensor:
        """(…, D) to (…, D)."""
        return F.gelu(self.linear(self.norm(reused)))


def make_transform(transform: Transform, like: nn.Linear) -> nn.Module:
    """A fresh transform for the width, device and type of the projection `like`."""
    dim, device, dtype = like.in_features, like.weight.device, like.weight.dtype
    if transform == "block":
        return TransformationBlock(dim, device, dtype)
    return nn.Identity()


def averaged(plans: Iterable[Plan]) -> set[int]:
    """The encoders of which some plan takes average maps."""
    return {r.consumer for plan in plans for r in plan.reuses if r.transform in AVERAGED}


def consumer_of(block: nn.Module, here: EncoderPlan, layout: Layout, adapter: Adapter) -> Consumer:
    """The consumer that a plan wants, made from an original encoder's own children."""
    assert here.reuse is not None
    tensor, transform = here.reuse.form
    form = ConsumerForm(
        tensor=tensor,
        transform=make_transform(transform, adapter.projection(block)),
        own_input=transform in OWN_INPUT,
        average_tokens=layout.tokens if transform in AVERAGED else 0,
        mixes=transform == "mixed",
        own_rows=layout.class_tokens if here.own_class else 0,
    )
    return adapter.make_consumer(block, form)
