"""Where a run's energy, delay and area go: the original and the winner, priced part by part."""

from __future__ import annotations

from dataclasses import dataclass

from trex.errors import TrexError
from trex.hardware import ACCOUNTINGS, Cost, load_chip, price, without_dead_rows, workload
from trex.plan import Plan
from trex.report.facts import Facts
from trex.store.operations import stored_architecture
from trex.store.run import Run


@dataclass(frozen=True, kw_only=True, slots=True)
class Priced:
    """The original and the winner under one accounting.

    `trimmed`: the original without rows that its head does not read; None where it reads all.
    """

    accounting: str
    before: Cost
    after: Cost
    trimmed: Cost | None = None

    @property
    def edap_gain(self) -> float:
        """How many times lower the winner's EDAP is."""
        return self.before.edap_j_s_m2 / self.after.edap_j_s_m2


@dataclass(frozen=True, kw_only=True, slots=True)
class Prices:
    """A run's prices, the run's own accounting first; or why there are none.

    `rebuilt`: the run does not hold its model's operations, so the model was built for them.
    """

    pairs: tuple[Priced, ...] = ()
    missing: str = ""
    rebuilt: bool = False


def prices(facts: Facts) -> Prices:
    """Price the original and the winner again, under the run's accounting and `full`.

    The chip must be the very one of the run; where it, or the model, is no longer to be had, the
    reason takes the prices' place.
    """
    settings = facts.manifest.settings
    try:
        if facts.on_machine:
            return Prices(
                missing=f"{facts.chip} is a measured machine, whose whole models were timed, not "
                "their parts"
            )
        chip = load_chip(facts.manifest.device_named)
        if chip.fingerprint != settings.chip_sha256:
            return Prices(missing=f"the files of {facts.chip} have changed since the search")
        model = stored_architecture(Run(facts.path))
        rebuilt = model is None
        if model is None:
            from trex.models.registry import architecture

            model = architecture(facts.model, **settings.model_args.as_json())
        before = workload(model)
        after = workload(model, Plan.parse(facts.best.plan))
        alive = without_dead_rows(model)
        trimmed = None if alive is None else workload(model, alive)
        densities = facts.manifest.densities
        planes = None if densities is None else densities.planes
        wanted = [a for a in ACCOUNTINGS if a == facts.accounting]
        if "full" not in wanted:
            wanted.append("full")
        pairs = tuple(
            Priced(
                accounting=accounting,
                before=price(before, chip, accounting, densities=planes),
                after=price(after, chip, accounting, densities=planes),
                trimmed=None
                if trimmed is None
                else price(trimmed, chip, accounting, densities=planes),
            )
            for accounting in wanted
        )
        return Prices(pairs=pairs, rebuilt=rebuilt)
    except TrexError as error:
        return Prices(missing=error.message)
