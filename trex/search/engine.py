"""One search from beginning to end: price everything, keep what fits, fit and measure the best.

all plans priced ─> budget ─> predicted losses, made of some that are measured ─> the likeliest
fitted and measured ─> the best of them refined ─> trained for a short while, fewer and fewer
─> winner refitted on all images ─> bundle

What is measured can be shared among processes (`search.workers`), here and on other machines.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from trex.errors import RunError
from trex.export.bundle import is_whole, save_bundle
from trex.plan import Plan
from trex.search.finetuned import FinetuneRung, finetune_rungs
from trex.search.fitted import measure_fitted, measure_surrogate, trial_entry
from trex.search.ranking import best_first, best_record
from trex.search.refined import measure_refined
from trex.search.run import Run
from trex.search.sampled import propose, sampler_of
from trex.search.strategies import STRATEGIES, Task
from trex.search.surrogate import Surrogate
from trex.search.terms import LossTerms
from trex.search.winner import fit_winner
from trex.search.workshop import Workshop
from trex.stored import plan_fields, read_plan


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

    def estimate(self, plan: Plan) -> dict[str, Any]:
        """What a plan costs, as records hold it."""
        return self._shop.estimate(plan)

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
                given=self.problem.plans,
            )
        )
        if chosen.proof is not None:
            self.run.write_json("proof.json", chosen.proof)
        if sampled:
            sampler = sampler_of(settings)
            measure_fitted(
                self._shop,
                chosen.plans,
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
            measure_fitted(self._shop, chosen.plans, terms)
        rung = "selection"
        if settings.refined_candidates:
            measure_refined(self._shop, self._best_of(rung)[: settings.refined_candidates])
            rung = "refined"
        for training in finetune_rungs(self._shop):
            wanted = settings.finetuning.candidates[training.number - 1]
            training.measure(self._best_of(rung)[:wanted])
            rung = training.name

    def _best_of(self, rung: str) -> list[dict[str, Any]]:
        """The records that came to a rung, the best first."""
        return best_first([r for r in self.run.records() if rung in r], rung)

    def _terms(self) -> LossTerms:
        """What losses are predicted from; measured once."""
        if (self.run.path / "surrogate.json").exists():
            return Surrogate.from_json(self.run.read_json("surrogate.json")).terms
        surrogate = measure_surrogate(self._shop)
        self.run.write_json("surrogate.json", surrogate.as_json())
        return surrogate.terms

    def _finish(self) -> dict[str, Any]:
        record = best_record(self.run.records())
        best = self._fit_best(record)
        if trainings := finetune_rungs(self._shop):
            self._hand_over(record, trainings[-1])
        return best

    def _fit_best(self, record: dict[str, Any]) -> dict[str, Any]:
        """Write the winner, fitted on all images, and what `best.json` holds."""
        if (self.run.best / "best.json").exists():
            stored = self.run.read_json("best/best.json")
            if stored["key"] == record["key"] and is_whole(self.run.best):
                return stored
        variant, rounds = fit_winner(
            self.problem, read_plan(record), self._shop.fit_settings, self._shop.scratch
        )
        self._save(self.run.best, variant, record)
        best = {**_named(record), "refinement": [asdict(done) for done in rounds]}
        self.run.write_json("best/best.json", best)
        return best

    def _hand_over(self, record: dict[str, Any], rung: FinetuneRung) -> None:
        """Write the winner with the weights that the last rung measured."""
        told_before = (self.run.finetuned / "finetuned.json").exists()
        if not (told_before and is_whole(self.run.finetuned)):
            self._save(self.run.finetuned, rung.variant(record), record)
            told = {
                "rung": rung.name,
                "images": rung.images(record),
                "measured": record[rung.name],
            }
            self.run.write_json("finetuned/finetuned.json", {**_named(record), **told})
        rung.clear(self.run.records())
        shutil.rmtree(self.run.trainings, ignore_errors=True)

    def _save(self, folder: Path, variant: nn.Module, record: dict[str, Any]) -> None:
        loaded = self.problem.loaded
        save_bundle(
            folder,
            variant,
            name=loaded.name,
            arguments=loaded.arguments,
            base_weights_sha256=loaded.weights_sha256,
            data_config=self.problem.data_config,
            extra={"estimate": record["estimate"]},
        )


def _named(record: dict[str, Any]) -> dict[str, Any]:
    """Which plan a record is of."""
    return {"key": record["key"], **plan_fields(read_plan(record))}
