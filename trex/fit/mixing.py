"""Average maps of a consumer's heads, and how its source's heads are mixed into them.

What an attention head does is mostly the same for all images: its average map S. What differs
from image to image follows, in part, another encoder's heads, though not head by head in any
common order. So a consumer's map is

    A_h = S_h + Σ_g w_hg (A_g − S_g)

with the averages over calibration images. The weights w are solved by least squares of what the
attention branch puts out, on the consumer's own values and through its projection: a map's error
counts as it is felt. S_h − Σ w_hg S_g is one constant. Merged tokens' maps are spread over the
places of the model's first tokens, where all images' maps can be averaged.

Letters: B images, H heads, T first tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

import torch
from torch import Tensor

from trex.errors import DataError
from trex.fit.calibration import Calibration
from trex.models.adapter import Consumer
from trex.models.attention import map_rows
from trex.reuse.route import State, Step

#: Penalty on the weights, as a share of the mean square of the source's deviations.
_RIDGE: Final = 1e-3


def set_mixing(
    consumer: Consumer,
    step: Step,
    states: Callable[[], Iterable[tuple[range, State]]],
    calibration: Calibration,
) -> None:
    """Solve for a consumer's average maps and weights.

    Args:
        consumer: of mixed or average maps.
        step: its.
        states: makes anew, at each call, those before it of images whose maps the calibration
            holds, with their numbers.
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
    source_of = None if step.reuse.is_average else step.reuse.source
    own, source, images = torch.zeros(()), torch.zeros(()), 0
    for rows, state in states():
        own = own + calibration.maps[step.index].read(rows.start, rows.stop).double().sum(0)
        if source_of is not None:
            source = source + spread_map(state, state.kept[source_of, "map"]).double().sum(0)
        images += len(rows)
    own, source = (own / images).float(), (source / images).float()
    if source_of is None:
        consumer.set_mixing(own, None)
        return
    weights = row_weights(calibration, step.own_rows)
    sums = _Sums(len(own))
    for rows, state in states():
        for number, state_of_one in zip(rows, _each(state), strict=True):
            theirs = spread_map(state_of_one, state_of_one.kept[source_of, "map"])[0] - source
            wanted = calibration.maps[step.index].read(number, number + 1)[0] - own
            values = _spread(state_of_one, consumer.put_out(state_of_one.stream))[0]
            sums.add(theirs, wanted, values, weights)
    mix = sums.solve()
    consumer.set_mixing(own - (mix @ source.flatten(1)).view_as(own), mix)


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


def _each(state: State) -> Iterator[State]:
    """Every image's state."""
    for i in range(len(state.stream)):
        one = slice(i, i + 1)
        yield State(
            state.stream[one],
            None if state.sizes is None else state.sizes[one],
            None if state.groups is None else state.groups[one],
            {of: value[one] for of, value in state.kept.items()},
            state.places,
        )


def _spread(state: State, values_BHND: Tensor) -> Tensor:
    """What merged tokens have, at the places of the model's first ones."""
    merged = state.merged
    return values_BHND if merged is None else map_rows(values_BHND, merged)


class _Sums:
    """Products of what the source's heads put out through every own head's values, in float64."""

    def __init__(self, heads: int) -> None:
        self._heads = heads
        self._gram = torch.zeros(heads**2, heads**2, dtype=torch.float64)
        self._cross = torch.zeros(heads**2, dtype=torch.float64)

    def add(
        self, source_HTT: Tensor, own_HTT: Tensor, values_HTD: Tensor, weights_T: Tensor
    ) -> None:
        """One image's deviations from the averages, and what its tokens put out."""
        put_out = (source_HTT[None] @ values_HTD[:, None]).flatten(0, 1)
        wanted = (own_HTT @ values_HTD).sum(0)
        weighted = put_out * weights_T[:, None]
        self._gram += (weighted.flatten(1) @ put_out.flatten(1).T).double()
        self._cross += (weighted.flatten(1) @ wanted.flatten()).double()

    def solve(self) -> Tensor:
        """The weights (H, H) of the source's heads."""
        penalty = _RIDGE * self._gram.diagonal().mean() + 1e-12
        damped = self._gram + penalty * torch.eye(len(self._gram), dtype=torch.float64)
        weights: Tensor = torch.linalg.solve(damped, self._cross)
        return weights.view(self._heads, -1).float()
