"""One search from beginning to end: price everything, keep what fits, fit and measure the best.

all plans priced ─> budget ─> predicted losses, made of some that are measured ─> the likeliest
fitted and measured ─> the best of them refined ─> winner refitted on all images ─> bundle

What is measured can be shared among processes (`search.workers`), here and on other machines.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

from trex.errors import RunError
from trex.export.bundle import save_bundle
from trex.search.fitted import measure_fitted, measure_surrogate, trial_entry
from trex.search.ranking import best_first, best_record
from trex.search.records import candidate_of
from trex.search.refined import measure_refined
from trex.search.run import Run
from trex.search.sampled import propose, sampler_of
from trex.search.strategies import STRATEGIES, Task
from trex.search.surrogate import Surrogate
from trex.search.terms import LossTerms
from trex.search.winner import fit_winner
from trex.search.workshop import Workshop


class Search:
    """A search in a run folder; going on in a folder skips what is recorded there.

    Args:
        shop: what is searched for, among what, where, and who measures; no result depends on who.
        manifest: what the run folder says of it.
    """

    def __init__(self, shop: Workshop, manifest: dict[str, Any]) -> None:
        self.problem, self.priced, self.run = shop.problem, shop.priced, shop.run
        self._shop = shop
        self._manifest = manifest

    def execute(self) -> dict[str, Any]:
        """Search, and return what `best.json` holds: the winner's record and its weights' hash."""
        try:
            self._shop.check_storage()
            with self.run.folder():
                if not self.run.begun:
                    # Images that cannot be read leave no folder behind.
                    _ = self._shop.calibration
                Run.start(self.run.path, self._manifest)
            with self.run.joined():
                self._measure()
                with self.run.finishing():
                    return self._finish()
        finally:
            self._shop.close()

    @property
    def proof(self) -> dict[str, Any] | None:
        """How well the best prediction is proved to be the best; None where nothing was solved."""
        try:
            stored = self.run.read_json("proof.json")
        except RunError:
            return None
        return {name: value for name, value in stored.items() if name != "schema"}

    def _measure(self) -> None:
        settings = self.problem.settings
        strategy = STRATEGIES[settings.strategy]
        terms = self._terms() if strategy.predicts else None
        wanted, sampled = settings.evaluations, settings.strategy == "optuna"
        chosen = strategy.choose(
            Task(
                priced=self.priced,
                terms=terms,
                wanted=max(1, wanted // 4) if sampled else wanted,
                seed=settings.seed,
                sweep=settings.pareto,
            )
        )
        if chosen.proof is not None:
            self.run.write_json("proof.json", chosen.proof)
        if sampled:
            sampler = sampler_of(settings)
            measure_fitted(
                self._shop,
                chosen.rows,
                terms,
                objectives=sampler.objectives,
                sampler=sampler.make,
                more=partial(
                    propose,
                    priced=self.priced,
                    total=wanted,
                    entry=partial(trial_entry, shop=self._shop, terms=terms),
                ),
                total=wanted,
            )
        else:
            measure_fitted(self._shop, chosen.rows, terms)
        if settings.refined_candidates:
            ranked = best_first(self.run.records(), "selection")
            measure_refined(self._shop, ranked[: settings.refined_candidates])

    def _terms(self) -> LossTerms:
        """What losses are predicted from; measured once."""
        if (self.run.path / "surrogate.json").exists():
            return Surrogate.from_json(self.run.read_json("surrogate.json")).terms
        surrogate = measure_surrogate(self._shop)
        self.run.write_json("surrogate.json", surrogate.as_json())
        return surrogate.terms

    def _finish(self) -> dict[str, Any]:
        record = best_record(self.run.records())
        if (self.run.best / "best.json").exists():
            stored = self.run.read_json("best/best.json")
            if stored["key"] == record["key"]:
                return stored
        candidate = candidate_of(record)
        loaded = self.problem.loaded
        variant, rounds = fit_winner(self.problem, candidate, self._shop.scratch)
        save_bundle(
            self.run.best,
            variant,
            name=loaded.name,
            arguments=loaded.arguments,
            base_weights_sha256=loaded.weights_sha256,
            data_config=self.problem.data_config,
            extra={"estimate": record["estimate"]},
        )
        best = {k: record[k] for k in ("key", "plan", "transforms", "n_reuse", "transform")}
        best["refinement"] = [asdict(done) for done in rounds]
        self.run.write_json("best/best.json", best)
        return best
