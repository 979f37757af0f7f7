"""Real machines in a report: finalists timed whole, plans priced by a device, `trex bench`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from trex.errors import RunError
from trex.files import parse_json
from trex.hardware import MeasuredDevice, workload
from trex.plan import Plan
from trex.report.facts import Facts
from trex.report.tables import Row, count, percent, points, setting_words
from trex.store.fields import read_fields
from trex.store.operations import stored_architecture
from trex.store.run import Run
from trex.store.schemas import Bench
from trex.units import significant


class Table(NamedTuple):
    """A table of the page.

    Attributes:
        rows: each with whether it is the best plan's.
        note: what it is of, in words.
    """

    title: str
    head: Row
    rows: tuple[tuple[bool, Row], ...]
    note: str


def timed_table(facts: Facts) -> Table | None:
    """Finalists timed whole by the search; None where there are none."""
    timings = facts.timings
    if timings is None:
        return None
    over = timings.passed_over
    note = f"Every plan in turns with the original: {setting_words(timings)}."
    if over:
        note += (
            f" {count(len(over), 'plan')} that would lose less took longer than the limit allows, "
            "and the next was chosen."
        )
    rows = tuple(
        (
            row.key == timings.chosen,
            (
                row.plan or "no reuse",
                f"{row.predicted_ratio:.3f}",
                f"{row.ratio.median:.3f}",
                f"{row.ratio.low:.3f} to {row.ratio.high:.3f}",
                significant(row.latency_s.median * 1e3),
                "holds" if row.holds else "over",
            ),
        )
        for row in timings.rows
    )
    head = (
        "plan", "latency ratio (predicted)", "latency ratio (measured)", "95 % (measured)",
        "latency ms (measured)", "limit",
    )  # fmt: skip
    return Table(f"Timed whole on {timings.device}", head, rows, note)


def priced_table(facts: Facts, device: MeasuredDevice) -> Table:
    """The original and the best plan on a measured machine: latencies predicted by it.

    Raises:
        ChipError: it was measured with another model.
    """
    model = stored_architecture(Run(facts.path))
    if model is None:
        from trex.models.registry import architecture

        model = architecture(facts.model, **facts.manifest.settings.model_args.as_json())
    original = device.latency_s(workload(model))
    best = device.latency_s(workload(model, Plan.parse(facts.best.plan)))
    rows = tuple(
        (of is best, (name, significant(of * 1e3), f"{of / original:.3f}"))
        for name, of in (("original", original), (facts.best.plan or "no reuse", best))
    )
    profile = device.profile
    note = "" if device.tells_apart(best, original) else ", so these two are not told apart"
    return Table(
        f"On {device.name}",
        ("plan", f"latency ms (predicted, {device.name})", "latency ratio (predicted)"),
        rows,
        f"A measured machine: {profile.runtime}, {profile.dtype}, batch {profile.batch}, "
        f"{count(profile.threads, 'thread')}. Its spread is {100 * device.spread:.1f} %{note}. "
        "Energy and area: nobody measured them.",
    )


def read_bench(file: Path) -> Bench:
    """What `trex bench --out` wrote.

    Raises:
        RunError: it is missing, damaged, or something else.
    """
    hint = "write it with trex bench RUN --out FILE"
    try:
        found = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{file} cannot be read: {error}", hint=hint) from None
    return read_fields(Bench, found, file, RunError, hint)


def bench_tables(runs: Sequence[Facts], files: Sequence[Path]) -> dict[str, tuple[Table, ...]]:
    """What was timed beside accuracy, by the names of the runs that it is of.

    Raises:
        RunError: a file is damaged, or is of none of the runs.
    """
    found: dict[str, list[Table]] = {facts.name: [] for facts in runs}
    for file in files:
        timed = read_bench(file)
        of = [facts for facts in runs if _is_of(timed, facts)]
        if not of:
            raise RunError(
                f"{file} timed the best plan of none of the runs",
                hint="time it beside the others: trex bench RUN MODEL --out FILE",
            )
        for facts in of:
            found[facts.name].append(_bench_table(timed, facts))
    return {name: tuple(tables) for name, tables in found.items()}


def _is_of(timed: Bench, facts: Facts) -> bool:
    best = facts.model, facts.best.plan
    return any((timed.models.get(name), plan) == best for name, plan in timed.plans.items())


def _bench_table(timed: Bench, facts: Facts) -> Table:
    rows = []
    for row in timed.rows:
        name = row.variant
        model, plan = timed.models.get(name), timed.plans.get(name, "")
        best = (model, plan) == (facts.model, facts.best.plan)
        low, high = row.speedup.low, row.speedup.high
        cells = (
            name,
            row.runtime,
            row.dtype,
            str(row.batch),
            significant(row.latency_s.median * 1e3),
            f"{row.images_per_second:.1f}",
            f"{row.speedup.median:.2f}x ({low:.2f} to {high:.2f})",
            *_accuracy(facts, row.dtype, best, original=model == facts.model and not plan),
        )
        rows.append((best, cells))
    first = timed.rows[0]
    head = (
        "variant", "runtime", "type", "batch", "latency ms (measured)",
        "images/s (measured)", "faster (measured)", "top-1 % (measured)",
        "points (measured)",
    )  # fmt: skip
    where = ", ".join(str(value) for value in timed.machine.values())
    return Table(
        "Timed with trex bench",
        head,
        tuple(rows),
        f"{where}; {timed.device}, {count(timed.threads, 'thread')}, {timed.rounds} "
        f"rounds, {timed.clock} time; 95 % intervals. Faster: than {first.variant} in "
        f"{first.runtime}, {first.dtype}, at the same batch. Accuracies are of this run, "
        "in float; those of int8 are told by trex export --int8.",
    )


def _accuracy(facts: Facts, dtype: str, best: bool, *, original: bool) -> tuple[str, str]:
    """Top-1 and points, where the run measured them of this very variant in this type."""
    found = facts.evaluation
    if found is None or dtype == "int8" or not (best or original):
        return "-", "-"
    if original:
        return percent(found.baseline_top1), "-"
    return percent(found.top1), points(found.difference)
