"""`trex report`'s folder: one self-contained page, its figures and its tables."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from trex.errors import StorageError
from trex.files import make_folder, write_atomic
from trex.hardware import MeasuredDevice
from trex.report import charts, drawing, measured_charts, measured_drawing
from trex.report.costs import Prices, prices
from trex.report.exports import (
    candidate_rows,
    cost_rows,
    part_rows,
    shown_columns,
    write_table,
)
from trex.report.facts import Facts
from trex.report.figures import draw_plan, plan_span
from trex.report.fits import HEAD, cells, fits_in_words
from trex.report.machines import Table, bench_tables, priced_table, timed_table
from trex.report.plans import PlanPicture, plan_in_words, plan_numbers, tokens_in_words
from trex.report.published import paper_points
from trex.report.tables import percent, points
from trex.units import format_quantity

PAGE = "index.html"

#: The page lists this many of the front's plans; the CSV file holds all candidates.
_MOST_ROWS = 24


class ShownFigure(NamedTuple):
    """A figure on the page: its SVG, what it shows in words, and the file's name."""

    svg: str
    caption: str
    name: str


class Written(NamedTuple):
    """What was written."""

    page: Path
    files: tuple[Path, ...]


def write_report(
    runs: Sequence[Facts],
    out: Path,
    *,
    device: MeasuredDevice | None = None,
    benches: Sequence[Path] = (),
) -> Written:
    """Write the page, its figures and its tables.

    Args:
        runs: what it tells of.
        out: where to.
        device: a measured machine, on which the best plans are priced too.
        benches: what `trex bench` wrote of these runs' best plans and whatever else.

    Raises:
        RunError: a bench is damaged, or of none of the runs.
        ChipError: the machine was measured with another model.
        StorageError: the folder cannot be written.
    """
    timed = bench_tables(runs, benches)
    tables = {facts.name: [*_machine_tables(facts, device), *timed[facts.name]] for facts in runs}
    for folder in (out, out / "figures", out / "tables"):
        make_folder(folder)
    try:
        files: list[Path] = []
        sections = [_section(facts, tables[facts.name], out, files) for facts in runs]
        compared = _compared(runs, out, files) if len(runs) > 1 else []
    except OSError as error:
        raise StorageError(
            f"{out} cannot be written: {error.strerror or error}", hint="choose another --out"
        ) from error
    page = out / PAGE
    write_atomic(page, rendered("page.html", sections=sections, compared=compared))
    return Written(page, tuple(files))


