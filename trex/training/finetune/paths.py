"""All plans of a dynamic model as one module that is trained: sandwich sampling.

Every step trains the cheapest plan, the dearest, and some at random between them, on the same
images (Yu and Huang, Universally Slimmable Networks, arXiv 1903.05134). What plans share learns
from all of them; the original teaches each.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn


class Paths(nn.Module):
    """Models that share parameters; each of these is in `parameters` and `state_dict` once.

    Args:
        members: the cheapest first; they stay what they are.
        between: how many beside the cheapest and the dearest a step trains.
        seed: of their choice.

    Attributes:
        members: the models.
        num_classes: of their heads.
    """

    def __init__(self, members: Sequence[nn.Module], *, between: int, seed: int) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.num_classes = getattr(members[0], "num_classes", None)
        self._between, self._seed = between, seed

    def drawn(self, step: int) -> list[int]:
        """The members that a step trains: a function of the seed and the step alone."""
        last = len(self.members) - 1
        inner = range(1, last)
        rng = random.Random(f"{self._seed}/{step}")
        some = rng.sample(inner, min(self._between, len(inner)))
        return sorted({0, last, *some})

    def forward(self, images: Tensor) -> Tensor:
        """Every member's logits, along a new first dimension: (members, B, C)."""
        return torch.stack([cast(Tensor, member(images)) for member in self.members])

    def state_dict(self, *args: Any, **options: Any) -> dict[str, Any]:  # type: ignore[override]
        """As of any module, without what a member shares with one before it."""
        keep = options.pop("keep_vars", False)
        whole: dict[str, Any] = super().state_dict(*args, keep_vars=True, **options)
        seen: set[int] = set()
        state = {}
        for name, tensor in whole.items():
            if id(tensor) not in seen:
                seen.add(id(tensor))
                state[name] = tensor if keep else tensor.detach()
        return state

    def load_state_dict(
        self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False
    ) -> Any:
        """Copy values in; names and shapes must be those of `state_dict`.

        Raises:
            RuntimeError: they are not (or `strict=False`, or `assign`, which are not offered).
        """
        own = self.state_dict(keep_vars=True)
        wrong = own.keys() ^ state_dict.keys()
        wrong |= {n for n in own.keys() - wrong if own[n].shape != state_dict[n].shape}
        if wrong or not strict or assign:
            raise RuntimeError(f"the state is of other paths: {sorted(wrong)[:1]}")
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(state_dict[name])
        return torch.nn.modules.module._IncompatibleKeys([], [])
