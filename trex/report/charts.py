"""What the page's figures show: numbers only, drawn by `drawing`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
from scipy.stats import spearmanr

from trex.hardware import Cost
from trex.plan import Plan
from trex.report.costs import Priced
from trex.report.facts import Facts, Pairs
from trex.report.published import RESILIENCE, PaperPoint
from trex.search.pareto import pareto_front
from trex.store.record import Record
from trex.units import format_quantity

#: Parts below this share of every quantity are drawn together.
_SMALL: Final = 0.02

QUANTITIES: Final = (
    ("latency_s", "latency", "s"),
    ("energy_j", "energy", "J"),
    ("area_m2", "area", "m2"),
)


class Points(NamedTuple):
    """Candidates as points.

    Attributes:
        hover: what a pointer is told, a text a point.
        front: positions on the front, in the order they are joined.
        best: the winner's position.
        limit: where the budget's line stands on x, or None.
        paper: (x, y, hover) of published results.
    """

    title: str
    x_label: str
    y_label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    hover: tuple[str, ...]
    front: tuple[int, ...]
    best: int
    log: bool
    limit: float | None = None
    paper: tuple[tuple[float, float, str], ...] = ()


class Stack(NamedTuple):
    """One quantity of the original and of the winner, part by part.

    Attributes:
        parts: (name, before, after), in the same order in every stack of a figure.
    """

    quantity: str
    unit: str
    parts: tuple[tuple[str, float, float], ...]


class Stacks(NamedTuple):
    """Latency, energy and area, by stage or by component."""

    title: str
    stacks: tuple[Stack, ...]


class Predictions(NamedTuple):
    """The surrogate beside what was measured; `rank` is Spearman's correlation."""

    title: str
    predicted: tuple[float, ...]
    measured: tuple[float, ...]
    hover: tuple[str, ...]
    best: int
    rank: float | None


class HeatMap(NamedTuple):
    """Losses of single consumers on the diagonal, what pairs lose beyond them above it."""

    title: str
    values: tuple[tuple[float, ...], ...]
    chosen: tuple[int, ...]