def rendered(template: str, **values: object) -> str:
    """A page of a template under `templates/`."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("trex.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.filters["points"] = points
    environment.filters["quantity"] = format_quantity
    return environment.get_template(template).render(**values)


def _machine_tables(facts: Facts, device: MeasuredDevice | None) -> list[Table]:
    """What real machines took, or are predicted to."""
    timed = timed_table(facts)
    tables = [] if timed is None else [timed]
    return tables if device is None else [*tables, priced_table(facts, device)]


def _section(
    facts: Facts, machines: Sequence[Table], out: Path, files: list[Path]
) -> dict[str, object]:
    """Everything the page says about one run."""
    priced = prices(facts)
    best, baseline = facts.best, facts.baseline
    settings = facts.manifest.settings
    off_front = facts.winner not in facts.front
    table = (*facts.front, *([facts.winner] if off_front else []))
    head, rows = candidate_rows(facts, table)
    shown = rows[:_MOST_ROWS]
    if (winner := table.index(facts.winner)) >= _MOST_ROWS:
        shown[-1] = rows[winner]
    for rows_of, name, kinds in (
        (range(len(facts.candidates)), "candidates", ("csv",)),
        (table, "front", ("csv", "md", "tex")),
    ):
        files += write_table(out / "tables" / f"{facts.slug}-{name}", kinds,
                             *candidate_rows(facts, rows_of))  # fmt: skip
    for number, label in enumerate(machines, start=1):
        stem = out / "tables" / f"{facts.slug}-machine{number}"
        files += write_table(
            stem, ("csv", "md", "tex"), label.head, [row for _, row in label.rows]
        )
    columns = shown_columns(facts)
    saved = {"latency": best.estimate.latency_s / baseline.latency_s - 1}
    for name, own, original in (
        ("energy", best.estimate.energy_j, baseline.energy_j),
        ("area", best.estimate.area_m2, baseline.area_m2),
    ):
        if own is not None and original is not None:
            saved[name] = own / original - 1
    for pair in priced.pairs:
        name = f"{facts.slug}-costs-{pair.accounting}"
        files += write_table(out / "tables" / name, ("csv", "md", "tex"), *part_rows(pair))
    return {
        "facts": facts,
        "best": best,
        "deeds": plan_in_words(best.plan, facts.layout),
        "tokens": tokens_in_words(best.plan, facts.layout),
        "plans": _plans_in_words(facts),
        "gain": facts.gain(best),
        "saved": saved,
        "lower": "latency" if facts.on_machine else "EDAP",
        "machines": machines,
        "full": next((p for p in priced.pairs if p.accounting == "full"), None),
        "priced": priced,
        "costs": [cost_rows(pair) for pair in priced.pairs],
        "figures": _figures(facts, priced, out, files),
        "head": [head[i] for i in columns],
        "rows": [(row[-1] == "yes", [row[i] for i in columns]) for row in shown],
        "left_out": len(rows) - len(shown),
        "off_front": off_front,
        "command": shlex.join(map(str, facts.manifest.command)),
        "versions": facts.manifest.versions,
        "hashes": {
            "weights": settings.weights_sha256,
            "device" if facts.on_machine else "chip": settings.chip_sha256,
            f"calibration {facts.unit}": settings.calibration_sha256,
            f"evaluation {facts.unit}": facts.evaluation.data_sha256 if facts.evaluation else None,
        },
        "fits": facts.fits and fits_in_words(facts.fits),
        "fits_head": HEAD,
        "fits_rows": [cells(way) for way in facts.fits.tried] if facts.fits else [],
        "noisy": _noisy(facts),
        "seed": settings.search.get("seed"),
    }


def _plans_in_words(facts: Facts) -> str:
    """How many plans there were, and what came of them."""
    measured = f"{len(facts.candidates):,} fitted and measured"
    if facts.given:
        return f"given, {measured}"
    feasible = facts.manifest.feasible
    within = "more than can be listed" if feasible is None else f"{feasible:,}"
    return f"{facts.manifest.space_size:,} costed, {within} within the budget, {measured}"


def _figures(
    facts: Facts, priced: Prices, out: Path, files: list[Path]
) -> dict[str, list[ShownFigure]]:
    """The page's figures by place; each is saved too."""

    def shown(
        name: str, draw: Any, caption: str, size: tuple[float, float] = (5.8, 3.9)
    ) -> ShownFigure:
        drawn = drawing.save(out / "figures" / f"{facts.slug}-{name}", draw, size)
        files.extend(drawn.files)
        return ShownFigure(drawn.svg, caption, f"{facts.slug}-{name}")

    def pointed(name: str, numbers: charts.Points, caption: str) -> ShownFigure:
        return shown(name, partial(drawing.draw_points, points=numbers), caption)

    n = facts.best.selection.n
    fronts = [
        pointed("front", charts.loss_front(facts),
                f"Every candidate: KL from the original on {n} {facts.unit} that were not "
                f"fitted on, against its {facts.gain_name} ({facts.basis}). The front holds those "
                "that none beats in both.")
    ]  # fmt: skip
    top1 = charts.top1_front(facts, paper_points(facts))
    if top1 is not None:
        text = (
            f"The same candidates by the top-1 they lose on those {n} {facts.unit}, "
            "before training."
        )
        if top1.paper:
            text += " The paper's variants are trained ones, measured on all of ImageNet."
        fronts.append(pointed("top1", top1, text))
    if (curve := charts.resilience([facts])) is not None:
        fronts.append(_resilience(curve, f"{facts.slug}-resilience", out, files))
    for number, limited in enumerate(charts.limit_fronts(facts)):
        caption = f"The budget ({facts.budget}) and the candidates within it."
        fronts.append(pointed(f"budget{number + 1}", limited, caption))
    picture = plan_numbers(facts.best.plan, facts.layout)
    plan = shown(
        "plan", partial(_draw_plan, picture=picture), _plan_caption(picture), _plan_size(picture)
    )
    costs = [
        shown(f"{by}-{pair.accounting}",
              partial(drawing.draw_stacks, stacks=charts.stacks(facts, pair, by)),
              f"Where it goes by {by}, under {pair.accounting} accounting (estimates).",
              (6.2, 4.2))
        for pair in priced.pairs for by in ("stage", "component")
    ]  # fmt: skip
    why = []
    compared = charts.predictions(facts)
    if compared is not None:
        rank = (
            "" if compared.rank is None else f" Rank correlation (Spearman) {compared.rank:.2f}."
        )
        why.append(shown(
            "surrogate", partial(drawing.draw_predictions, numbers=compared),
            "The surrogate's prediction against the measured loss of every candidate." + rank,
        ))  # fmt: skip
    for number, pairs in enumerate(facts.surrogate):
        why.append(shown(
            f"pairs{number + 1}",
            partial(drawing.draw_heat_map, numbers=charts.heat_map(facts, pairs)),
            f"Reuse of {pairs.form}. Diagonal: what one encoder that reuses loses alone. Above: "
            "what a pair loses beyond both. A good plan stays on the dark cells.",
            (5.8, 5.0),
        ))  # fmt: skip
    tuned = []
    lines = measured_charts.curves(facts.subject, facts.finetunings)
    if lines is not None:
        tuned.append(shown(
            "finetuning", partial(measured_drawing.draw_curves, numbers=lines),
            "Losses by step, of training images and, where some were held out, of those.",
        ))  # fmt: skip
    noisy = [
        shown(
            f"noisy{number + 1}", partial(measured_drawing.draw_noisy, numbers=pair),
            f"Top-1 as computed exactly, and on {len(pair.variant.draws)} simulated instances of "
            "the chip with its read and write errors and its converters.", (5.8, 2.6),
        )
        for number, pair in enumerate(_noisy(facts))
    ]  # fmt: skip
    return {"fronts": fronts, "plan": [plan], "costs": costs, "why": why, "tuned": tuned,
            "noisy": noisy}  # fmt: skip


