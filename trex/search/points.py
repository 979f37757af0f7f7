"""Points of a front for a dynamic bundle: from one run, or from the runs of several budgets."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from torch import nn

from trex.errors import RunError
from trex.exporters.bundle import load_bundle
from trex.fit.fitter import FittedPlan, apply_fitted
from trex.models.registry import LoadedModel
from trex.search.pareto import pareto_front
from trex.settings import difference
from trex.store.record import Estimate, Record
from trex.store.run import Run

Cost = Literal["latency", "energy", "edap"]
_FIELDS: Final[dict[Cost, str]] = {
    "latency": "latency_s",
    "energy": "energy_j",
    "edap": "edap_mj_ms_mm2",
}
#: what runs have to agree on to be drawn on together
_SAME: Final = {"model", "model_args", "weights_sha256", "chip_sha256", "accounting", "data"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """A candidate that becomes a point.

    Attributes:
        run: that measured it.
        record: its record.
        winner: whether it is that run's winner, fitted on all images.
    """

    run: Run
    record: Record
    winner: bool

    def cost(self, of: Cost) -> float:
        """What it costs on the run's device, as records hold it.

        Raises:
            RunError: a measured machine's, which knows latency alone.
        """
        return cost_of(self.record.estimate, of)

    def variant(self, original: LoadedModel) -> nn.Module:
        """The running variant; the original stays as it is.

        Raises:
            RunError: its parameters are missing or damaged.
        """
        if self.winner:
            return load_bundle(self.run.best)
        state = self.run.parameters(self.record.key)
        fitted = FittedPlan(plan=self.record.parsed, state=state, logits=torch.empty(0))
        return apply_fitted(deepcopy(original.model), fitted)


def cost_of(estimate: Estimate, cost: Cost) -> float:
    """A cost of a plan; in SI units, EDAP in mJ·ms·mm².

    Raises:
        RunError: a measured machine's, which knows latency alone.
    """
    value: float | None = getattr(estimate, _FIELDS[cost])
    if value is None:
        raise RunError(
            f"{estimate.chip} is a measured machine, which knows no {cost}",
            hint="leave --minimize out: latency is what it knows",
        )
    return value


def runs_of(folder: Path) -> list[Run]:
    """A run, or the runs in a folder that `trex search --budgets` wrote.

    Raises:
        RunError: there is none, or they are of different models, devices or preprocessings.
    """
    if (folder / "manifest.json").is_file() or not folder.is_dir():
        return [Run.open(folder)]
    inside = sorted(path for path in folder.iterdir() if (path / "manifest.json").is_file())
    runs = [Run.open(path) for path in inside]
    if not runs:
        return [Run.open(folder)]
    first = runs[0].manifest().settings
    for run in runs[1:]:
        own = run.manifest().settings
        wrong = difference(first.model_dump(include=_SAME), own.model_dump(include=_SAME))
        if wrong:
            raise RunError(
                f"{run.path} and {runs[0].path} cannot share a bundle: {wrong}",
                hint="give runs of one model, one device and one accounting",
            )
    return runs


def choose_points(runs: Sequence[Run], number: int, cost: Cost) -> list[Chosen]:
    """So many candidates of the front of cost and loss, the cheapest first.

    The runs' winners come first, then what fills the widest gaps in cost between them.

    Args:
        runs: of one model and device.
        number: of points, two at least.
        cost: what the front is drawn against.

    Raises:
        RunError: the front holds fewer points.
    """
    front = _front(runs, cost)
    if number < 2:
        raise RunError(f"--points {number}: nothing to switch between", hint="at least 2")
    if len(front) < number:
        raise RunError(
            f"the front of {' '.join(str(run.path) for run in runs)} has {len(front)} distinct "
            f"points, not {number}",
            hint=f"ask for --points {len(front)}"
            if len(front) >= 2
            else "search under several limits: trex search --budgets 0.9x 0.65x 0.4x",
        )
    price = [chosen.cost(cost) for chosen in front]
    places = [i for i, chosen in enumerate(front) if chosen.winner]
    if len(places) < 2:
        places = sorted({0, len(front) - 1, *places})
    while len(places) > number:
        places.remove(_least_missed(places, price))
    while len(places) < number:
        others = [i for i in range(len(front)) if i not in places]
        places.append(max(others, key=lambda i: min(abs(price[i] - price[j]) for j in places)))
    return [front[i] for i in sorted(places)]


def _least_missed(places: Sequence[int], price: Sequence[float]) -> int:
    """The place whose neighbours in cost are nearest to each other; the ends stay."""
    inner = range(1, len(places) - 1) if len(places) > 2 else range(len(places))
    gaps = {
        i: price[places[min(i + 1, len(places) - 1)]] - price[places[max(i - 1, 0)]] for i in inner
    }
    return places[min(gaps, key=lambda i: gaps[i])]


def _front(runs: Sequence[Run], cost: Cost) -> list[Chosen]:
    """The candidates that none beats, the cheapest first; of winners only other winners can."""
    winners: list[Chosen] = []
    others: list[Chosen] = []
    for run in runs:
        best = run.winner()
        for record in run.records():
            won = best is not None and record.key == best.key
            chosen = Chosen(run=run, record=record, winner=won)
            (winners if chosen.winner else others).append(chosen)
    known = {chosen.record.plan for chosen in winners}
    rest = [chosen for chosen in others if chosen.record.plan not in known]
    kept = _undominated(winners, cost)
    more = (chosen for chosen in _undominated([*kept, *rest], cost) if not chosen.winner)
    return sorted([*kept, *more], key=lambda chosen: chosen.cost(cost))


def _undominated(some: Sequence[Chosen], cost: Cost) -> list[Chosen]:
    if not some:
        return []
    objectives = np.array(
        [
            [
                float(f"{chosen.cost(cost):.9g}"),
                1.0 - chosen.record.selection.soft_agreement,
            ]
            for chosen in some
        ]
    )
    return [some[i] for i in pareto_front(objectives)]


def names_of(shares: Sequence[float]) -> list[str]:
    """Names from shares of the original's cost: `0.52x`, with as many digits as tell them apart.

    Args:
        shares: of every point.
    """
    for digits in (2, 3, 4):
        names = [f"{share:.{digits}f}x" for share in shares]
        if len(set(names)) == len(names):
            return names
    return [f"{name}-{number}" for number, name in enumerate(names, start=1)]
