"""One search from beginning to end: price everything, keep what fits, fit and measure the best.

probes measured ─> predicted losses of all plans ─> the best within the budget, with a bound
(many consumers there: their triples measured, and predicted again)
─> measured ─> near the best of these, others (joint spaces) ─> the best compared on fresh images
─> refined ─> (on a measured machine: timed whole, those beyond the limit passed over)
─> trained for a short while, fewer and fewer ─> winner refitted on all images ─> bundle

What is measured can be shared among processes (`search.workers`), here and on other machines.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
from torch import nn

from trex.errors import RunError
from trex.exporters.bundle import is_whole, save_bundle
from trex.hardware import is_measured
from trex.plan import Plan
from trex.search.context import SearchContext
from trex.search.finetuned import FinetuneRung, finetune_rungs
from trex.search.fitted import measure_fitted, measure_losses, measure_triples, trial_entry
from trex.search.moves import OF_EQUAL_CONSUMERS, RESERVOIR, ROUND, next_rows
from trex.search.predict import Losses
from trex.search.refined import measure_confirmed, measure_refined
from trex.search.sampled import propose, sampler_of
from trex.search.space import Numbers
from trex.search.strategies import STRATEGIES, Task
from trex.search.timed import holding
from trex.search.winner import fit_winner
from trex.store.ranking import best_first, furthest_first
from trex.store.record import Estimate, Record
from trex.store.run import ORIGINAL, PROBES, PROOF, TUNED, V0_1, WINNER, Run
from trex.store.schemas import Manifest, Tuned, Winner
from trex.store.tensors import write_tensors
from trex.stored import plan_fields


class Search:
    """A search in a run folder; going on in a folder skips what is recorded there.

    Args:
        context: what is searched, where, and who measures; no result depends on who.
        manifest: what the run folder says of it.
    """

    def __init__(self, context: SearchContext, manifest: Manifest) -> None:
        self.problem, self.priced, self.run = context.problem, context.priced, context.run
        self.context = context
        self._manifest = manifest

    def execute(self) -> Winner:
        """Search, and return what `best.json` holds: which candidate won."""
        self.context.check_storage()
        with self.run.folder():
            if not self.run.begun:
                # Images that cannot be read leave no folder behind.
                _ = self.context.calibration
            Run.start(self.run.path, self._manifest)
        with self.run.joined():
            self._keep_original()
            self._measure()
            with self.run.finishing():
                return self._finish()

    def close(self) -> None:
        """Give the disk space back that it took on the way."""
        self.context.close()

    def estimate(self, plan: Plan) -> Estimate:
        """What a plan costs, as records hold it."""
        return self.context.estimate(plan)

    def _keep_original(self) -> None:
        """Keep the original's weights, where nobody else has them as a file."""
        loaded, file = self.problem.loaded, self.run.path / ORIGINAL
        if loaded.weights_source == ORIGINAL and not file.exists():
            state = {name: value.clone() for name, value in loaded.model.state_dict().items()}
            write_tensors(file, state, of=loaded.name)

    def _measure(self) -> None:
        settings = self.problem.settings
        strategy = STRATEGIES[settings.strategy]
        losses = self._losses() if strategy.predicts else None
        wanted, sampled = settings.evaluations, settings.strategy == "optuna"
        asked = max(1, wanted // 4) if sampled else wanted
        asked = max(asked, RESERVOIR) if settings.moves else asked
        levels = 0 if settings.moves else asked if settings.pareto else max(1, asked // 4)
        task = Task(
            priced=self.priced,
            losses=losses,
            wanted=asked,
            seed=settings.seed,
            levels=levels,
            given=self.problem.plans,
        )
        chosen = strategy.choose(task)
        if losses and not losses.triples_measured and self._crowded(losses, chosen.plans):
            # The budget asks for many consumers, of which pairs of neighbours say too little.
            losses = measure_triples(self.context, losses)
            self.run.write_json(PROBES, losses.as_json())
            chosen = strategy.choose(replace(task, losses=losses))
        if chosen.proof is not None:
            self.run.write(PROOF, chosen.proof)
        if sampled:
            sampler = sampler_of(settings, self.priced.pricer.overall)
            measure_fitted(
                self.context,
                chosen.plans,
                losses,
                objectives=sampler.objectives,
                sampler=sampler.make,
                more=partial(
                    propose,
                    priced=self.priced,
                    options=self.context.options,
                    total=wanted,
                    entry=partial(trial_entry, context=self.context, losses=losses),
                ),
                total=wanted,
            )
        elif losses is not None and settings.moves:
            self._move(losses, chosen.plans)
        else:
            measure_fitted(self.context, chosen.plans, losses)
        rung = "selection"
        if settings.confirmed:
            measure_confirmed(self.context, self._best_of(rung)[: settings.confirmed])
            rung = "confirmed"
        if settings.refined_candidates:
            measure_refined(self.context, self._best_of(rung)[: settings.refined_candidates])
            rung = "refined"
        for training in finetune_rungs(self.context):
            wanted = settings.finetuning.candidates[training.number - 1]
            best = self._finalists(wanted) if training.number == 1 else self._best_of(rung)
            training.measure(best[:wanted])
            rung = training.name

    def _move(self, losses: Losses, chosen: Sequence[Plan]) -> None:
        """Measure the likeliest plans, then round after round what is then the likeliest.

        A round begins when all plans of the one before are measured, whoever measured them: so
        what is measured does not depend on the number of workers.
        """
        settings, space = self.problem.settings, self.problem.space
        plans = list(self._first(chosen))
        reservoir = self._rows(chosen)
        # Which encoders consume then decides; what else there is hardly matters.
        of_equal = OF_EQUAL_CONSUMERS if self._crowded(losses, chosen) else None
        measure_fitted(self.context, plans, losses)
        while len(plans) < settings.evaluations:
            loss_of = {record.key: record.selection.loss for record in self.run.records()}
            measured = {space.row(plan).tobytes(): float(loss_of[plan.key]) for plan in plans}
            wanted = min(ROUND, settings.evaluations - len(plans))
            rows = next_rows(self.priced, losses, reservoir, measured, wanted, of_equal)
            if not len(rows):
                break
            plans += [space.plan(row) for row in rows]
            measure_fitted(self.context, plans, losses)

    def _first(self, chosen: Sequence[Plan]) -> Sequence[Plan]:
        """The plans that are measured before any move."""
        settings = self.problem.settings
        return chosen[: max(1, settings.evaluations - settings.moves)]

    def _crowded(self, losses: Losses, chosen: Sequence[Plan]) -> bool:
        """Whether what is measured first has many consumers near one another."""
        return losses.crowded(self._rows(self._first(chosen)))

    def _rows(self, plans: Sequence[Plan]) -> Numbers:
        """(plans, encoders): plans of the space as its numbers."""
        return np.stack([self.problem.space.row(plan) for plan in plans])

    def _finalists(self, wanted: int) -> list[Record]:
        """The best records; on a measured machine those that hold its limits when timed whole."""
        records = furthest_first(self.run.records())
        if is_measured(self.problem.device):
            return holding(self.context, records, wanted)
        return records[:wanted]

    def _best_of(self, rung: str) -> list[Record]:
        """The records that came to a rung, the best first."""
        return best_first(self.run.records(), rung)

    def _losses(self) -> Losses:
        """What plans are predicted to lose; measured once."""
        losses = self._stored_losses(self.run)
        if losses is None:
            known = self.context.known
            losses = None if known is None else self._stored_losses(known)
            losses = losses or measure_losses(self.context)
            self.run.write_json(PROBES, losses.as_json())
        return losses

    def _stored_losses(self, run: Run) -> Losses | None:
        """What a run's probes were measured to say; version 0.1's were other probes.

        Raises:
            RunError: the file is damaged.
        """
        file = run.path / PROBES
        if not file.exists():
            return None
        stored = run.read_json(file.name)
        if stored["schema"] == V0_1:
            return None
        try:
            return Losses.from_json(stored, self.problem.space)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise RunError(
                f"{file} is damaged: {type(error).__name__} {error}",
                hint="remove it: it is made again, of what the study holds of the probes",
            ) from error

    def _finish(self) -> Winner:
        (record,) = self._finalists(1)
        best = self._fit_best(record)
        if trainings := finetune_rungs(self.context):
            self._hand_over(record, trainings[-1])
        return best

    def _fit_best(self, record: Record) -> Winner:
        """Write the winner, fitted on all images, and what `best.json` holds."""
        stored = self.run.winner()
        if stored is not None and stored.key == record.key and is_whole(self.run.best):
            return stored
        winner = fit_winner(self.context, record.parsed)
        self._save(self.run.best, winner.variant, record)
        best = Winner(
            key=record.key,
            **plan_fields(record.parsed),
            producers={str(share): loss for share, loss in winner.producers.items()},
            refinement=[asdict(done) for done in winner.rounds],
        )
        self.run.write(WINNER, best)
        return best

    def _hand_over(self, record: Record, rung: FinetuneRung) -> None:
        """Write the winner with the weights that the last rung measured."""
        told_before = (self.run.path / TUNED).exists()
        if not (told_before and is_whole(self.run.finetuned)):
            self._save(self.run.finetuned, rung.variant(record), record)
            tuned = Tuned(
                key=record.key,
                **plan_fields(record.parsed),
                rung=rung.name,
                images=rung.images(record),
                measured=record.later[rung.name],
            )
            self.run.write(TUNED, tuned)
        rung.clear(self.run.records())
        shutil.rmtree(self.run.trainings, ignore_errors=True)

    def _save(self, folder: Path, variant: nn.Module, record: Record) -> None:
        loaded = self.problem.loaded
        save_bundle(
            folder,
            variant,
            name=loaded.name,
            arguments=loaded.arguments,
            base_weights_sha256=loaded.weights_sha256,
            data_config=self.problem.data_config,
            extra={"estimate": record.estimate.as_json()},
        )