def _noisy(facts: Facts) -> list[measured_charts.NoisyPair]:
    pairs = (measured_charts.noisy_pair(evaluation) for evaluation in facts.later)
    return [pair for pair in pairs if pair is not None]


def _plan_caption(picture: PlanPicture) -> str:
    text = "Filled: computes its own attention."
    if picture.arcs:
        text += " Open: reuses an earlier encoder's, along the arrow."
    if picture.averages:
        text += " Dashed circle: attends by the average map of its own that calibration showed."
    if picture.own_class:
        text += " Dot: computes its class tokens' rows itself."
    if picture.tokens:
        text += " Below: the tokens that attend to each other in each encoder."
    if picture.shared:
        label = "Bar and lower number" if picture.tokens else "Number"
        text += f" {label}: the rows of attention that tokens share."
    if picture.rows:
        text += " Dashed box: rows that nothing reads, and that are not computed."
    return text


def _plan_size(picture: PlanPicture) -> tuple[float, float]:
    """As wide as the page and as high as the drawing, in inches."""
    low, high = plan_span(picture)
    return 7.2, 0.2 + 7.2 / picture.num_encoders * (high - low)


def _draw_plan(figure: Any, picture: PlanPicture) -> dict[str, Sequence[str]]:
    draw_plan(figure.add_axes((0.01, 0.0, 0.98, 0.98)), picture)
    return {}


def _compared(runs: Sequence[Facts], out: Path, files: list[Path]) -> list[ShownFigure]:
    """The runs' fronts: chips' estimates in one figure, measured machines in another."""
    shown = []
    for on_machine, name in ((False, "runs"), (True, "runs-measured")):
        named = [(f.name, charts.loss_front(f)) for f in runs if f.on_machine == on_machine]
        if not named:
            continue
        draw = partial(drawing.draw_runs, runs=named)
        drawn = drawing.save(out / "figures" / name, draw, (6.4, 5.0))
        files.extend(drawn.files)
        gains = (
            "Speed-ups are predicted by each run's own machine"
            if on_machine
            else ("Gains are over each run's own original, under its own accounting")
        )
        caption = f"The runs' fronts. {gains}; losses are measured on each run's own images."
        shown.append(ShownFigure(drawn.svg, caption, name))
    if (curve := charts.resilience(runs)) is not None:
        shown.append(_resilience(curve, "resilience", out, files))
    return shown


def _resilience(
    numbers: charts.Resilience, name: str, out: Path, files: list[Path]
) -> ShownFigure:
    """The curve of plans of growing savings, untrained."""
    draw = partial(drawing.draw_resilience, numbers=numbers)
    drawn = drawing.save(out / "figures" / name, draw, (7.6, 3.6))
    files.extend(drawn.files)
    caption = (
        "Resilience: what plans of growing savings lose, each only fitted, none trained. Savings "
        "are estimates of the whole model under the run's accounting; losses are measured on the "
        "images that plans were compared on."
    )
    if any(panel.published for panel in numbers.panels):
        caption += (
            " Diamonds: published results of other models on other devices (Sreedhar et al., "
            "arXiv 2212.02687), for scale alone."
        )
    return ShownFigure(drawn.svg, caption, name)
