"""One search from beginning to end: cost everything, keep what fits, fit and measure the best.

all plans costed ─> budget ─> surrogate on some images ─> the likeliest fitted and measured
─> winner refitted on all images ─> bundle
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from trex.export.bundle import save_bundle
from trex.files import write_atomic
from trex.reuse.fit import Calibration, Candidate, FittedPlan, PlanFitter
from trex.search.feasible import FeasiblePlans
from trex.search.pareto import pareto_front
from trex.search.problem import Problem, progress_bar
from trex.search.records import best_record, candidate_of, describe, mean_kl, selection_metrics
from trex.search.run import Run
from trex.search.surrogate import Surrogate, build, probes
from trex.search.winner import fit_winner
from trex.training.data import Batch, batches

_logger = logging.getLogger(__name__)


class Search:
    """A search in a run folder; going on in a folder skips what is recorded there.

    Args:
        problem: what is searched for.
        feasible: the plans within the budget.
        run: where to.
        scratch: a folder with room for activations.
    """

    def __init__(self, problem: Problem, feasible: FeasiblePlans, run: Run, scratch: Path) -> None:
        self.problem = problem
        self.feasible = feasible
        self.run = run
        self.scratch = scratch

    def execute(self) -> dict[str, Any]:
        """Search, and return what `best.json` holds: the winner's record and its weights' hash."""
        with self.run.locked():
            _logger.info(
                "%s plans, %s within the budget",
                f"{self.feasible.space_size:,}",
                f"{len(self.feasible.masks):,}",
            )
            done = {record["key"] for record in self.run.records()}
            try:
                chosen = self._choose(self._surrogates())
                open_ones = [c for c in chosen if c.key not in done]
                if len(open_ones) < len(chosen):
                    _logger.info("%d candidates are recorded", len(chosen) - len(open_ones))
                if open_ones:
                    self._evaluate(open_ones)
            finally:
                if "_calibration" in self.__dict__:
                    self._calibration.close()
            return self._finish()

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
                scratch=self.scratch,
                progress=advance,
            )
        self._labels = torch.cat(labels)
        return calibration

    def _surrogates(self) -> list[Surrogate]:
        if (self.run.path / "surrogate.json").exists():
            stored = self.run.read_json("surrogate.json")
            return [Surrogate.from_json(item) for item in stored["forms"]]
        calibration = self._calibration
        share = self.problem.settings.surrogate_images / calibration.n_images
        rows = [
            range(start, start + max(1, min(round(size * share), size)))
            for start, size in (
                (0, calibration.n_fit),
                (calibration.n_fit, calibration.n_images - calibration.n_fit),
            )
        ]
        surrogates = []
        for form in self.problem.space.forms:
            wanted = {c.key: consumers for consumers, c in probes(self.problem.space, form)}
            losses = {}
            for fitted in self._fit(
                calibration, [c for _, c in probes(self.problem.space, form)], "surrogate", *rows
            ):
                losses[wanted[fitted.candidate.key]] = mean_kl(
                    fitted.logits, calibration.logits[rows[1].start : rows[1].stop]
                )
            surrogates.append(build(self.problem.space, form, losses))
        self.run.write_json("surrogate.json", {"forms": [s.as_json() for s in surrogates]})
        return surrogates

    def _choose(self, surrogates: Sequence[Surrogate]) -> list[Candidate]:
        """The plans worth measuring: the best at every price level, then the best of all."""
        feasible = self.feasible
        predicted = np.empty(len(feasible.masks))
        for number, surrogate in enumerate(surrogates):
            of_form = feasible.forms == number
            predicted[of_form] = surrogate.predict(feasible.masks[of_form])
        self._predicted = {}
        front = pareto_front(np.stack((feasible.costs.edap_j_s_m2, predicted), axis=1))
        wanted = self.problem.settings.evaluations
        # The front, thinned to a quarter of the evaluations, keeps the answer useful if the budget
        # changes; the rest goes to the plans that are predicted to lose least.
        share = max(1, wanted // 4)
        thinned = front[np.unique(np.linspace(0, len(front) - 1, share).round().astype(int))]
        ranked = [*thinned.tolist(), *np.argsort(predicted, kind="stable").tolist()]
        chosen = []
        for row in list(dict.fromkeys(ranked))[:wanted]:
            candidate = self.problem.space.candidate(
                feasible.masks[row], self.problem.space.forms[feasible.forms[row]]
            )
            chosen.append(candidate)
            self._predicted[candidate.key] = (float(predicted[row]), row)
        return chosen

    def _evaluate(self, candidates: Sequence[Candidate]) -> None:
        calibration = self._calibration
        original = calibration.logits[calibration.n_fit :]
        started = time.monotonic()
        for fitted in self._fit(calibration, candidates, "candidates"):
            key = fitted.candidate.key
            predicted, row = self._predicted[key]
            write_atomic(self.run.candidates / f"{key}.safetensors", save(fitted.state))
            self.run.append(
                {
                    "key": key,
                    **describe(fitted.candidate),
                    "estimate": self.feasible.estimate(
                        row, self.problem.chip, self.problem.accounting
                    ),
                    "predicted_loss": predicted,
                    "selection": selection_metrics(fitted.logits, original, self._labels),
                    "seconds": round(time.monotonic() - started, 3),
                }
            )
            started = time.monotonic()

    def _finish(self) -> dict[str, Any]:
        record = best_record(self.run.records())
        if (self.run.best / "best.json").exists():
            stored = self.run.read_json("best/best.json")
            if stored["key"] == record["key"]:
                return stored
        candidate = candidate_of(record)
        loaded = self.problem.loaded
        variant, rounds = fit_winner(self.problem, candidate, self.scratch)
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

    def _fit(
        self,
        calibration: Calibration,
        candidates: Sequence[Candidate],
        label: str,
        fit_rows: range | None = None,
        measure_rows: range | None = None,
    ) -> Iterator[FittedPlan]:
        counter = PlanFitter(calibration, fit_rows=fit_rows, measure_rows=measure_rows)
        with progress_bar(label, counter.steps(candidates), "encoder steps") as advance:
            yield from PlanFitter(
                calibration, fit_rows=fit_rows, measure_rows=measure_rows, progress=advance
            ).fit(candidates)


def _noting(parts: Iterable[Batch], labels: list[Tensor]) -> Iterator[Tensor]:
    """The images of `parts`; their labels are added to `labels` on the way."""
    for batch in parts:
        labels.append(batch.labels)
        yield batch.images