class Curve(NamedTuple):
    """A model's plans by what they save, the least first.

    Attributes:
        x: saved, percent of the original's.
        y: lost, points.
        hover: what a pointer is told, a text a point.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    hover: tuple[str, ...]


class Panel(NamedTuple):
    """Curves over one quantity's savings.

    Attributes:
        published: (saved, lost, what it is) of published results of other models.
    """

    x_label: str
    curves: tuple[Curve, ...]
    published: tuple[tuple[float, float, str], ...] = ()


class Resilience(NamedTuple):
    """What untrained plans of growing savings lose: a panel for energy, one for latency."""

    title: str
    y_label: str
    panels: tuple[Panel, ...]


def loss_front(facts: Facts) -> Points:
    """Loss against EDAP gain, or against how much faster on a measured machine."""
    found, original = facts.candidates, facts.baseline
    limit = dict(facts.limits).get("latency" if facts.on_machine else "edap")
    own = original.latency_s
    if original.energy_j is not None and original.area_m2 is not None:
        own *= original.energy_j * original.area_m2
    return Points(
        title=facts.subject,
        x_label=f"{facts.gain_name} over the original ({facts.basis})",
        y_label="loss, nats an image (measured)",
        x=tuple(map(facts.gain, found)),
        y=tuple(c.selection.loss for c in found),
        hover=tuple(_hover(facts, c) for c in found),
        front=facts.front,
        best=facts.winner,
        log=True,
        limit=own / limit if limit else None,
    )


def top1_front(facts: Facts, paper: tuple[PaperPoint, ...] = ()) -> Points | None:
    """Top-1 points lost against EDAP gain; None without labels."""
    losses = []
    for c in facts.candidates:
        if c.selection.top1 is None or c.selection.baseline_top1 is None:
            return None
        losses.append(100 * (c.selection.baseline_top1 - c.selection.top1))
    points = loss_front(facts)
    return points._replace(
        y_label="top-1 lost, points (measured, untrained)",
        y=tuple(losses),
        log=False,
        paper=tuple(
            (p.edap_gain, p.top1_lost,
             f"{p.name}, TReX paper, trained: EDAP {p.edap_gain:.2f}x lower, "
             f"{p.top1_lost:.1f} points lost (published)")
            for p in paper
        ),
    )  # fmt: skip


def resilience(runs: Sequence[Facts]) -> Resilience | None:
    """Accuracy lost against energy and latency saved, without training, a curve a model.

    Runs of one model, device and accounting make one curve: of all their candidates those that
    none beats in both. None where no candidate saves anything, or nobody knows its energy.

    Args:
        runs: labelled ones, or else all are compared by agreement; on measured machines, whose
            energy is unknown, they are left out.
    """
    runs = [facts for facts in runs if not facts.on_machine]
    labelled = all(
        c.selection.top1 is not None and c.selection.baseline_top1 is not None
        for facts in runs
        for c in facts.candidates
    )
    groups: dict[str, list[Facts]] = {}
    for facts in runs:
        groups.setdefault(facts.subject, []).append(facts)
    panels = []
    for field, quantity in (("energy_j", "energy"), ("latency_s", "latency")):
        curves = [_curve(name, of, field, labelled) for name, of in groups.items()]
        known = tuple(
            (of.energy_saved, of.top1_lost, f"{of.name}: {of.source} (published)")
            for of in RESILIENCE
        )
        panels.append(
            Panel(
                x_label=f"{quantity} saved, % (estimate)",
                curves=tuple(curve for curve in curves if len(curve.x) > 1),
                published=known if labelled and quantity == "energy" else (),
            )
        )
    if not any(panel.curves for panel in panels):
        return None
    return Resilience(
        title=next(iter(groups)) if len(groups) == 1 else "models by what they save, untrained",
        y_label="top-1 lost, points (measured, untrained)"
        if labelled
        else "first guesses changed, points (measured, untrained)",
        panels=tuple(panels),
    )


def _curve(name: str, runs: Sequence[Facts], field: str, labelled: bool) -> Curve:
    """The original, and the plans that none beats in what they save and lose."""
    points = [(0.0, 0.0, "original")]
    for facts in runs:
        for c in facts.candidates:
            saved = 100 * (1 - getattr(c.estimate, field) / getattr(facts.baseline, field))
            lost = _lost(c, labelled)
            points.append((saved, lost, _hover(facts, c)))
    objectives = np.array([[-saved, lost] for saved, lost, _ in points])
    kept = [points[i] for i in reversed(pareto_front(objectives)) if points[i][0] >= 0]
    if kept and kept[0][0] > 0:
        kept = [points[0], *kept]
    x, y, hover = zip(*kept, strict=True)
    return Curve(name, x, y, hover)


def _lost(c: Record, labelled: bool) -> float:
    measured = c.selection
    if labelled and measured.top1 is not None and measured.baseline_top1 is not None:
        return 100 * (measured.baseline_top1 - measured.top1)
    return 100 * (1 - measured.agreement)


def limit_fronts(facts: Facts) -> list[Points]:
    """Loss against every limited quantity but EDAP, with the budget's line."""
    drawn = []
    points = loss_front(facts)
    for field, quantity, _ in QUANTITIES:
        limit = dict(facts.limits).get(quantity)  # type: ignore[call-overload]
        if limit is None:
            continue
        scale, unit = _scale(field, limit)
        drawn.append(
            points._replace(
                x=tuple(getattr(c.estimate, field) * scale for c in facts.candidates),
                x_label=f"{quantity}, {unit} ({facts.basis})",
                limit=limit * scale,
            )
        )
    return drawn


