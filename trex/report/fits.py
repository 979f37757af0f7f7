"""How a run's plans were fitted, and what else was tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

HEAD: Final = (
    "share of the step",
    "drift corrected",
    "class tokens weigh",
    "penalty",
    "producers' share",
    "lost, nats",
)
#: what runs did that did not choose it yet
_BEFORE: Final = {"drift": 1.0, "producers": None}


class Way(NamedTuple):
    """One way of fitting.

    Attributes:
        shrink: the share of the step from the start to what is solved for.
        drift: the share of the streams' drift that is corrected.
        class_weight: how much more a class token's error counts.
        ridge: penalty on the way from the start.
        producers: the share of producers behind the first consumer; None where they stay.
        loss: of the plan that ways were compared on; None where there was nothing to choose.
    """

    shrink: float
    drift: float
    class_weight: float
    ridge: float
    producers: float | None
    loss: float | None

    @property
    def cells(self) -> tuple[str, ...]:
        """A row of a table under `HEAD`."""
        loss = "-" if self.loss is None else f"{self.loss:.4f}"
        numbers = (self.shrink, self.drift, self.class_weight, self.ridge, self.producers or 0.0)
        return *(f"{number:g}" for number in numbers), loss


class Fits(NamedTuple):
    """What was tried, the best first, on which plan."""

    plan: str
    tried: tuple[Way, ...]

    @property
    def words(self) -> str:
        """The way that was chosen."""
        chosen = self.tried[0]
        if chosen.loss is None:
            return "No plan had anything to choose a way of fitting on."
        told = f"Of {len(self.tried)} ways of fitting, each tried on a part of the fitted images"
        if chosen.shrink == 0:
            return (
                f"{told} and compared on the others, none beat the start: projections stay as "
                "they begin."
            )
        return (
            f"{told} and compared on the others, the first lost least: projections go "
            f"{chosen.shrink:g} of the step from their start to what is solved for."
        )


def read_fits(stored: Mapping[str, Any] | None) -> Fits | None:
    """What `fit.json` holds; None without it."""
    if stored is None:
        return None
    tried: Sequence[Mapping[str, Any]] = stored["tried"]
    return Fits(str(stored["fitted"]), tuple(Way(**{**_BEFORE, **way}) for way in tried))
