"""What a finished search tells: one JSON object, the same for programs and for the table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from trex.fit.choose import CHOSEN
from trex.hardware import without_dead_rows
from trex.models.registry import architecture_of
from trex.search.agreement import Agreement
from trex.search.engine import Search
from trex.search.front import front_of, measured_front
from trex.search.pick import record_of
from trex.store.ranking import best_first, last_rung
from trex.store.record import SELECTION, UNTRAINED, Estimate, Record
from trex.store.run import Run
from trex.store.schemas import (
    ChosenTimings,
    Counts,
    Evaluation,
    Front,
    Short,
    Summary,
    TunedSummary,
    Way,
    Winner,
)


def outcome(
    search: Search,
    best: Winner,
    evaluate: Callable[[Path], Evaluation] | None,
) -> Summary:
    """The search's answer.

    Args:
        search: finished.
        best: what `Search.execute` returned.
        evaluate: measures a bundle on `--eval`; None where there is none.
    """
    problem, run = search.problem, search.run
    baseline = search.priced.baseline.estimate(0, problem.device, problem.accounting)
    records, manifest = run.records(), run.manifest()
    front = measured_front(records, baseline)
    winner = record_of(run, best.key)
    rung = last_rung(records)
    return Summary(
        run=str(run.path),
        model=problem.loaded.name,
        chip=problem.device.name,
        basis=problem.device.basis,
        accounting=problem.accounting,
        budget=manifest.settings.budget,
        strategy=problem.settings.strategy,
        ranked_by="fitted" if rung == SELECTION else rung,
        ranked_on=winner.ranked_on,
        baseline=baseline,
        fit=fit_of(run),
        producers=best.producers,
        agreement=Agreement.of(winner.last).as_fields(),
        best=_short(winner, evaluation=evaluate(run.best) if evaluate else None),
        finetuned=_finetuned(run, evaluate) if problem.settings.finetuning.images else None,
        pareto=list(map(_short, front_of(records))),
        front=Front(
            objectives=[front.accuracy, *front.costs],
            points=list(map(_short, front.records)),
            hypervolume=front.hypervolume,
            knee=None if front.knee is None else _short(front.knee),
        ),
        timings=_timings(run, winner),
        proof=run.proof(),
        **(_given(search, records) if problem.plans else {}),
        candidates=Counts(
            space=manifest.space_size, feasible=manifest.feasible, evaluated=len(records)
        ),
    )


def fit_answer(summary: Summary) -> dict[str, object]:
    """What a fit of given plans tells programs: its best plan, and all of them.

    Args:
        summary: what `outcome` gave.
    """
    result = summary.as_json()
    best, baseline, trimmed = summary.best, summary.baseline, summary.baseline_without_dead_rows
    shown = ("plan", "n_reuse", "transform", "key", "evaluation")
    return {
        **{name: result["best"][name] for name in shown},
        **{name: result[name] for name in ("run", "model", "chip", "accounting")},
        "estimate": best.estimate.as_json(),
        "baseline": baseline.as_json(),
        "relative": relative(best.estimate, baseline),
        "baseline_without_dead_rows": None if trimmed is None else trimmed.as_json(),
        "relative_without_dead_rows": (
            None if trimmed is None else relative(best.estimate, trimmed)
        ),
        "selection": best.selection.as_json(),
        "agreement": result["agreement"],
        "fit": result["fit"],
        "ranked_by": summary.ranked_by,
        "plans": [
            {**short.as_json(), "relative": relative(short.estimate, baseline)}
            for short in summary.plans or ()
        ],
        "seconds": summary.seconds,
    }


def fit_of(run: Run) -> Way:
    """How a run's plans are fitted: what was chosen, or what version 0.1 always did."""
    stored = run.fitting()
    if stored is not None:
        return stored.chosen
    used = run.manifest().settings.search["fit"]
    return Way(**{name: used[name] for name in CHOSEN if name in used})


def relative(estimate: Estimate, baseline: Estimate) -> dict[str, object]:
    """An estimate as shares of another's, under their accounting."""
    names = {
        "latency": "latency_s",
        "energy": "energy_j",
        "area": "area_m2",
        "edap": "edap_mj_ms_mm2",
        "parameters": "parameters",
        "macs": "macs",
    }
    shares = {
        name: None if (own := getattr(estimate, field)) is None else own / getattr(baseline, field)
        for name, field in names.items()
    }
    return {"accounting": estimate.accounting, **shares}


def _timings(run: Run, winner: Record) -> ChosenTimings | None:
    """Finalists timed whole on a measured machine; None on a chip, which nobody can time."""
    timings = run.timings()
    return None if timings is None else ChosenTimings(**dict(timings), chosen=winner.key)


def _given(search: Search, records: list[Record]) -> dict[str, Any]:
    """What is told of given plans alone: all of them, the best first, and one more baseline."""
    loaded = search.problem.loaded
    trimmed = without_dead_rows(architecture_of(loaded.model, loaded.name))
    return {
        "plans": list(map(_short, best_first(records, SELECTION))),
        "baseline_without_dead_rows": None if trimmed is None else search.estimate(trimmed),
    }


def _finetuned(run: Run, evaluate: Callable[[Path], Evaluation] | None) -> TunedSummary:
    """The winner after its short training, apart from all that was measured before it."""
    tuned = run.tuned()
    return TunedSummary(
        plan=tuned.plan,
        rung=tuned.rung,
        images=tuned.images,
        measured=tuned.measured,
        evaluation=evaluate(run.finetuned) if evaluate else None,
    )


def _short(record: Record, **evaluation: Evaluation | None) -> Short:
    """A record as summaries tell it; with `evaluation`, where there could be one."""
    untrained = {name: record.later[name] for name in UNTRAINED if name in record.later}
    short = Short(
        key=record.key,
        plan=record.plan,
        n_reuse=record.n_reuse,
        transform=record.transform,
        estimate=record.estimate,
        predicted_loss=record.predicted_loss,
        selection=record.selection,
        rungs=record.rungs,
    )
    return short.model_copy(update={**untrained, **evaluation})
