"""Text tables for people, at most 100 columns wide."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Final

from trex.report.sketch import front_sketch
from trex.search.agreement import Agreement
from trex.store.record import Estimate
from trex.store.schemas import (
    Budgets,
    ChosenTimings,
    Counts,
    Evaluation,
    NonIdeal,
    Proof,
    Short,
    Summary,
    Timings,
    TunedSummary,
)
from trex.units import significant

Row = Sequence[str]


def aligned(head: Row, rows: Sequence[Row], left: Sequence[int] = (0,)) -> list[str]:
    """Lines of a table; the columns `left` stand left, the others right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]

    def line(row: Row) -> str:
        cells = [
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return [line(head), "-" * (sum(widths) + 2 * (len(widths) - 1)), *map(line, rows)]


def shortened(text: str, width: int) -> str:
    """At most `width` characters: of a longer text both ends, since names differ in tails."""
    if len(text) <= width:
        return text
    head = (width - 3) // 3
    return f"{text[:head]}...{text[len(text) - (width - 3 - head) :]}"


def count(number: int, name: str) -> str:
    """`1 plan`, `2 plans`."""
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def percent(fraction: float | None, digits: int = 1) -> str:
    """A fraction in percent; a dash where there is none."""
    return "-" if fraction is None else f"{100 * fraction:.{digits}f}"


def points(fraction: float) -> str:
    """A difference of fractions in percentage points."""
    return f"{100 * fraction:+.1f}"


#: of a plan that is
FAR: Final = "this is far from the original; give more room, more images, or train it"

#: of a search's table: what the other columns leave of it is the plan's
_WIDTH: Final = 100


def search_table(result: Summary) -> list[str]:
    """The answer of a search."""
    baseline, best = result.baseline, result.best
    counts, selection = result.candidates, best.selection
    unit, tuned = _unit(best), result.finetuned
    shown = result.pareto
    if not any(_is(record, best) for record in shown):
        shown = [*shown, best]
    head = ("", "reuse", *_cost_head(baseline), "loss", "agree %", "top-1 %", "plan")
    original = ("", "0", *_costs(baseline, baseline), "0", "100.0",
                percent(selection.baseline_top1), "no reuse")  # fmt: skip
    front = result.front
    knee = front.knee
    marks = [
        "*" * _is(record, best) + "k" * (knee is not None and _is(record, knee))
        for record in shown
    ]
    rows = [_plan_row(record, baseline, mark) for record, mark in zip(shown, marks, strict=True)]
    table = _last_cut(head, [original, *rows])
    return [
        f"{_where(result)}, budget {result.budget}",
        f"{counts.space:,} plans, {_feasible(counts)}, {counts.evaluated} fitted and measured",
        "",
        *aligned(head, table, left=(0, len(head) - 1)),
        "",
        *_cost_lines(baseline, "* the best plan found. ", "ms, uJ, mm2 and EDAP gain"),
        f"  loss (KL from the original, nats), agreement and top-1 are measured on "
        f"{selection.n} {unit}",
        "  that were not fitted on, without any training.",
        *best_lines(result),
        *_fit_lines(result),
        *_producers_lines(result),
        *(
            [
                f"k the knee, where {'latency' if baseline.on_machine else 'EDAP'} over loss "
                f"bends most: {knee.plan or 'no reuse'}"
            ]
            if knee
            else []
        ),
        f"front of accuracy, latency{'' if baseline.on_machine else ', energy and area'}: "
        f"{count(len(front.points), 'plan')}, hypervolume {front.hypervolume:.3f}",
        *_proof_lines(result.proof),
        *(["", *timing_lines(result.timings)] if result.timings else []),
        *(["", *sketch] if (sketch := front_sketch(result)) else []),
        *(["", *evaluation_lines(best.plan, best.evaluation)] if best.evaluation else []),
        *(["", *_finetuned_lines(tuned)] if tuned else []),
        *_whole_plan_lines(best, table),
        "",
        *_spent_lines(result),
        f"run folder: {result.run} (the best plan is in {result.run}/best)",
        *([f"fine-tuned: {result.run}/finetuned"] if tuned else []),
    ]


def _spent_lines(result: Summary) -> list[str]:
    """The share of time that each step took, of this command's, and what passed encoders."""
    spent = {step: seconds for step, seconds in result.spent.items() if seconds}
    whole = sum(spent.values())
    if not whole:
        return []
    shares = ", ".join(f"{step} {seconds / whole:.0%}" for step, seconds in spent.items())
    lines = [f"time: {shares} of {whole:.0f} s"]
    if passes := {step: of for step, of in result.passes.items() if of}:
        counts = ", ".join(f"{step} {of:,}" for step, of in passes.items())
        lines.append(f"images x encoders passed: {counts}")
    return [part for line in lines for part in textwrap.wrap(line, 98, subsequent_indent="  ")]


def budgets_table(budgets: Budgets) -> list[str]:
    """The answer of several searches: the best plan of each, and the cheapest that will do."""
    first = budgets.searches[0]
    baseline = first.baseline
    head = ("", "limit", *_price_head(baseline), "loss", "agree %", "top-1 %", "plan")
    rows = []
    for result in budgets.searches:
        best, measured = result.best, result.best.last
        rows.append(
            (
                "*" * (result.limit == budgets.chosen),
                result.limit,
                *_prices(best.estimate, result.baseline),
                f"{measured.loss:.4f}",
                percent(measured.agreement),
                percent(measured.top1),
                best.plan or "no reuse",
            )
        )
    lines = [
        f"{_where(first)}, {budgets.minimized} limited",
        "",
        *aligned(head, _last_cut(head, rows), left=(0, 1, len(head) - 1)),
        "",
        *_cost_lines(baseline, "", "ms, latency and EDAP gain"),
        f"loss, agreement and top-1 are measured on {first.best.last.n} images that were not "
        "fitted on, without any training.",
    ]
    if budgets.max_drop is not None:
        lines.append(
            f"* the cheapest that loses at most {budgets.max_drop:g} points on these images."
            if budgets.chosen
            else f"None loses at most {budgets.max_drop:g} points on these images."
        )
    for result in budgets.searches:
        if result.timings:
            lines += ["", f"{result.limit}:", *timing_lines(result.timings)]
        if evaluation := result.best.evaluation:
            lines += ["", f"{result.limit}:", *evaluation_lines(result.best.plan, evaluation)]
    return [*lines, "", f"run folders: {', '.join(r.run for r in budgets.searches)}"]


def fit_table(result: Summary) -> list[str]:
    """The answer of a fit of given plans."""
    baseline, trimmed = result.baseline, result.baseline_without_dead_rows
    best, plans = result.best, result.plans or []
    selection, unit = best.selection, _unit(best)
    head = ("", "ms", "latency", "EDAP gain", "loss", "agree %", "top-1 %", "plan")
    rows = [
        ("", *_prices(baseline, baseline), "0", "100.0",
         percent(selection.baseline_top1), "the original")
    ]  # fmt: skip
    if trimmed is not None:
        rows.append(("", *_prices(trimmed, baseline), "0", "100.0",
                     percent(selection.baseline_top1), "without dead rows"))  # fmt: skip
    rows += [
        (
            "*" * (len(plans) > 1 and _is(record, best)),
            *_prices(record.estimate, baseline),
            f"{record.selection.loss:.4f}",
            percent(record.selection.agreement),
            percent(record.selection.top1),
            record.plan,
        )
        for record in plans
    ]
    return [
        _where(result),
        f"{count(len(plans), 'plan')}, fitted and measured",
        "",
        *aligned(head, _last_cut(head, rows), left=(0, 7)),
        "",
        *_cost_lines(baseline, "", "ms, latency and EDAP gain"),
        f"loss (KL from the original, nats), agreement and top-1 are measured on "
        f"{selection.n} {unit}",
        "that were not fitted on, without any training.",
        *_best_given_lines(result),
        *_fit_lines(result),
        *_producers_lines(result),
        *(["", *evaluation_lines(best.plan, best.evaluation)] if best.evaluation else []),
        "",
        f"run folder: {result.run} ({'the best' if len(plans) > 1 else 'the variant'} is in "
        f"{result.run}/best)",
    ]


def best_lines(result: Summary) -> list[str]:
    """By what the best plan is chosen, and how near it is to the original."""
    best, tuned = result.best, result.finetuned
    measured = tuned.measured if tuned else best.last
    when = " after refining" if best.refined else ""
    when = f" after training on {tuned.images:,} images" if tuned else when
    near = agreement_lines(Agreement.of(measured), _unit(best))
    timings = result.timings
    among = ", of those that hold the limit" if timings and timings.passed_over else ""
    if result.ranked_on == "loss":
        return [f"  It has the least loss, {measured.loss:.4g}{when}{among}.", *near]
    agreement = percent(measured.soft_agreement)
    return [
        f"  It has the most soft agreement, {agreement} %{when}{among}:",
        "  how surely it gives the original's first guess.",
        *near,
    ]


def _unit(best: Short) -> str:
    """What was measured on."""
    return best.evaluation.unit if best.evaluation else "images"


def agreement_lines(agreement: Agreement, unit: str) -> list[str]:
    """How near the best plan is to the original; a warning where it is far."""
    lines = [f"  It gives the original's first guess for {agreement} of {agreement.n} {unit}."]
    return [*lines, f"  Warning: {FAR}"] if agreement.far else lines


def _fit_lines(result: Summary) -> list[str]:
    """How plans were fitted."""
    fit = result.fit
    if fit is None or not result.best.n_reuse:  # of version 0.1, or nothing to fit
        return []
    if fit.shrink == 0:
        return ["fitted: share 0 of the solved step, since no other share lost less on images"]
    return [
        f"fitted: share {fit.shrink:g} of the solved step, drift {fit.drift:g}, class "
        f"tokens weighing {fit.class_weight:g},",
        f"  penalty {fit.ridge:g}, producers' share {fit.producers or 0:g}",
    ]


def _producers_lines(result: Summary) -> list[str]:
    """What solving for producers brought the best plan."""
    tried = {float(share): loss for share, loss in result.producers.items()}
    best = min(tried, key=lambda share: (tried[share], share), default=0.0)
    if not tried:
        return []
    kept = f"share {best:g} of the solved step" if best else "as they are"
    losses = ", ".join(f"{loss:.4g} at {share:g}" for share, loss in sorted(tried.items()))
    return [
        f"the best plan's producers behind its first change: {kept}",
        f"  (loss {losses})",
    ]


def _finetuned_lines(tuned: TunedSummary) -> list[str]:
    """The winner after its short training."""
    measured = tuned.measured
    lines = [
        f"fine-tuned on {tuned.images:,} images, from the {measured.start or 'fitted'} best plan "
        "of the selection:",
        f"  loss {measured.loss:.4g}, agreement {Agreement.of(measured)}, "
        f"top-1 {percent(measured.top1)} % on the same {measured.n} images",
    ]
    if tuned.evaluation:
        lines += evaluation_lines(tuned.plan, tuned.evaluation)
    return lines


def _feasible(counts: Counts) -> str:
    if counts.feasible is None:
        return "too many to list"
    return f"{counts.feasible:,} within the budget"


def _proof_lines(proof: Proof | None) -> list[str]:
    """How sure it is that no plan is predicted to lose less."""
    if proof is None:
        return []
    if proof.proved:
        return [f"no plan within the budget is predicted to lose less (proved by {proof.method})"]
    if proof.predicted_loss is None or proof.bound is None:
        return [f"whether another plan is predicted to lose less is not known ({proof.method})"]
    return [
        f"least predicted loss {proof.predicted_loss:.4g}, proved to be at least "
        f"{proof.bound:.4g} ({proof.method})"
    ]


def evaluation_lines(plan: str, measured: Evaluation) -> list[str]:
    """A paired measurement in words."""
    low, high = measured.ci95
    skipped = f", {measured.skipped} unreadable ones left out" if measured.skipped else ""
    # of two classes, two guesses are always enough
    two_classes, unit = measured.matthews is not None, measured.unit

    def row(
        name: str,
        top1: float | None,
        top5: float | None,
        matthews: float | None,
        speed: float | None,
    ) -> Row:
        second = f"{matthews:.3f}" if matthews is not None else percent(top5)
        return name, percent(top1), second, "-" if speed is None else f"{speed:.1f}"

    rows = [
        row("original", measured.baseline_top1, measured.baseline_top5,
            measured.baseline_matthews, measured.baseline_images_per_second),
        row("variant", measured.top1, measured.top5, measured.matthews,
            measured.images_per_second),
    ]  # fmt: skip
    second = "Matthews" if two_classes else "top-5 %"
    p_value = "-" if measured.p_value is None else f"{measured.p_value:.2g}"
    return [
        f"measured on {measured.n} {unit} of {measured.data}{skipped}: {plan or 'no reuse'}",
        *aligned(("", "top-1 %", second, f"{unit}/s"), rows),
        f"difference {points(measured.difference)} points, 95 % interval {points(low)} to "
        f"{points(high)} (paired bootstrap), McNemar p = {p_value}",
        *_nearness_lines(measured),
        *(_non_ideal_lines(measured.non_ideal) if measured.non_ideal else []),
    ]


def _nearness_lines(measured: Evaluation) -> list[str]:
    """How near a variant's answers are to the original's, which takes no labels."""
    if measured.agreement is None or measured.mean_kl is None:
        return []  # of an earlier version
    return [
        f"the same first guess in {percent(measured.agreement)} % of them, "
        f"KL from the original {measured.mean_kl:.4f} nats"
    ]


def _non_ideal_lines(noisy: NonIdeal) -> list[str]:
    """Accuracies with a chip's errors."""
    rows = [
        ("original", percent(noisy.baseline_top1), percent(noisy.baseline_top1_std)),
        ("variant", percent(noisy.top1), percent(noisy.top1_std)),
    ]
    return [
        "",
        f"on {noisy.draws} instances of {noisy.chip}, {noisy.mode} mode, errors and all:",
        *aligned(("", "top-1 %", "spread"), rows),
    ]


def _is(record: Short, other: Short) -> bool:
    """Whether two records are of one plan."""
    return record.plan == other.plan


def _plan_row(record: Short, baseline: Estimate, mark: str) -> Row:
    selection = record.selection
    return (
        mark,
        str(record.n_reuse),
        *_costs(record.estimate, baseline),
        f"{selection.loss:.4f}",
        percent(selection.agreement),
        percent(selection.top1),
        record.plan or "no reuse",
    )


def _last_cut(head: Row, rows: Sequence[Row]) -> list[Row]:
    """Rows whose last cells are cut where the table would be wider than it may be."""
    others = (max(len(row[i]) for row in (head, *rows)) + 2 for i in range(len(head) - 1))
    room = _WIDTH - sum(others)
    return [
        (*row[:-1], row[-1] if len(row[-1]) <= room else row[-1][: room - 3] + "...")
        for row in rows
    ]


def _whole_plan_lines(best: Short, table: Sequence[Row]) -> list[str]:
    """The best plan, where the table cuts it."""
    if (best.plan or "no reuse") in [row[-1] for row in table]:
        return []
    return ["", *textwrap.wrap(f"the best plan: {best.plan}", _WIDTH, subsequent_indent="  ")]


def where(model: str, device: str, price: Estimate) -> str:
    """The model, the device and what its prices are of."""
    if price.on_machine:
        return f"{model} on {device}, a measured machine"
    return f"{model} on {device}, {price.accounting} accounting"


def _where(result: Summary) -> str:
    return where(result.model, result.chip, result.baseline)


def timing_lines(timings: ChosenTimings) -> list[str]:
    """Finalists timed whole on a measured machine: predicted against measured."""
    head = ("", "predicted", "measured", "95 % interval", "ms", "limit", "plan")
    rows = [
        (
            "*" * (row.key == timings.chosen),
            f"{row.predicted_ratio:.3f}x",
            f"{row.ratio.median:.3f}x",
            f"{row.ratio.low:.3f}-{row.ratio.high:.3f}",
            significant(row.latency_s.median * 1e3),
            "holds" if row.holds else "over",
            row.plan or "no reuse",
        )
        for row in timings.rows
    ]
    over = timings.passed_over
    return [
        "timed whole on this machine, in turns with the original:",
        f"  {setting_words(timings)}",
        *aligned(head, _last_cut(head, rows), left=(0, 5, 6)),
        *(
            [f"* the best of those that hold the limit; passed over: {count(len(over), 'plan')} "
             "that would lose less."]
            if over else []
        ),
    ]  # fmt: skip


def setting_words(timings: Timings) -> str:
    """How a machine ran."""
    return (
        f"{timings.runtime}, {timings.dtype}, batch {timings.batch}, "
        f"{count(timings.threads, 'thread')}, {timings.rounds} rounds, {timings.clock} time"
    )


def _cost_head(price: Estimate) -> Row:
    """Of `_costs`."""
    if price.on_machine:
        return "ms", "faster"
    return "ms", "uJ", "mm2", "EDAP gain"


def _cost_lines(price: Estimate, before: str, names: str) -> list[str]:
    """What columns of costs are; `names`: of a chip's."""
    if price.spread is None:
        return [f"{before}{names} are estimates ({price.accounting} accounting)."]
    return [
        f"{before}Latencies are predicted by the measured machine; plans closer than",
        f"  its spread, {100 * price.spread:.1f} %, are not ranked by latency.",
    ]


def _price_head(price: Estimate) -> Row:
    """Of `_prices`."""
    return "ms", "latency", "faster" if price.on_machine else "EDAP gain"


def _prices(estimate: Estimate, baseline: Estimate) -> tuple[str, str, str]:
    """Latency in ms and as a share of the original's, and the EDAP gain or how much faster."""
    milliseconds, *_, gain = _costs(estimate, baseline)
    return milliseconds, f"{estimate.latency_s / baseline.latency_s:.3f}x", gain


def _best_given_lines(result: Summary) -> list[str]:
    """Which of some given plans is the best, and how near it is to the original."""
    measured = result.best.last
    lines = []
    if len(result.plans or ()) > 1:
        lines = [
            "* the best of them: most soft agreement with the original, "
            f"{percent(measured.soft_agreement)} %, whatever it costs."
        ]
    return lines + agreement_lines(Agreement.of(measured), _unit(result.best))


def _costs(estimate: Estimate, baseline: Estimate) -> tuple[str, ...]:
    gain = f"{baseline.overall / estimate.overall:.2f}"
    if estimate.energy_j is None or estimate.area_m2 is None:
        return significant(estimate.latency_s * 1e3), gain
    return (
        significant(estimate.latency_s * 1e3),
        significant(estimate.energy_j * 1e6),
        significant(estimate.area_m2 * 1e6),
        gain,
    )
