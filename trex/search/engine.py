"""One search from beginning to end: price everything, keep what fits, fit and measure the best.

all plans priced ─> budget ─> predicted losses, made of some that are measured ─> the likeliest
fitted and measured ─> winner refitted on all images ─> bundle

What is measured can be shared among processes (`search.workers`), here and on other machines.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from trex.export.bundle import save_bundle
from trex.files import write_atomic
from trex.reuse.fit import Calibration, Candidate, PlanFitter, Take
from trex.search.entries import (
    LOSS,
    RECORD,
    entry,
    estimate_notes,
    in_tree_order,
    measured_notes,
)
from trex.search.feasible import PricedSpace
from trex.search.problem import Problem, progress_bar
from trex.search.records import best_record, candidate_of, describe, mean_kl, selection_metrics
from trex.search.run import Run
from trex.search.storage import open_storage
from trex.search.strategies import STRATEGIES, Strategy, Task
from trex.search.study import Study
from trex.search.surrogate import Surrogate, build, probes
from trex.search.terms import Floats, Rows
from trex.search.winner import fit_winner
from trex.search.workers import Phase, Result, work_off
from trex.training.data import Batch, batches

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sharing:
    """Who does the work, and through what it is shared; no result depends on it.

    Attributes:
        workers: processes on this machine.
        storage: address of a PostgreSQL database; None for the run folder's journal.
        study: its name there.
    """

    workers: int = 1
    storage: str | None = None
    study: str = "search"


class Search:
    """A search in a run folder; going on in a folder skips what is recorded there.

    Args:
        problem: what is searched for.
        priced: the plans, their prices and the budget.
        run: where to.
        manifest: what the run folder says of it.
        sharing: who does the work.
        scratch: a folder with room for activations.
    """

    def __init__(
        self,
        problem: Problem,
        priced: PricedSpace,
        run: Run,
        manifest: dict[str, Any],
        sharing: Sharing,
        scratch: Path,
    ) -> None:
        self.problem = problem
        self.priced = priced
        self.run = run
        self._manifest = manifest
        self._sharing = sharing
        self._scratch = scratch

    def execute(self) -> dict[str, Any]:
        """Search, and return what `best.json` holds: the winner's record and its weights' hash."""
        try:
            with self.run.folder():
                if not self.run.begun:
                    _ = self._calibration  # images that cannot be read leave no folder behind
                Run.start(self.run.path, self._manifest)
            with self.run.joined():
                strategy = STRATEGIES[self.problem.settings.strategy]
                predict = self._predict() if strategy.predicts else None
                self._measure(self._chosen(strategy, predict), predict)
                with self.run.finishing():
                    return self._finish()
        finally:
            if "_calibration" in self.__dict__:
                self._calibration.close()

    @cached_property
    def _calibration(self) -> Calibration:
        """The original's pass, made when something has to be measured."""
        settings, images = self.problem.settings, self.problem.images
        shares = (1.0 - settings.select_share, settings.select_share)
        # The surrogate is measured on the first images of both: a class's lie side by side.
        fit, select = (p.shuffled(settings.seed) for p in images.split(shares, settings.seed))
        measured = batches(select, settings.fit.batch_size)
        labels: list[Tensor] = []
        with progress_bar("original", len(images)) as advance:
            calibration = Calibration(
                self.problem.loaded.model,
                self.problem.loaded.adapter,
                (batch.images for batch in batches(fit, settings.fit.batch_size)),
                _noting(measured, labels),
                settings=settings.fit,
                scratch=self._scratch,
                progress=advance,
            )
        self._labels = torch.cat(labels)
        return calibration

    def _open_study(self, part: str, *objectives: str) -> Study:
        sharing = self._sharing
        return Study(
            open_storage(sharing.storage, self.run.path, sharing.study),
            f"{sharing.study}{part}",
            objectives,
            self._manifest["settings"],
        )

    def _predict(self) -> Callable[[Rows], Floats]:
        """Predicted losses, from what is measured once."""
        if (self.run.path / "surrogate.json").exists():
            surrogate = Surrogate.from_json(self.run.read_json("surrogate.json"))
        else:
            surrogate = self._measure_surrogate()
            self.run.write_json("surrogate.json", surrogate.as_json())
        return surrogate.predict

    def _measure_surrogate(self) -> Surrogate:
        choices = self.priced.choices
        candidates = in_tree_order(probes(self.priced.space), choices)

        def work(order: Sequence[Candidate], take: Take) -> Iterator[Result]:
            calibration = self._calibration
            fit_rows, rows = _first_rows(calibration, self.problem.settings.surrogate_images)
            original = calibration.logits[rows.start : rows.stop]
            fitter = PlanFitter(calibration, fit_rows=fit_rows, measure_rows=rows)
            for fitted in fitter.fit(order, take):
                loss = mean_kl(fitted.logits, original)
                yield Result(fitted.candidate.key, [loss], {})

        done = work_off(
            Phase(
                name="surrogate",
                candidates=candidates,
                entries=[entry(c, choices, {}) for c in candidates],
                open_study=partial(self._open_study, ", surrogate", LOSS),
                prepare=lambda: self._calibration,
                known=lambda key: None,
                work=work,
            ),
            self._sharing.workers,
        )
        losses = {key: trial.values[0] for key, trial in done.items()}
        return build(self.priced.space, losses)

    def _chosen(self, strategy: Strategy, predict: Callable[[Rows], Floats] | None) -> Rows:
        settings = self.problem.settings
        return strategy.choose(
            Task(
                priced=self.priced,
                predict=predict,
                wanted=settings.evaluations,
                seed=settings.seed,
            )
        )

    def _measure(self, rows: Rows, predict: Callable[[Rows], Floats] | None) -> None:
        """Fit and measure plans, and record them."""
        choices, problem = self.priced.choices, self.problem
        costs = self.priced.price(rows)
        losses = [None] * len(rows) if predict is None else predict(rows).tolist()
        known_before: dict[str, tuple[dict[str, Any], float | None]] = {}
        candidates = []
        for number, row in enumerate(rows):
            candidate = choices.candidate(row)
            estimate = costs.estimate(number, problem.chip, problem.accounting)
            known_before[candidate.key] = (estimate, losses[number])
            candidates.append(candidate)
        candidates = in_tree_order(candidates, choices)

        def work(order: Sequence[Candidate], take: Take) -> Iterator[Result]:
            calibration = self._calibration
            original = calibration.logits[calibration.n_fit :]
            started = time.monotonic()
            for fitted in PlanFitter(calibration).fit(order, take):
                key = fitted.candidate.key
                estimate, predicted = known_before[key]
                write_atomic(self.run.candidates / f"{key}.safetensors", save(fitted.state))
                record = {
                    "key": key,
                    **describe(fitted.candidate),
                    "estimate": estimate,
                    "predicted_loss": predicted,
                    "selection": selection_metrics(fitted.logits, original, self._labels),
                    "seconds": round(time.monotonic() - started, 3),
                }
                self.run.append(record)
                yield _result(record)
                started = time.monotonic()

        done = work_off(
            Phase(
                name="candidates",
                candidates=candidates,
                entries=[
                    entry(c, choices, estimate_notes(*known_before[c.key])) for c in candidates
                ],
                open_study=partial(self._open_study, "", LOSS),
                prepare=lambda: self._calibration,
                known=self._recorded,
                work=work,
            ),
            self._sharing.workers,
        )
        recorded = {record["key"] for record in self.run.records()}
        for key in done.keys() - recorded:  # measured on other machines
            known = partial(self._recorded, key)
            self.run.append_unless(known, done[key].user_attrs[RECORD])

    def _recorded(self, key: str) -> Result | None:
        record = next((r for r in self.run.records() if r["key"] == key), None)
        return None if record is None else _result(record)

    def _finish(self) -> dict[str, Any]:
        record = best_record(self.run.records())
        if (self.run.best / "best.json").exists():
            stored = self.run.read_json("best/best.json")
            if stored["key"] == record["key"]:
                return stored
        candidate = candidate_of(record)
        loaded = self.problem.loaded
        variant, rounds = fit_winner(self.problem, candidate, self._scratch)
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


def _result(record: dict[str, Any]) -> Result:
    return Result(record["key"], [record["selection"]["loss"]], measured_notes(record))


def _first_rows(calibration: Calibration, images: int) -> tuple[range, range]:
    """The first of the fitted and of the measured images, in proportion, so many in all."""
    share = images / calibration.n_images
    fit, measure = (
        range(start, start + max(1, min(round(size * share), size)))
        for start, size in (
            (0, calibration.n_fit),
            (calibration.n_fit, calibration.n_images - calibration.n_fit),
        )
    )
    return fit, measure


def _noting(parts: Iterable[Batch], labels: list[Tensor]) -> Iterator[Tensor]:
    """The images of `parts`; their labels are added to `labels` on the way."""
    for batch in parts:
        labels.append(batch.labels)
        yield batch.images
