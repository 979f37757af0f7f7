"""Numbers of the figures of fine-tuning and of chips that err."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from trex.report.finetunings import Finetuning
from trex.report.tables import shortened
from trex.store.schemas import EvaluationLine


class Curve(NamedTuple):
    """Losses by step; `held_out` may be empty."""

    name: str
    steps: tuple[int, ...]
    loss: tuple[float, ...]
    held_out: tuple[tuple[int, float], ...]


class Curves(NamedTuple):
    """Fine-tunings of one run."""

    title: str
    curves: tuple[Curve, ...]


class Spread(NamedTuple):
    """Accuracies in percent of one model: ideal, and on instances of a chip with errors."""

    name: str
    ideal: float
    draws: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Of the chip instances."""
        return statistics.fmean(self.draws)

    @property
    def std(self) -> float | None:
        """Of the chip instances; None of a single one."""
        return statistics.stdev(self.draws) if len(self.draws) > 1 else None


class NoisyPair(NamedTuple):
    """Ideal against non-ideal accuracy: the original and a variant on one chip."""

    title: str
    n: int
    original: Spread
    variant: Spread


def curves(subject: str, finetunings: tuple[Finetuning, ...]) -> Curves | None:
    """The curves of those that have one."""
    found = tuple(
        Curve(shortened(f.name, 24), f.steps, f.loss, f.held_out) for f in finetunings if f.steps
    )
    return Curves(f"{subject}: fine-tuning", found) if found else None


def noisy_pair(evaluation: EvaluationLine) -> NoisyPair | None:
    """One evaluation's; None without errors."""
    noisy = evaluation.non_ideal
    if noisy is None:
        return None
    plan = shortened(evaluation.plan, 56) or "no reuse"
    names = {"best": "best plan", "finetuned": "best, fine-tuned"}
    picked = names.get(evaluation.pick, "plan, not refined")
    return NoisyPair(
        title=f"{plan} on {shortened(noisy.chip, 44)}, {noisy.mode} mode",
        n=evaluation.n,
        original=Spread(
            "original",
            100 * evaluation.baseline_top1,
            _percent(noisy.baseline_top1_by_draw),
        ),
        variant=Spread(picked, 100 * evaluation.top1, _percent(noisy.top1_by_draw)),
    )


def _percent(fractions: Sequence[float]) -> tuple[float, ...]:
    return tuple(100 * f for f in fractions)
