"""What the rungs after the fit have in common: some records are measured once more, and shared."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial

import torch
from torch import nn

from trex.fit.fitter import Take
from trex.fit.scratch import TensorFile
from trex.plan import Plan
from trex.reuse.precision import forward_precision
from trex.search.context import SearchContext
from trex.search.entries import (
    LOSS,
    RECORD,
    entry,
    estimate_notes,
    record_in,
    selection_notes,
)
from trex.search.problem import count_passes
from trex.search.records import spent_on
from trex.search.workers import Result
from trex.store.record import Later, Measured, Record
from trex.training.data import batches


def measure_rung(
    context: SearchContext,
    records: Sequence[Record],
    *,
    rung: str,
    part: str,
    images: Callable[[Record], int],
    measure: Callable[[Record], Measured],
) -> None:
    """Measure recorded candidates anew and record that, each as a line of its own.

    Args:
        context: of the search.
        records: of the candidates.
        rung: its name in records.
        part: its name in studies.
        images: that the rung spends on a record's candidate.
        measure: does the work on a record's candidate; what it is like on the selection images.
    """
    by_key = {record.key: record for record in records}

    def result(line: Later) -> Result:
        notes = selection_notes(line.measured, line.rung.seconds)
        return Result(line.key, [line.measured.loss], {**notes, RECORD: line.as_json()})

    def known(key: str) -> Result | None:
        record = context.run.record(key)
        measured = None if record is None else record.later.get(rung)
        if record is None or measured is None:
            return None
        return result(Later(key=key, rung=record.spent(rung), measured=measured))

    def work(order: Sequence[Plan], take: Take) -> Iterator[Result]:
        while (plan := take(order)) is not None:
            key, started = plan.key, time.monotonic()
            measured = measure(by_key[key])
            spent = spent_on(rung, measured.loss, images(by_key[key]), time.monotonic() - started)
            line = Later(key=key, rung=spent, measured=measured)
            context.run.append(line)
            yield result(line)

    done = context.run_phase(
        part,
        [
            entry(
                record.parsed,
                context.options,
                estimate_notes(record.estimate, record.predicted_loss),
            )
            for record in records
        ],
        work=work,
        known=known,
        objectives=[LOSS],
    )
    for key in by_key:  # measured on other machines
        line = record_in(Later, done[key])
        context.run.append_unless(partial(known, key), line)


def measured_selection(context: SearchContext, variant: nn.Module) -> Measured:
    """How a variant does on all images that are not fitted on."""
    fit, done = context.problem.settings.fit, 0
    with (
        closing(TensorFile(context.scratch)) as logits,
        torch.no_grad(),
        forward_precision(fit.precision),
    ):
        for part in context.parts.measured:
            for batch in batches(part, fit.batch_size):
                logits.write(done, variant(batch.images))
                done += len(batch.images)
        count_passes(done * context.problem.space.num_encoders)
        return context.selection(logits.mapped())
