"""What a run folder holds, read once and checked, for pages, tables and figures.

Estimates and measurements stay apart: `Estimate` is priced, `Measured` and `evaluation` measured.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from trex.errors import PlanError, RunError, TrexError
from trex.plan import Layout
from trex.report.finetunings import Finetuning, read_finetuning
from trex.report.rungs import RungResult, rung_results
from trex.report.tables import best_lines, shortened
from trex.search.agreement import Agreement
from trex.search.budget import Budget, Quantity
from trex.search.front import front_of
from trex.store.evaluations import stored_evaluations
from trex.store.finetuning import is_finetuning
from trex.store.ranking import best_record
from trex.store.record import Estimate, Record
from trex.store.run import PROBES, Run
from trex.store.schemas import (
    ChosenTimings,
    Evaluation,
    EvaluationLine,
    Fit,
    Manifest,
    TunedSummary,
)

#: Two such names and an accounting are two lines of a figure.
_NAME_WIDTH: Final = 36


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairs:
    """The surrogate of one form: losses of single consumers, and what pairs lose beyond them."""

    form: str
    single: tuple[float, ...]
    interaction: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """One run.

    Attributes:
        name: the folder's; unlike the other runs' on the page.
        layout: which plans the model can run.
        winner: position of the best candidate.
        front: positions of those no other beats in EDAP and loss, cheapest first.
        evaluation: the winner measured on labelled images of its own, or None.
        finished: whether the search came to its end.
        unit: what its data are, `images` or `texts`.
        chosen: by what the winner was chosen, in words; empty while it is not finished.
        rungs: what refinements and short trainings of the search measured.
        tuned: the winner after the search's short training, as the summary has it, or None.
        later: what `trex evaluate` measured since.
        finetunings: of the run's variants, where their folders were given too.
        timings: what a measured machine took for the best plans, as the summary has it, or None.
        fits: how plans were fitted; None where nothing was, and in runs of version 0.1.
    """

    name: str
    path: Path
    manifest: Manifest
    model: str
    chip: str
    accounting: str
    budget: str
    limits: tuple[tuple[Quantity, float], ...]
    layout: Layout
    baseline: Estimate
    candidates: tuple[Record, ...]
    winner: int
    front: tuple[int, ...]
    evaluation: Evaluation | None
    finished: bool
    surrogate: tuple[Pairs, ...]
    unit: str = "images"
    chosen: str = ""
    rungs: tuple[RungResult, ...] = ()
    tuned: TunedSummary | None = None
    later: tuple[EvaluationLine, ...] = ()
    finetunings: tuple[Finetuning, ...] = ()
    timings: ChosenTimings | None = None
    fits: Fit | None = None

    @property
    def best(self) -> Record:
        """The winner."""
        return self.candidates[self.winner]

    @property
    def near(self) -> Agreement:
        """How often the winner gives the original's first guess, with its interval."""
        return Agreement.of(self.best.selection)

    @property
    def num_encoders(self) -> int:
        """Encoders of the model."""
        return len(self.layout.stages)

    @property
    def given(self) -> bool:
        """Whether the plans were given, and nothing was searched for."""
        return bool(self.manifest.settings.search.get("strategy") == "given")

    @property
    def subject(self) -> str:
        """What every figure and table names; very long names are shortened to fit there."""
        model, chip = shortened(self.model, _NAME_WIDTH), shortened(self.chip, _NAME_WIDTH)
        return f"{model} on {chip}, {self.accounting}{' accounting' * (not self.on_machine)}"

    @property
    def on_machine(self) -> bool:
        """Whether prices are latencies predicted by a measured machine, not a chip's estimates."""
        return self.baseline.on_machine

    @property
    def by(self) -> str:
        """Where prices come from, for the heads of columns."""
        return f"predicted, {self.chip}" if self.on_machine else f"{self.accounting} estimate"

    @property
    def basis(self) -> str:
        """The same in a sentence."""
        if self.on_machine:
            return f"predicted by {self.chip}, a measured machine"
        return f"estimate, {self.accounting} accounting"

    @property
    def gain_name(self) -> str:
        """What `gain` is."""
        return "speed-up" if self.on_machine else "EDAP gain"

    @property
    def slug(self) -> str:
        """The name as part of a file's name."""
        return re.sub(r"[^A-Za-z0-9._-]+", "-", self.name).strip("-.") or "run"

    def gain(self, candidate: Record) -> float:
        """How many times lower a candidate's EDAP is than the original's.

        On a measured machine its latency, which is all that is known there.
        """
        return self.baseline.overall / candidate.estimate.overall


def read_facts(path: Path) -> Facts:
    """One run folder.

    Raises:
        RunError: it is no run, of another version, damaged, or has no finished candidate.
    """
    run = Run.open(path)
    manifest, records = run.manifest(), run.records()
    if not records:
        raise RunError(
            f"{path} has no finished candidate",
            hint="run the same command again; it goes on where it stopped",
        )
    try:
        return _facts(run, manifest, records)
    except (
        KeyError, TypeError, ValueError, IndexError, AttributeError, PlanError
    ) as error:  # fmt: skip
        raise RunError(
            f"{path} is damaged: {type(error).__name__} {error}",
            hint="restore its files, or search again in another folder",
        ) from error


