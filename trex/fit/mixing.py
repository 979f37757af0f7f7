"""Average maps of a consumer's heads, and how its source's heads are mixed into them.

What an attention head does is mostly the same for all images: its average map S. What differs
from image to image follows, in part, another encoder's heads, though not head by head in any
common order. So a consumer's map is

    A_h = S_h + Σ_g w_hg (A_g − S_g)

with the averages over calibration images, and w by least squares. S_h − Σ w_hg S_g is one
constant. Merged tokens' maps are spread over the places of the model's first tokens, where all
images' maps can be averaged.

Letters: B images, H heads, T first tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from trex.errors import DataError
from trex.fit.calibration import Calibration
from trex.models.adapter import Consumer
from trex.models.vit import map_rows
from trex.reuse.route import State, Step

#: Penalty on the weights, as a share of the mean square of the source's deviations.
_RIDGE: Final = 1e-3


def set_mixing(
    consumer: Consumer,
    step: Step,
    states: Iterable[tuple[range, State]],
    calibration: Calibration,
) -> None:
    """Solve for a consumer's average maps and weights.

    Args:
        consumer: of mixed or average maps.
        step: its.
        states: before it, of images whose maps the calibration holds, with their numbers.
        calibration: the original's pass.

    Raises:
        DataError: the calibration kept no maps of this encoder.
    """
    assert step.reuse is not None
    if step.index not in calibration.maps:
        raise DataError(
            f"the calibration kept no attention maps of encoder {step.index}",
            hint="name the encoder in Calibration(maps=...)",
        )
    weights = row_weights(calibration, step.own_rows)
    sums = _Sums(weights)
    for rows, state in states:
        own = calibration.maps[step.index].read(rows.start, rows.stop)
        source = None
        if not step.reuse.is_average:
            source = spread_map(state, state.kept[step.reuse.source, "map"]).float()
        sums.add(own, source)
    average, mix = sums.solve()
    consumer.set_mixing(average, mix)


def row_weights(calibration: Calibration, own_rows: int) -> Tensor:
    """How much the error of every row counts, (T,): own rows not, class rows more than others."""
    weights = torch.ones(calibration.layout.tokens)
    weights[: calibration.layout.class_tokens] = calibration.settings.class_weight
    weights[:own_rows] = 0.0
    return weights


def spread_map(state: State, map_BHNN: Tensor) -> Tensor:
    """A map over a state's tokens as one over the model's first ones, (B, H, T, T).

    Each of a merged token's parts has its row, and an equal share of what it is attended with.
    """
    merged = state.merged
    if merged is None:
        return map_BHNN
    rows = map_rows(map_BHNN, merged)
    share = merged.share.to(map_BHNN.dtype)
    return map_rows(rows.mT, merged).mT * share[:, None, None, :]


@dataclass(slots=True)
class _Sums:
    """Sums over images, in float64, of maps and of products of heads."""

    weights: Tensor
    images: int = 0
    own: Tensor = field(default_factory=lambda: torch.zeros(()))
    source: Tensor | None = None
    gram: Tensor = field(default_factory=lambda: torch.zeros(()))
    cross: Tensor = field(default_factory=lambda: torch.zeros(()))

    def add(self, own_BHTT: Tensor, source_BHTT: Tensor | None) -> None:
        """Maps of some images."""
        self.images += len(own_BHTT)
        self.own = self.own + own_BHTT.double().sum(0)
        if source_BHTT is None:
            return
        self.source = source_BHTT.double().sum(0) + (0 if self.source is None else self.source)
        weighted = source_BHTT * self.weights[:, None]
        self.gram = self.gram + _products(weighted, source_BHTT)
        self.cross = self.cross + _products(own_BHTT, weighted)

    def solve(self) -> tuple[Tensor, Tensor | None]:
        """The constant (H, T, T), and the weights (H, H) of the source's heads."""
        own = self.own / self.images
        if self.source is None:
            return own.float(), None
        source = self.source / self.images
        weighted = (source * self.weights[:, None])[None]
        gram = self.gram / self.images - _products(weighted, source[None])
        cross = self.cross / self.images - _products(own[None], weighted)
        penalty = _RIDGE * gram.diagonal().mean() + 1e-12
        mix = torch.linalg.solve(
            gram + penalty * torch.eye(len(gram), dtype=gram.dtype), cross.T
        ).T
        constant = own - (mix @ source.flatten(1)).view_as(own)
        return constant.float(), mix.float()


def _products(one_BHTT: Tensor, other_BHTT: Tensor) -> Tensor:
    """Sums over images and places of products of heads, (H, H)."""
    one, other = (of.transpose(0, 1).flatten(1) for of in (one_BHTT, other_BHTT))
    return (one @ other.T).double()
