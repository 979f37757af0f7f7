"""How a run's plans were fitted, and what else was tried."""

from __future__ import annotations

from typing import Final

from trex.store.schemas import Fit, Tried

HEAD: Final = (
    "share of the step",
    "drift corrected",
    "class tokens weigh",
    "penalty",
    "producers' share",
    "lost, nats",
)


def cells(way: Tried) -> tuple[str, ...]:
    """A row of a table under `HEAD`."""
    loss = "-" if way.loss is None else f"{way.loss:.4f}"
    numbers = (way.shrink, way.drift, way.class_weight, way.ridge, way.producers or 0.0)
    return *(f"{number:g}" for number in numbers), loss


def fits_in_words(fit: Fit) -> str:
    """The way that was chosen."""
    chosen = fit.tried[0]
    if chosen.loss is None:
        return "No plan had anything to choose a way of fitting on."
    how_many = f"Of {len(fit.tried)} ways of fitting, each tried on a part of the fitted images"
    if chosen.shrink == 0:
        return (
            f"{how_many} and compared on the others, none beat the start: projections stay as "
            "they begin."
        )
    return (
        f"{how_many} and compared on the others, the first lost least: projections go "
        f"{chosen.shrink:g} of the step from their start to what is solved for."
    )
