"""What all measuring of one search shares: the original's pass, and the workers.

Studies, records and images have one owner here; what is measured with them is in `search.fitted`
and `search.rungs`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial
from torch import Tensor

from trex.fit.calibration import Calibration, FitSettings
from trex.fit.choose import choose_settings, steps_to_choose, way_of
from trex.fit.fitter import PlanFitter, Take
from trex.plan import Plan
from trex.reuse.transforms import AVERAGED, averaged
from trex.search.entries import Options, plan_of_trial
from trex.search.feasible import PricedSpace
from trex.search.predict import reference_form
from trex.search.problem import Problem, count_passes, progress_bar
from trex.search.records import selection_metrics
from trex.search.storage import open_storage
from trex.search.strategies import STRATEGIES
from trex.search.study import Entry, Study, check_study
from trex.search.workers import More, Phase, Result, run_phase
from trex.store.locks import LOCKS, file_lock
from trex.store.record import Estimate, Measured
from trex.store.run import FIT, Run
from trex.store.schemas import Fit
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

    def part(self, name: str) -> str:
        """The name of the study of one part of the search; none for the candidates themselves."""
        return f"{self.study}, {name}" if name else self.study


class Parts(NamedTuple):
    """Calibration images.

    Attributes:
        fit: are fitted on.
        select: candidates are compared on.
        fresh: the best of them are compared on once more; None where there are none.
    """

    fit: ImageSet
    select: ImageSet
    fresh: ImageSet | None = None

    @property
    def measured(self) -> tuple[ImageSet, ...]:
        """Those that are not fitted on."""
        return (self.select,) if self.fresh is None else (self.select, self.fresh)


class SearchContext:
    """What measuring needs, made when it is needed first.

    Args:
        problem: what is searched for.
        priced: the plans and their prices.
        run: where records go.
        settings: what all processes must agree on.
        sharing: who does the work.
        scratch: a folder with room for activations.
        like: another search's of the same model, space and images, whose passes are shared.
        known: a run of the same, whose probes and way of fitting are taken.
    """

    def __init__(
        self,
        problem: Problem,
        priced: PricedSpace,
        run: Run,
        settings: dict[str, Any],
        sharing: Sharing,
        scratch: Path,
        like: SearchContext | None = None,
        known: Run | None = None,
    ) -> None:
        self.problem = problem
        self.priced = priced
        self.run = run
        self._settings = settings
        self._sharing = sharing
        self.scratch = scratch
        self._like = like
        self.known = known
        self._labels = torch.empty(0)
        self._selected = 0

    @property
    def alone(self) -> bool:
        """Whether one process does this machine's work, and can show its own progress."""
        return self._sharing.workers == 1

    @cached_property
    def calibration(self) -> Calibration:
        """The original's pass, made when something has to be measured."""
        if self._like is not None:
            calibration = self._like.calibration
            self._labels, self._selected = self._like._labels, self._like._selected
            return calibration
        settings, images = self.problem.settings, self.problem.images
        labels: list[Tensor] = []
        encoders = self.problem.space.num_encoders
        with progress_bar("original", len(images), passes=encoders) as advance:
            calibration = Calibration(
                self.problem.loaded.model,
                self.problem.loaded.adapter,
                (batch.images for batch in batches(self.parts.fit, settings.fit.batch_size)),
                _noting(self._measured_batches(settings.fit.batch_size), labels),
                settings=settings.fit,
                scratch=self.scratch,
                maps=self._mapped(),
                progress=advance,
            )
        self._labels = torch.cat(labels)
        return calibration

    @property
    def goes_on_from_v0_1(self) -> bool:
        """Whether version 0.1 began the run."""
        return self.run.begun and self.run.of_v0_1

    @cached_property
    def fit_settings(self) -> FitSettings:
        """How plans are fitted: chosen once for the model, on the images that are fitted on.

        A run that version 0.1 began goes on as it began.
        """
        base = self.problem.settings.fit
        if self.goes_on_from_v0_1:
            return base
        with file_lock(self.run.path / LOCKS / "fit"):
            stored = self.run.fitting()
            if stored is None:
                stored = self.known.fitting() if self.known else None
                stored = stored or self._chosen_fit()
                self.run.write(FIT, stored)
        chosen = stored.chosen
        return replace(
            base,
            shrink=chosen.shrink,
            drift=chosen.drift,
            class_weight=chosen.class_weight,
            ridge=chosen.ridge,
            producers=chosen.producers,
        )

    def _chosen_fit(self) -> Fit:
        calibration, plan = self.calibration, self._reference_plan()
        most = self.problem.settings.choice_images
        steps = steps_to_choose(calibration, most)
        with progress_bar("choosing how to fit", steps, "encoder steps", 1) as advance:
            trials = choose_settings(calibration, plan, most=most, progress=advance)
        return Fit(
            fitted=str(plan),
            chosen=way_of(trials[0].settings),
            tried=[trial.tried for trial in trials],
        )

    @property
    def ranks_on(self) -> Literal["soft_agreement", "loss"]:
        """What of the measured ranks plans: see `store.ranking`.

        Plans of the joint space lose little, and less than agreement can tell apart.
        """
        strategy = self.problem.settings.strategy
        return "loss" if self.problem.space.joint else STRATEGIES[strategy].ranks_on

    def fitter(
        self,
        fit_rows: range | None = None,
        measure_rows: range | None = None,
        settings: FitSettings | None = None,
        unconsumed: bool = False,
    ) -> PlanFitter:
        """Fits plans over the search's images, those left out that only confirm."""
        first = self.calibration.n_fit
        return PlanFitter(
            self.calibration,
            settings=settings or self.fit_settings,
            unconsumed=unconsumed,
            fit_rows=fit_rows,
            measure_rows=measure_rows or range(first, first + self._selected),
            progress=count_passes,
        )

    def _measured_batches(self, size: int) -> Iterator[Batch]:
        for part in self.parts.measured:
            for batch in batches(part, size):
                # those that can be read
                self._selected += len(batch.images) * (part is self.parts.select)
                yield batch

    def _reference_plan(self) -> Plan:
        """What fits are chosen on: of given plans the one with most consumers, or a third."""
        if self.problem.plans:
            return max(self.problem.plans, key=lambda plan: plan.n_reuse)
        space = self.problem.space
        free = [i for i, allowed in enumerate(space.may_reuse) if allowed]
        return Plan.nearest(free[::-3], *reference_form(space))

    def _mapped(self) -> set[int]:
        """The encoders that may take average maps of themselves."""
        given = averaged(self.problem.plans)
        space = self.problem.space
        if any(transform in AVERAGED for _, transform in space.forms):
            given |= {i for i, allowed in enumerate(space.may_reuse) if allowed}
        return given

    @cached_property
    def parts(self) -> Parts:
        """The images, by what they are for."""
        settings, images = self.problem.settings, self.problem.images
        select, fresh = settings.select_share, settings.fresh_share
        shares = (1.0 - select - fresh, select, *([fresh] if fresh else []))
        # Probes are measured on the first images of each: a class's lie side by side.
        parts = (part.shuffled(settings.seed) for part in images.split(shares, settings.seed))
        return Parts(*parts)

    @cached_property
    def options(self) -> Options:
        """What a study says could be done in every encoder."""
        return Options(self.problem.space, self.problem.plans)

    def estimate(self, plan: Plan) -> Estimate:
        """What a plan costs, as records hold it."""
        problem = self.problem
        costs = self.priced.pricer.price_plans([plan])
        return costs.estimate(0, problem.device, problem.accounting)

    def check_storage(self) -> None:
        """See that a database answers and holds no study of other settings, before any work.

        Raises:
            RunError: it holds one.
            StorageError: it does not answer.
        """
        sharing = self._sharing
        if sharing.storage is not None:
            parts = (
                "surrogate",
                "triples",
                "",
                "confirmed",
                "refined",
                *self.problem.settings.finetuning.parts,
            )
            with closing(open_storage(sharing.storage, self.run.path, sharing.study)) as shared:
                for part in parts:
                    check_study(shared, sharing.part(part), self._settings)

    def close(self) -> None:
        """Give the disk space back."""
        if self._like is None and "calibration" in self.__dict__:
            self.calibration.close()

    def selection(self, logits: Tensor) -> Measured:
        """How logits of the first measured images, however many, compare with the original's."""
        original = self.calibration.logits[self.calibration.n_fit :]
        return selection_metrics(logits, original[: len(logits)], self._labels[: len(logits)])

    def run_phase(
        self,
        part: str,
        entries: Sequence[Entry],
        *,
        work: Callable[[Sequence[Plan], Take], Iterator[Result]],
        objectives: Sequence[str],
        known: Callable[[str], Result | None] = lambda key: None,
        sampler: Callable[[], BaseSampler] | None = None,
        more: More | None = None,
        total: int | None = None,
    ) -> dict[str, FrozenTrial]:
        """The trials of all candidates of a part of the search, once they are done.

        Args:
            part: its name; none for the candidates themselves.
            entries: the candidates to begin with.
            work: as in `Phase`.
            objectives: what the study minimises.
            known: as in `Phase`.
            sampler: makes what proposes further candidates.
            more: as in `Phase`.
            total: how many candidates there will be, with the further ones.
        """
        sharing = self._sharing

        def open_study() -> Study:
            made = None if sampler is None else sampler()
            if made is not None and sharing.workers > 1:
                made.reseed_rng()  # workers of one seed would propose the same
            return Study(
                open_storage(sharing.storage, self.run.path, sharing.study),
                sharing.part(part),
                objectives,
                self._settings,
                made,
            )

        phase = Phase(
            name=part or "candidates",
            entries=entries,
            total=len(entries) if total is None else total,
            open_study=open_study,
            plan_of=plan_of_trial,
            prepare=lambda: self.calibration,
            known=known,
            work=work,
            more=more,
        )
        return run_phase(phase, sharing.workers)


def _noting(parts: Iterable[Batch], labels: list[Tensor]) -> Iterator[Tensor]:
    """The images of `parts`; their labels are added to `labels` on the way."""
    for batch in parts:
        labels.append(batch.labels)
        yield batch.images
