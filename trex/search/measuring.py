"""What a search measures, each kind as work that processes share.

Probes (for predicted losses), then candidates fitted in closed form, then the best ones refined.
Every candidate's record says what each of these rungs found and spent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from optuna.samplers import BaseSampler
from safetensors.torch import load_file, save
from torch import Tensor

from trex.files import write_atomic
from trex.reuse.fit import Calibration, Candidate, FittedPlan, PlanFitter, Take, apply_fitted
from trex.reuse.precision import forward_precision
from trex.reuse.refine import Batch as Equations
from trex.reuse.refine import refine
from trex.search.entries import (
    EDAP,
    LOSS,
    RECORD,
    candidate_of_trial,
    entry,
    estimate_notes,
    in_tree_order,
    measured_notes,
)
from trex.search.feasible import PricedSpace
from trex.search.problem import Problem, progress_bar
from trex.search.records import candidate_of, describe, mean_kl, selection_metrics
from trex.search.run import Run
from trex.search.storage import open_storage
from trex.search.study import Entry, Study
from trex.search.surrogate import Surrogate, build, probes
from trex.search.terms import LossTerms, Rows
from trex.search.workers import More, Phase, Result, work_off
from trex.training.data import Batch, ImageSet, batches


@dataclass(frozen=True, kw_only=True, slots=True)
class Sharing:
    """Who does the work, and through what it is shared.

    Attributes:
        workers: processes on this machine.
        storage: address of a PostgreSQL database; None for the run folder's journal.
        study: its name there.
    """

    workers: int = 1
    storage: str | None = None
    study: str = "search"


class Measuring:
    """Measures plans of one search; what its run folder holds is not measured again.

    Args:
        problem: what is searched for.
        priced: the plans and their prices.
        run: where records go.
        settings: what all processes must agree on.
        sharing: who does the work.
        scratch: a folder with room for activations.
    """

    def __init__(
        self,
        problem: Problem,
        priced: PricedSpace,
        run: Run,
        settings: dict[str, Any],
        sharing: Sharing,
        scratch: Path,
    ) -> None:
        self._problem = problem
        self._priced = priced
        self._run = run
        self._settings = settings
        self._sharing = sharing
        self._scratch = scratch

    @cached_property
    def calibration(self) -> Calibration:
        """The original's pass, made when something has to be measured."""
        settings, images = self._problem.settings, self._problem.images
        labels: list[Tensor] = []
        with progress_bar("original", len(images)) as advance:
            calibration = Calibration(
                self._problem.loaded.model,
                self._problem.loaded.adapter,
                (batch.images for batch in batches(self._parts[0], settings.fit.batch_size)),
                _noting(batches(self._parts[1], settings.fit.batch_size), labels),
                settings=settings.fit,
                scratch=self._scratch,
                progress=advance,
            )
        self._labels = torch.cat(labels)
        return calibration

    @cached_property
    def _parts(self) -> tuple[ImageSet, ImageSet]:
        """The images that are fitted on, and those that candidates are compared on."""
        settings, images = self._problem.settings, self._problem.images
        shares = (1.0 - settings.select_share, settings.select_share)
        # Probes are measured on the first images of both: a class's lie side by side.
        fit, select = (p.shuffled(settings.seed) for p in images.split(shares, settings.seed))
        return fit, select

    def close(self) -> None:
        """Give the disk space back."""
        if "calibration" in self.__dict__:
            self.calibration.close()

    def surrogate(self) -> Surrogate:
        """What losses are predicted from."""
        candidates = in_tree_order(probes(self._priced.space))

        def work(order: Sequence[Candidate], take: Take) -> Iterator[Result]:
            calibration = self.calibration
            fit_rows, rows = _first_rows(calibration, self._problem.settings.surrogate_images)
            original = calibration.logits[rows.start : rows.stop]
            fitter = PlanFitter(calibration, fit_rows=fit_rows, measure_rows=rows)
            for fitted in fitter.fit(order, take):
                yield Result(fitted.candidate.key, [mean_kl(fitted.logits, original)], {})

        done = self._work_off(
            "surrogate",
            [entry(c, self._priced.choices, {}) for c in candidates],
            work=work,
            objectives=[LOSS],
        )
        return build(self._priced.space, {key: trial.values[0] for key, trial in done.items()})

    def fitted(
        self,
        rows: Rows,
        terms: LossTerms | None,
        *,
        objectives: Sequence[str] = (LOSS,),
        sampler: Callable[[], BaseSampler] | None = None,
        more: More | None = None,
        total: int | None = None,
    ) -> None:
        """Fit, measure and record plans.

        Args:
            rows: the plans.
            terms: what losses are predicted from, or None.
            objectives: what the study minimises, of `LOSS` and `EDAP`.
            sampler: makes what proposes further plans.
            more: takes further plans when these are done.
            total: how many plans there will be, with the further ones.
        """

        def values(record: dict[str, Any]) -> list[float]:
            of = {LOSS: record["selection"]["loss"], EDAP: record["estimate"]["edap_mj_ms_mm2"]}
            return [of[objective] for objective in objectives]

        def result(record: dict[str, Any]) -> Result:
            return Result(record["key"], values(record), measured_notes(record))

        def known(key: str) -> Result | None:
            record = self._record(key)
            return None if record is None else result(record)

        def work(order: Sequence[Candidate], take: Take) -> Iterator[Result]:
            started = time.monotonic()
            for fitted in PlanFitter(self.calibration).fit(order, take):
                record = self._fitted_record(fitted, terms, time.monotonic() - started)
                self._run.append(record)
                yield result(record)
                started = time.monotonic()

        candidates = in_tree_order([self._priced.choices.candidate(row) for row in rows])
        done = self._work_off(
            "",
            [self.entry(candidate, terms) for candidate in candidates],
            work=work,
            known=known,
            objectives=objectives,
            sampler=sampler,
            more=more,
            total=total,
        )
        recorded = {record["key"] for record in self._run.records()}
        for key in done.keys() - recorded:  # measured on other machines
            self._run.append_unless(partial(self._record, key), done[key].user_attrs[RECORD])

    def refined(self, records: Sequence[dict[str, Any]]) -> None:
        """Refine fitted candidates on the images they were fitted on, measure and record them."""
        by_key = {record["key"]: record for record in records}

        def result(line: dict[str, Any]) -> Result:
            return Result(line["key"], [line["measured"]["loss"]], {RECORD: line})

        def known(key: str) -> Result | None:
            record = self._record(key)
            if record is None or "refined" not in record:
                return None
            rung = next(rung for rung in record["rungs"] if rung["rung"] == "refined")
            return result({"key": key, "rung": rung, "measured": record["refined"]})

        def work(order: Sequence[Candidate], take: Take) -> Iterator[Result]:
            while (candidate := take(order)) is not None:
                key, started = candidate.key, time.monotonic()
                measured = self._refine(by_key[key])
                rung = self._rung("refined", measured["loss"], time.monotonic() - started)
                line = {"key": key, "rung": rung, "measured": measured}
                self._run.append(line)
                yield result(line)

        done = self._work_off(
            "refined",
            [entry(candidate_of(r), self._priced.choices, {}) for r in records],
            work=work,
            known=known,
            objectives=[LOSS],
        )
        for key in by_key:  # measured on other machines
            self._run.append_unless(partial(known, key), done[key].user_attrs[RECORD])

    def entry(self, candidate: Candidate, terms: LossTerms | None) -> Entry:
        """A candidate as a study's trial, with what is known before it is fitted."""
        estimate, predicted = self._estimate(candidate, terms)
        return entry(candidate, self._priced.choices, estimate_notes(estimate, predicted))

    def _estimate(
        self, candidate: Candidate, terms: LossTerms | None
    ) -> tuple[dict[str, Any], float | None]:
        problem, row = self._problem, self._priced.choices.row(candidate)[None]
        estimate = self._priced.price(row).estimate(0, problem.chip, problem.accounting)
        return estimate, None if terms is None else float(terms.predict(row)[0])

    def _fitted_record(
        self, fitted: FittedPlan, terms: LossTerms | None, seconds: float
    ) -> dict[str, Any]:
        calibration, candidate = self.calibration, fitted.candidate
        original = calibration.logits[calibration.n_fit :]
        estimate, predicted = self._estimate(candidate, terms)
        selection = selection_metrics(fitted.logits, original, self._labels)
        rungs = [self._rung("fitted", selection["loss"], seconds)]
        if predicted is not None:
            rungs.insert(0, {"rung": "surrogate", "loss": predicted, "images": 0, "seconds": 0.0})
        file = self._run.candidates / f"{candidate.key}.safetensors"
        write_atomic(file, save(fitted.state))
        return {
            "key": candidate.key,
            **describe(candidate),
            "estimate": estimate,
            "predicted_loss": predicted,
            "selection": selection,
            "rungs": rungs,
            "seconds": round(seconds, 3),
        }

    def _rung(self, name: str, loss: float, seconds: float) -> dict[str, Any]:
        images = self.calibration.n_fit
        return {"rung": name, "loss": loss, "images": images, "seconds": round(seconds, 3)}

    def _refine(self, record: dict[str, Any]) -> dict[str, Any]:
        """What refining one candidate gains on the images that it is compared on."""
        calibration, settings = self.calibration, self._problem.settings
        size = settings.fit.batch_size
        fit, select = self._parts

        def equations() -> Iterator[Equations]:
            start = 0
            for batch in batches(fit, size):
                stop = start + len(batch.images)
                yield batch.images, calibration.logits[start:stop], batch.indices
                start = stop

        variant = apply_fitted(deepcopy(self._problem.loaded.model), self._state(record))
        refine(
            variant,
            self._problem.loaded.adapter,
            equations,
            settings=settings.refine,
            scratch=self._scratch,
            seed=settings.seed,
        )
        with torch.no_grad(), forward_precision(settings.fit.precision):
            logits = torch.cat([variant(batch.images).float() for batch in batches(select, size)])
        return selection_metrics(logits, calibration.logits[calibration.n_fit :], self._labels)

    def _state(self, record: dict[str, Any]) -> FittedPlan:
        """A fitted candidate, fitted again where another machine did it."""
        candidate = candidate_of(record)
        file = self._run.candidates / f"{record['key']}.safetensors"
        if file.exists():
            return FittedPlan(candidate=candidate, state=load_file(file), logits=torch.empty(0))
        (fitted,) = PlanFitter(self.calibration).fit([candidate])
        return fitted

    def _record(self, key: str) -> dict[str, Any] | None:
        return next((r for r in self._run.records() if r["key"] == key), None)

    def _work_off(
        self,
        part: str,
        entries: Sequence[Entry],
        *,
        work: Callable[[Sequence[Candidate], Take], Iterator[Result]],
        objectives: Sequence[str],
        known: Callable[[str], Result | None] = lambda key: None,
        sampler: Callable[[], BaseSampler] | None = None,
        more: More | None = None,
        total: int | None = None,
    ) -> dict[str, Any]:
        sharing = self._sharing

        def open_study() -> Study:
            made = None if sampler is None else sampler()
            if made is not None and sharing.workers > 1:
                made.reseed_rng()  # workers of one seed would propose the same
            return Study(
                open_storage(sharing.storage, self._run.path, sharing.study),
                f"{sharing.study}, {part}" if part else sharing.study,
                objectives,
                self._settings,
                made,
            )

        phase = Phase(
            name=part or "candidates",
            entries=entries,
            total=len(entries) if total is None else total,
            open_study=open_study,
            candidate_of=candidate_of_trial,
            prepare=lambda: self.calibration,
            known=known,
            work=work,
            more=more,
        )
        return work_off(phase, sharing.workers)


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
