"""What stands between the reused tensor and the consumer's projection.

`none` and `linear` add no module: a linear map folds into the projection that follows it, so
fitting or training that projection *is* the linear transform. `linear_own` adds none either: the
projection then reads the reused tensor and the consumer's own normalised input side by side.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trex.architecture import TRANSFORMS, Transform
from trex.errors import PlanError
from trex.plan import ReusePlan

#: transforms after which the projection also reads the consumer's own normalised input
OWN_INPUT: Final[frozenset[Transform]] = frozenset({"linear_own"})

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


def transforms_of(plan: ReusePlan, transforms: str | Mapping[int, str]) -> dict[int, Transform]:
    """One transform for every consumer of `plan`, from one name for all or a name for each.

    Raises:
        PlanError: an unknown name, a consumer without one, or a name for a producer.
    """
    named = (
        dict.fromkeys(plan.consumers, transforms) if isinstance(transforms, str) else transforms
    )
    for transform in (transforms,) if isinstance(transforms, str) else transforms.values():
        if transform not in TRANSFORMS:
            raise PlanError(
                f"{transform!r} is not a transform", hint=f"choose one of {', '.join(TRANSFORMS)}"
            )
    for consumer in named:
        if consumer not in plan.consumers:
            raise PlanError(
                f"encoder {consumer} has a transform but does not reuse",
                hint="name transforms for consumers only",
            )
    if missing := sorted(set(plan.consumers) - named.keys()):
        raise PlanError(
            f"consumer {missing[0]} has no transform", hint="name one transform for each consumer"
        )
    return {consumer: cast(Transform, named[consumer]) for consumer in plan.consumers}
