"""Weighted ridge regression from accumulated Gram matrices."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

#: of the penalty, as a share of the features' mean square: rounding in double stays below it
_LEAST: Final = 1e-12


class RidgeSystem:
    """Least squares of targets on features plus a constant, fed batch by batch.

    Only the normal equations are kept (`features + 1` squared, in float64), so memory does not
    depend on how many samples are added.
    """

    def __init__(self, num_features: int, num_targets: int) -> None:
        size = num_features + 1
        self._gram = torch.zeros(size, size, dtype=torch.float64)
        self._cross = torch.zeros(size, num_targets, dtype=torch.float64)

    def add(self, features: Tensor, targets: Tensor, weights: Tensor) -> None:
        """Add samples: features (…, F), targets (…, T), weights (…,) not below zero."""
        # Sums of many products in bf16 would lose them: mixed precision ends here.
        with torch.autocast(features.device.type, enabled=False):
            exact = torch.promote_types(features.dtype, torch.float32)
            x = torch.cat((features, torch.ones_like(features[..., :1])), dim=-1).to(exact)
            x, y = x.flatten(0, -2), targets.to(exact).flatten(0, -2)
            weighted = x * weights.flatten().unsqueeze(-1)
            self._gram += (weighted.T @ x).to("cpu", torch.float64)
            self._cross += (weighted.T @ y).to("cpu", torch.float64)

    def solve(self, ridge: float, towards: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The weight (T, F) and bias (T,) of the best linear map, in float64.

        Args:
            ridge: penalty on the weights, as a share of the features' mean square; the bias is
                free.
            towards: (T, F), the weights that are not penalised; zero unless given.
        """
        penalty, cross = self._penalty(ridge), self._cross
        if towards is not None:
            cross = cross.clone()
            cross[:-1] += penalty[:-1, :-1] @ towards.T.to(cross)
        solution = torch.linalg.solve(self._gram + penalty, cross)
        return solution[:-1].T.contiguous(), solution[-1].contiguous()

    def _penalty(self, ridge: float) -> Tensor:
        diagonal = self._gram.diagonal()
        size = float(diagonal[:-1].mean())
        # What features repeat, or never say, has a solution too: the one nearest `towards`.
        penalty = torch.full_like(diagonal, (ridge + _LEAST) * size or 1.0)
        penalty[-1] = 0.0
        return torch.diag(penalty)
