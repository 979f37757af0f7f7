"""Plans fitted in closed form: probes that losses are predicted from, and candidates."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal

from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from trex.fit.calibration import Calibration
from trex.fit.fitter import FittedPlan, Take
from trex.fit.loss import answers, mean_kl, sketch
from trex.plan import Plan
from trex.search.context import SearchContext
from trex.search.entries import (
    EDAP,
    LATENCY,
    LOSS,
    entry,
    estimate_notes,
    in_tree_order,
    measured_notes,
    plan_notes,
    record_in,
)
from trex.search.predict import SKETCH, Losses, build, correlations, probes, triple_probes
from trex.search.records import spent_on
from trex.search.study import Entry
from trex.search.workers import More, Result
from trex.store.record import Record
from trex.stored import plan_fields


def measure_losses(context: SearchContext) -> Losses:
    """What losses are predicted from."""
    done, space = _measure_probes(context, "surrogate"), context.problem.space
    losses = {key: trial.values[0] for key, trial in done.items()}
    sketches = {key: trial.user_attrs["error"] for key, trial in done.items()}
    return build(space, losses, correlations(space, losses, sketches))


def measure_triples(context: SearchContext, losses: Losses) -> Losses:
    """The same losses, with what near pairs and triples of consumers lose together."""
    done = _measure_probes(context, "triples")
    return losses.with_triples({key: trial.values[0] for key, trial in done.items()})


def _measure_probes(
    context: SearchContext, part: Literal["surrogate", "triples"]
) -> dict[str, FrozenTrial]:
    of = {"surrogate": probes, "triples": triple_probes}[part]
    plans = in_tree_order(of(context.priced.space))

    def work(order: Sequence[Plan], take: Take) -> Iterator[Result]:
        calibration = context.calibration
        fit_rows, rows = _first_rows(calibration, context.problem.settings.surrogate_images)
        original = calibration.logits[rows.start : rows.stop]
        fitter = context.fitter(fit_rows, rows)
        for fitted in fitter.fit(order, take):
            found = answers(fitted.logits, original)
            notes = {"error": sketch(found, original, SKETCH)}
            yield Result(fitted.plan.key, [mean_kl(found, original)], notes)

    return context.run_phase(
        part,
        [Entry(key=plan.key, choices={}, notes=plan_notes(plan)) for plan in plans],
        work=work,
        objectives=[LOSS],
    )


def measure_fitted(
    context: SearchContext,
    plans: Sequence[Plan],
    losses: Losses | None,
    *,
    objectives: Sequence[str] = (LOSS,),
    sampler: Callable[[], BaseSampler] | None = None,
    more: More | None = None,
    total: int | None = None,
) -> None:
    """Fit, measure and record plans.

    Args:
        context: of the search.
        plans: to begin with.
        losses: predicted, or None.
        objectives: what the study minimises, of `LOSS`, `EDAP` and `LATENCY`.
        sampler: makes what proposes further plans.
        more: takes further plans when these are done.
        total: how many plans there will be, with the further ones.
    """

    def values(record: Record) -> list[float]:
        estimate = record.estimate
        of = {
            LOSS: record.selection.loss,
            EDAP: estimate.overall,  # of chips alone
            LATENCY: estimate.latency_s * 1e3,
        }
        return [of[objective] for objective in objectives]

    def result(record: Record) -> Result:
        return Result(record.key, values(record), measured_notes(record))

    def known(key: str) -> Result | None:
        record = context.run.record(key)
        return None if record is None else result(record)

    def work(order: Sequence[Plan], take: Take) -> Iterator[Result]:
        started = time.monotonic()
        for fitted in context.fitter().fit(order, take):
            record = _record(context, fitted, losses, time.monotonic() - started)
            context.run.append(record)
            yield result(record)
            started = time.monotonic()

    done = context.run_phase(
        "",
        [trial_entry(plan, context, losses) for plan in in_tree_order(plans)],
        work=work,
        known=known,
        objectives=objectives,
        sampler=sampler,
        more=more,
        total=total,
    )
    recorded = {record.key for record in context.run.records()}
    for key in done.keys() - recorded:  # measured on other machines
        record = record_in(Record, done[key])
        context.run.append_unless(partial(context.run.record, key), record)


def trial_entry(plan: Plan, context: SearchContext, losses: Losses | None) -> Entry:
    """A plan as a study's trial, with what is known before it is fitted."""
    notes = estimate_notes(context.estimate(plan), _predicted(context, plan, losses))
    return entry(plan, context.options, notes)


def _predicted(context: SearchContext, plan: Plan, losses: Losses | None) -> float | None:
    """The predicted loss of a plan of the space; None where nothing is predicted."""
    if losses is None:
        return None
    return float(losses.predict(context.problem.space.row(plan)[None])[0])


def _record(
    context: SearchContext, fitted: FittedPlan, losses: Losses | None, seconds: float
) -> Record:
    plan = fitted.plan
    predicted = _predicted(context, plan, losses)
    selection = context.selection(fitted.logits)
    rungs = [spent_on("fitted", selection.loss, context.calibration.n_fit, seconds)]
    if predicted is not None:
        rungs.insert(0, spent_on("surrogate", predicted, 0, 0.0))
    context.run.write_parameters(plan.key, fitted.state)
    return Record(
        key=plan.key,
        **plan_fields(plan),
        ranked_on=context.ranks_on,
        estimate=context.estimate(plan),
        predicted_loss=predicted,
        selection=selection,
        rungs=tuple(rungs),
        seconds=round(seconds, 3),
    )


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
