"""A joint space with its prices and the losses that a run's probes predict. Not a script."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trex.hardware import load_chip
from trex.models.registry import architecture_of
from trex.reuse.sizes import parameter_table
from trex.search.budget import Budget
from trex.search.feasible import PricedSpace
from trex.search.pick import load_original
from trex.search.predict import Losses
from trex.search.space import SearchSpace
from trex.store.run import PROBES, Run


@dataclass(frozen=True)
class Probed:
    """What a run's probes say of the joint space, on any chip."""

    priced: PricedSpace
    losses: Losses

    @property
    def space(self) -> SearchSpace:
        """The plans."""
        return self.priced.space

    @classmethod
    def of(cls, folder: Path, chip: str) -> Probed:
        """From a run's folder; costs under `full` accounting."""
        run = Run.open(folder)
        loaded, _ = load_original(run)
        found = architecture_of(loaded.model, loaded.name)
        space = SearchSpace.load("joint", found)
        priced = PricedSpace.of(
            found, load_chip(chip), "full", space, Budget(limits=()),
            parameter_table(loaded.model, space.forms),
        )  # fmt: skip
        return cls(priced, Losses.from_json(run.read_json(PROBES), space))