def stacks(facts: Facts, priced: Priced, by: str) -> Stacks:
    """Where everything goes before and after, `by` stage or component."""

    def groups(cost: Cost) -> dict[str, tuple[float, ...]]:
        sums = cost.by_stage() if by == "stage" else cost.by_component()
        return {n: tuple(getattr(s, field) for field, _, _ in QUANTITIES) for n, s in sums.items()}

    before, after = groups(priced.before), groups(priced.after)
    names = list(dict.fromkeys([*before, *after]))
    zero = (0.0,) * len(QUANTITIES)
    totals = [sum(parts[q] for parts in before.values()) for q in range(len(QUANTITIES))]
    large = [
        name
        for name in names
        if any(
            max(before.get(name, zero)[q], after.get(name, zero)[q]) > _SMALL * totals[q]
            for q in range(len(QUANTITIES))
        )
    ]
    drawn = []
    for q, (_, quantity, unit) in enumerate(QUANTITIES):
        parts = [(n, before.get(n, zero)[q], after.get(n, zero)[q]) for n in large]
        rest = [n for n in names if n not in large]
        if rest:
            sums = (sum(side.get(n, zero)[q] for n in rest) for side in (before, after))
            parts.append(("other", *sums))  # type: ignore[arg-type]
        drawn.append(Stack(quantity, unit, tuple(parts)))
    subject = replace(facts, accounting=priced.accounting).subject
    return Stacks(f"{subject}, by {by}", tuple(drawn))


def predictions(facts: Facts) -> Predictions | None:
    """Predicted against measured losses; None with fewer than three to compare."""
    known = [
        (i, c, c.predicted_loss)
        for i, c in enumerate(facts.candidates)
        if c.predicted_loss is not None and np.isfinite(c.predicted_loss)
    ]
    positions = [i for i, _, _ in known]
    if len(known) < 3 or facts.winner not in positions:
        return None
    predicted = tuple(p for _, _, p in known)
    measured = tuple(c.selection.loss for _, c, _ in known)
    varied = len(set(predicted)) > 1 and len(set(measured)) > 1
    return Predictions(
        title=facts.subject,
        predicted=predicted,
        measured=measured,
        hover=tuple(
            f"{c.plan or 'no reuse'}: predicted {p:.4f}, measured {c.selection.loss:.4f} nats"
            for _, c, p in known
        ),
        best=positions.index(facts.winner),
        rank=float(spearmanr(predicted, measured).statistic) if varied else None,
    )


def heat_map(facts: Facts, pairs: Pairs) -> HeatMap:
    """Why this plan: what single consumers and pairs of them lose."""
    values = np.array(pairs.interaction, dtype=float)
    values[np.tril_indices(len(values), -1)] = np.nan
    np.fill_diagonal(values, pairs.single)
    chosen = Plan.parse(facts.best.plan).consumers
    return HeatMap(f"{facts.subject}; {pairs.form}", tuple(map(tuple, values.tolist())), chosen)


def _hover(facts: Facts, c: Record) -> str:
    top1, cost = c.selection.top1, c.estimate
    costs = [format_quantity(cost.latency_s, "s")]
    if cost.energy_j is not None and cost.area_m2 is not None:
        costs += [format_quantity(cost.energy_j, "J"), format_quantity(cost.area_m2, "m2")]
    lower = "latency" if facts.on_machine else "EDAP"
    return (
        f"{c.plan or 'no reuse'}\n"
        f"{lower} {facts.gain(c):.2f}x lower, {', '.join(costs)} ({facts.by})\n"
        f"measured: loss {c.selection.loss:.4f}"
        + (f", top-1 {100 * top1:.1f} %" if top1 is not None else "")
    )


def _scale(field: str, limit: float) -> tuple[float, str]:
    """What SI values are multiplied by to be read, and the unit they then have."""
    if field == "area_m2":
        return 1e6, "mm²"
    unit = "s" if field == "latency_s" else "J"
    exponent = -3 * int(np.floor(np.log10(limit) / 3))
    prefix = {0: "", 3: "m", 6: "µ", 9: "n", 12: "p"}.get(exponent)
    return (1.0, unit) if prefix is None else (10.0**exponent, f"{prefix}{unit}")