def read_all(paths: Sequence[Path]) -> tuple[Facts, ...]:
    """Several run folders, and fine-tunings of them; names that occur twice are numbered.

    Raises:
        RunError: as `read_facts`; or a fine-tuning is of none of the runs.
    """
    found: list[Facts] = []
    resolved = list(dict.fromkeys(path.resolve() for path in paths))
    tuned = [read_finetuning(path) for path in resolved if is_finetuning(path)]
    for path in resolved:
        if any(path == finetuning.path for finetuning in tuned):
            continue
        facts = read_facts(path)
        name, number = facts.name, 1
        while any(other.slug.lower() == facts.slug.lower() for other in found):
            number += 1
            facts = replace(facts, name=f"{name} ({number})")
        found.append(facts)
    for finetuning in tuned:
        _attach(finetuning, found)
    return tuple(found)


def _attach(finetuning: Finetuning, runs: list[Facts]) -> None:
    """Put a fine-tuning to its run: the one it names, else one of its weights with its plan."""
    for facts in sorted(runs, key=lambda f: f.path != Path(finetuning.run).resolve()):
        same = facts.manifest.settings.weights_sha256 == finetuning.weights_sha256
        if same and any(finetuning.is_of(c.plan) for c in facts.candidates):
            both = (*facts.finetunings, finetuning)
            runs[runs.index(facts)] = replace(facts, finetunings=both)
            return
    raise RunError(
        f"{finetuning.path} is a fine-tuning of none of the runs",
        hint=f"give its run too: trex report {finetuning.run or 'RUN'} {finetuning.path}",
    )


def _facts(run: Run, manifest: Manifest, records: list[Record]) -> Facts:
    settings = manifest.settings
    winner = _winner(run, records)
    summary = run.summary()
    ended = summary is not None and summary.best.plan == records[winner].plan
    surrogate: tuple[Pairs, ...] = ()
    if (run.path / PROBES).exists():
        surrogate = _pairs(run.read_json(PROBES))
    layout = run.layout()
    for record in records:
        record.parsed.validate(layout)
    return Facts(
        name=run.path.resolve().name,
        path=run.path,
        manifest=manifest,
        model=settings.model,
        chip=settings.chip,
        accounting=settings.accounting,
        budget=settings.budget,
        limits=_limits(settings.budget, manifest.baseline),
        layout=layout,
        baseline=manifest.baseline,
        candidates=tuple(records),
        winner=winner,
        front=_front(records),
        evaluation=summary.best.evaluation if summary and ended else None,
        finished=ended,
        surrogate=surrogate,
        unit="texts" if "tokens" in settings.data else "images",
        chosen=" ".join(map(str.strip, best_lines(summary))) if summary and ended else "",
        rungs=rung_results(records),
        tuned=summary.finetuned if summary and ended else None,
        timings=summary.timings if summary and ended else None,
        later=stored_evaluations(run),
        fits=run.fitting(),
    )


def _front(records: Sequence[Record]) -> tuple[int, ...]:
    """Positions of those no other beats; of equal ones the first by key, as in the summary."""
    position = {record.key: number for number, record in enumerate(records)}
    return tuple(position[record.key] for record in front_of(records))


def _winner(run: Run, records: list[Record]) -> int:
    """The one the search chose; before it has, the one it would choose of those fitted so far."""
    chosen = run.winner()
    keys = [record.key for record in records]
    if chosen is not None and chosen.key in keys:
        return keys.index(chosen.key)
    return keys.index(best_record(records).key)


def _pairs(stored: Mapping[str, Any]) -> tuple[Pairs, ...]:
    """What consumers lose by themselves and in pairs, where pairs were measured."""
    forms = stored.get("forms")  # as version 0.1 wrote them
    if forms is None:
        if not any(map(any, stored["added"])):
            return ()
        forms = [
            {
                "form": stored["form"],
                "single": stored["reference"],
                "interaction": stored["added"],
            }
        ]
    return tuple(
        Pairs(
            form=" + ".join(map(str, form["form"])),
            single=tuple(map(float, form["single"])),
            interaction=tuple(tuple(map(float, row)) for row in form["interaction"]),
        )
        for form in forms
    )


def _limits(budget: str, baseline: Estimate) -> tuple[tuple[Quantity, float], ...]:
    """The budget's limits in SI units (EDAP in J·s·m²); none where it is not understood."""
    if not budget:
        return ()
    texts: dict[Any, str | None] = {}
    for part in budget.split(", "):
        quantity, _, value = part.partition(" <= ")
        texts[quantity] = value
    try:
        parsed = Budget.parse(texts)
    except (TrexError, KeyError):
        return ()
    originals: dict[Quantity, float] = {"latency": baseline.latency_s}
    if baseline.energy_j is not None and baseline.area_m2 is not None:
        originals |= {
            "energy": baseline.energy_j,
            "area": baseline.area_m2,
            "edap": baseline.energy_j * baseline.latency_s * baseline.area_m2,
        }
    return tuple(
        (limit.quantity, limit.absolute(originals[limit.quantity]))
        for limit in parsed.limits
        if limit.quantity in originals
    )
