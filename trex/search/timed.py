"""The best plans of a search on a measured machine, run whole there: predicted against measured.

A search knows what plans are predicted to take, and most of its best plans take just what they
may: a few of them take a little more. So they are timed as whole models, in turns with the
original, in the runtime, type, batch and number of threads of the machine's profile; those that
take more than the limit are passed over.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

import torch

from trex.bench.profile import setting_of
from trex.bench.runtimes import prepared
from trex.bench.timing import Interval, clock_of, interleaved, plain
from trex.errors import InfeasibleError
from trex.exporters.variant import Variant
from trex.hardware import MeasuredDevice
from trex.models.registry import LoadedModel
from trex.search.budget import TOLERANCE, Limit
from trex.search.context import SearchContext
from trex.search.refined import fitted_variant
from trex.store.locks import LOCKS, file_lock
from trex.store.record import Record
from trex.store.run import TIMINGS
from trex.store.schemas import IntervalFields, Timed, Timings
from trex.units import format_quantity

_logger = logging.getLogger(__name__)

#: plans in memory and timed together, beside the original
_TOGETHER: Final = 4


def holding(context: SearchContext, records: Sequence[Record], wanted: int = 1) -> list[Record]:
    """The first of some records whose latency, timed whole, is within the limits.

    What was timed is kept in the run folder and not timed again.

    Args:
        context: of a search on a measured machine.
        records: the best first.
        wanted: how many are looked for; there may be fewer.

    Raises:
        InfeasibleError: none is within the limits; it names the nearest.
    """
    held: list[Record] = []
    with file_lock(context.run.path / LOCKS / "timings"):
        stored = context.run.timings() or _begun(context)
        rows = {row.key: row for row in stored.rows}
        for start in range(0, len(records), _TOGETHER):
            some = records[start : start + _TOGETHER]
            if new := [record for record in some if record.key not in rows]:
                rows |= {row.key: row for row in _timed(context, new)}
                more = {"rows": list(rows.values())}
                context.run.write(TIMINGS, stored.model_copy(update=more))
            held += [record for record in some if rows[record.key].holds]
            if len(held) >= wanted:
                break
    if not held:
        raise _none_holds(context, list(rows.values()))
    return held[:wanted]


def latency_limits(context: SearchContext) -> tuple[Limit, ...]:
    """The search's limits that a timing can break."""
    return tuple(of for of in context.priced.budget.limits if of.quantity == "latency")


def _device(context: SearchContext) -> MeasuredDevice:
    device = context.problem.device
    assert isinstance(device, MeasuredDevice)
    return device


def _begun(context: SearchContext) -> Timings:
    """How the machine runs, and nothing timed yet."""
    device = _device(context)
    profile = device.profile
    return Timings(
        device=device.name,
        runtime=profile.runtime,
        threads=profile.threads,
        dtype=profile.dtype,
        batch=profile.batch,
        clock=clock_of(profile.threads, profile.device),
        rounds=profile.rounds,
        spread=device.spread,
        rows=[],
    )


def _timed(context: SearchContext, records: Sequence[Record]) -> list[Timed]:
    """Time some plans in turns with the original."""
    profile, problem = _device(context).profile, context.problem
    setting = setting_of(profile)
    _logger.info("timing %d plans whole, in batches of %d", len(records), profile.batch)
    threads = torch.get_num_threads()
    torch.set_num_threads(profile.threads)
    try:
        functions = {
            "": prepared(_variant(context, problem.loaded, problem.loaded.model), setting,
                         profile.batch)
        }  # fmt: skip
        for record in records:
            if record.plan:  # the original is there already
                variant = _variant(context, problem.loaded, fitted_variant(context, record))
                functions[record.key] = prepared(variant, setting, profile.batch)
        found = interleaved(
            functions,
            profile.rounds,
            clock=clock_of(profile.threads, profile.device),
            device=profile.device,
            seed=problem.settings.seed,
        )
    finally:
        torch.set_num_threads(threads)
    baseline = float(context.priced.baseline.latency_s[0])
    rows = []
    for record in records:
        name = record.key if record.plan else ""
        latency, ratio = found.latency_s(name), found.ratio(name, "")
        predicted = record.estimate.latency_s
        rows.append(
            Timed(
                key=record.key,
                plan=record.plan,
                predicted_s=predicted,
                predicted_ratio=predicted / baseline,
                latency_s=_as_fields(latency),
                original_s=_as_fields(found.latency_s("")),
                ratio=_as_fields(ratio),
                holds=all(_share(of, latency, ratio) <= 1.0 for of in latency_limits(context)),
            )
        )
    return rows


def _variant(context: SearchContext, loaded: LoadedModel, model: torch.nn.Module) -> Variant:
    return Variant(
        name=loaded.name,
        arguments=loaded.arguments,
        model=model,
        data_config=context.problem.data_config,
        base_weights_sha256=loaded.weights_sha256,
    )


def _as_fields(of: Interval) -> IntervalFields:
    return IntervalFields(**plain(of))


def _share(limit: Limit, latency: Interval, ratio: Interval) -> float:
    """A timing as a share of its limit: paired with the original where the limit is relative."""
    value = ratio.median if limit.relative else latency.median
    return value / (limit.value * (1.0 + TOLERANCE))


def _none_holds(context: SearchContext, rows: Sequence[Timed]) -> InfeasibleError:
    nearest = min(rows, key=lambda row: row.ratio.median)
    limits = ", ".join(str(limit) for limit in latency_limits(context))
    return InfeasibleError(
        f"none of {len(rows)} plans is within latency <= {limits} when the whole model is timed; "
        f'the nearest is "{nearest.plan}": measured '
        f"{format_quantity(nearest.latency_s.median, 's')}, "
        f"{nearest.ratio.median:.3f}x of the original, predicted "
        f"{nearest.predicted_ratio:.3f}x",
        hint="raise the limit to that; or profile the machine again with more --rounds, while it "
        "does nothing else",
    )
