"""A sweep's table and page: numbers first, then rows, then files."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from trex.errors import SweepError
from trex.files import write_atomic
from trex.report import drawing
from trex.report.exports import as_csv, as_latex, as_markdown
from trex.report.page import PAGE, ShownFigure, Written, rendered
from trex.report.tables import Row, aligned, percent, points
from trex.store.schemas import Summary
from trex.store.sweep import Cell, SweepFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: characters of a line that fits a column 3.3 inches wide at 8 points (\footnotesize): 238 points,
#: less 3 on either side of six cells, by 4 points a character (half of the size, as of Times)
COLUMN: Final = 50


class Place(NamedTuple):
    """A search's place in a sweep; `name` is its folder's."""

    model: str
    device: str
    budget: str
    seed: int
    name: str

    @property
    def names(self) -> tuple[str, str, str]:
        """All but the seed."""
        return self.model, self.device, self.budget


@dataclass(frozen=True, kw_only=True, slots=True)
class Came:
    """What came of one search.

    Attributes:
        state: `done`, `infeasible`, `failed`, or `open` where it is not done yet.
        reason: why nothing was found.
        summary: what was found; None elsewhere.
    """

    place: Place
    state: str
    reason: str = ""
    summary: Summary | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepResult:
    """A sweep, as far as it is done.

    Attributes:
        rows: of all searches, in the order of the sweep's file.
    """

    title: str
    rows: tuple[Came, ...]

    @property
    def finished(self) -> bool:
        """Whether nothing is open and nothing failed."""
        return all(row.state in ("done", "infeasible") for row in self.rows)

    def groups(self) -> list[list[Came]]:
        """Searches that differ in their seed alone."""
        found: dict[tuple[str, str, str], list[Came]] = {}
        for row in self.rows:
            found.setdefault(row.place.names, []).append(row)
        return list(found.values())


def read_result(
    folder: SweepFolder, title: str, places: Sequence[Place], cells: Mapping[str, Cell]
) -> SweepResult:
    """What is done of a sweep.

    Raises:
        SweepError: nothing is.
        RunError: a run folder is damaged.
    """
    rows = []
    for place in places:
        cell = cells.get(place.name)
        if cell is None:
            rows.append(Came(place=place, state="open"))
            continue
        run = folder.run(place.name)
        summary = run.summary() if cell.state == "done" else None
        state = "open" if cell.state == "done" and summary is None else cell.state
        rows.append(Came(place=place, state=state, reason=cell.reason, summary=summary))
    if all(row.state == "open" for row in rows):
        raise SweepError(f"{folder.path}: no search is done", hint="run trex sweep again")
    return SweepResult(title=title, rows=tuple(rows))


def all_rows(result: SweepResult) -> tuple[Row, list[Row]]:
    """Head and rows of every search, for programs."""
    head = (
        "model", "device", "accounting", "budget", "seed", "state", "plan",
        "latency x (estimate)", "latency x (predicted by a measured machine)",
        "energy x (estimate)", "area x (estimate)", "EDAP gain (estimate)",
        "loss, nats (measured)", "agreement % (measured)", "images",
        "top-1 % (measured)", "original top-1 % (measured)", "points (measured)",
        "95 % from", "95 % to", "evaluation images", "seconds", "run", "why not",
    )  # fmt: skip
    return head, [_full_row(row) for row in result.rows]


def _full_row(row: Came) -> Row:
    place, told = row.place, row.summary
    front = (place.model, place.device)
    if told is None:
        return (*front, "-", place.budget, str(place.seed), row.state, *["-"] * 16,
                f"runs/{place.name}", row.reason or "-")  # fmt: skip
    best, original, last = told.best.estimate, told.baseline, told.best.last
    latency = f"{best.latency_s / original.latency_s:.4f}"
    measured = told.best.evaluation
    evaluated: Row = ("-",) * 6
    if measured is not None:
        evaluated = (
            percent(measured.top1, 2), percent(measured.baseline_top1, 2),
            points(measured.difference), *map(points, measured.ci95), str(measured.n),
        )  # fmt: skip
    return (
        *front, told.accounting, place.budget, str(place.seed), row.state,
        told.best.plan or "no reuse",
        *(("-", latency) if best.on_machine else (latency, "-")),
        _ratio(best.energy_j, original.energy_j), _ratio(best.area_m2, original.area_m2),
        _ratio(original.edap_mj_ms_mm2, best.edap_mj_ms_mm2),
        f"{last.loss:.5f}", percent(last.agreement, 2), str(last.n),
        *evaluated, f"{told.seconds:.0f}", f"runs/{place.name}", "-",
    )  # fmt: skip


def _ratio(value: float | None, by: float | None) -> str:
    return "-" if value is None or by is None else f"{value / by:.4f}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A figure of every search, over its seeds.

    Attributes:
        head: of the column; `short` in a paper's.
        value: of a search, None where it has none.
        digits: behind the point.
    """

    head: str
    short: str
    value: Callable[[Summary], float | None]
    digits: int


def _latency(machine: bool) -> Callable[[Summary], float | None]:
    def value(told: Summary) -> float | None:
        if told.baseline.on_machine != machine:
            return None
        return told.best.estimate.latency_s / told.baseline.latency_s

    return value


def _gain(told: Summary) -> float | None:
    before, after = told.baseline.edap_mj_ms_mm2, told.best.estimate.edap_mj_ms_mm2
    return None if before is None or after is None else before / after


def _points(told: Summary) -> float | None:
    measured = told.best.evaluation
    return None if measured is None else 100 * measured.difference


COLUMNS: Final = (
    Column(head="latency x (estimate)", short="lat. x", value=_latency(False), digits=3),
    Column(
        head="latency x (predicted by a measured machine)", short="time x",
        value=_latency(True), digits=3,
    ),
    Column(head="EDAP gain (estimate)", short="EDAP", value=_gain, digits=2),
    Column(head="loss, nats (measured)", short="loss", value=lambda t: t.best.last.loss, digits=4),
    Column(
        head="agreement % (measured)", short="agr. %",
        value=lambda t: 100 * t.best.last.agreement, digits=1,
    ),
    Column(head="points of top-1 (measured)", short="top-1", value=_points, digits=1),
)  # fmt: skip


def grouped_rows(result: SweepResult, *, paper: bool = False) -> tuple[Row, list[Row], list[str]]:
    """Head and rows over seeds, and what is the same in all of them.

    With several seeds a cell is their mean and standard deviation.

    Args:
        result: the sweep.
        paper: with short heads, and without a column of what is the same in all rows.
    """
    groups = result.groups()
    names = ("model", "device", "budget")
    shown = [
        index
        for index in range(3)
        if not paper or index == 2 or len({group[0].place.names[index] for group in groups}) > 1
    ]
    same = [f"{names[i]}: {groups[0][0].place.names[i]}" for i in range(3) if i not in shown]
    used = [
        column
        for column in COLUMNS
        if any(row.summary and column.value(row.summary) is not None for row in result.rows)
    ]
    head = (*(names[i] for i in shown), *(c.short if paper else c.head for c in used))
    rows: list[Row] = []
    for group in groups:
        place = group[0].place.names
        front = tuple(_short(place[i]) if paper else place[i] for i in shown)
        rows.append((*front, *(_over_seeds(column, group) for column in used)))
    seeds = max(len(group) for group in groups)
    same.append("one seed" if seeds == 1 else f"mean ± standard deviation of {seeds} seeds")
    return head, rows, same


def _over_seeds(column: Column, group: Sequence[Came]) -> str:
    found = [
        value for row in group if row.summary and (value := column.value(row.summary)) is not None
    ]
    if not found:
        states = [row.state for row in group if row.summary is None]
        words = {"infeasible": "none fits", "failed": "failed"}
        return words.get(states[0], "-") if len(set(states)) == 1 else "-"
    mean = f"{statistics.fmean(found):.{column.digits}f}"
    if len(group) == 1:
        return mean
    if len(found) < len(group):
        return f"{mean} ({len(found)} of {len(group)})"
    return f"{mean}±{statistics.stdev(found):.{column.digits}f}"


def _short(name: str) -> str:
    """A timm name without what its family says already."""
    return name.partition("_patch")[0] if "_patch" in name else name


def text_table(result: SweepResult) -> list[str]:
    """The table for people, and what could not be done."""
    head, rows, same = grouped_rows(result, paper=True)
    lines = [result.title, ", ".join(same), "", *aligned(head, rows)]
    lines += [
        "",
        "lat. x and EDAP (times lower) are estimates, time x is predicted by a measured machine;",
        "loss (KL from the original, nats), agreement and top-1 (points) are measured.",
    ]
    for row in result.rows:
        if row.state in ("infeasible", "failed"):
            place = row.place
            what = "nothing fits" if row.state == "infeasible" else "failed"
            lines.append(
                f"{place.model} on {place.device}, {place.budget}, seed {place.seed}: {what}: "
                f"{row.reason}"
            )
    left = sum(row.state == "open" for row in result.rows)
    return [*lines, f"{left} of {len(result.rows)} searches are not done"] if left else lines


def column_table(result: SweepResult) -> str:
    r"""A LaTeX table as wide as a column of a two-column paper, 3.3 inches; needs booktabs.

    What is the same in all rows, and what the heads mean, stand in comments above it, for the
    caption. Heads take at most `COLUMN` characters together.
    """
    head, rows, same = grouped_rows(result, paper=True)
    widths = [max(map(len, cells)) for cells in zip(head, *rows, strict=True)]
    while sum(widths) > COLUMN and len(head) > 4:
        # agreement says least beside loss and top-1, and EDAP least beside latency
        drop = next(
            (head.index(name) for name in ("agr. %", "EDAP", "top-1") if name in head),
            len(head) - 1,
        )
        head = (*head[:drop], *head[drop + 1 :])
        rows = [(*row[:drop], *row[drop + 1 :]) for row in rows]
        del widths[drop]
    told = [
        f"% {result.title}: {', '.join(same)}",
        "% lat. x, EDAP (times lower): estimates; time x: predicted by a measured machine;",
        "% loss (KL from the original, nats), agr. (first guesses), top-1 (points): measured",
    ]
    body = as_latex(head, rows).replace("±", r"$\pm$")
    return (
        "\n".join(line.replace("\n", " ") for line in told)
        + "\n{\\footnotesize\\setlength{\\tabcolsep}{3pt}%\n"
        + body
        + "}\n"
    )


class Curve(NamedTuple):
    """Budgets of one model on one device: x, latency as a share; y, the mean loss in nats."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]


def curves(result: SweepResult) -> list[Curve]:
    """Loss against latency, a curve for each model and device."""
    found: dict[str, list[tuple[float, float]]] = {}
    for group in result.groups():
        told = [row.summary for row in group if row.summary is not None]
        if told:
            share = statistics.fmean(
                of.best.estimate.latency_s / of.baseline.latency_s for of in told
            )
            loss = statistics.fmean(of.best.last.loss for of in told)
            place = group[0].place
            name = f"{_short(place.model)} on {place.device}"
            found.setdefault(name, []).append((share, loss))
    return [
        Curve(name, *(tuple(of) for of in zip(*sorted(points), strict=True)))
        for name, points in found.items()
    ]


def _draw(figure: Figure, shown: Sequence[Curve]) -> dict[str, Sequence[str]]:
    axes = figure.add_subplot()
    marks = "osD^vP*X"
    for number, curve in enumerate(shown):
        axes.plot(curve.x, curve.y, marker=marks[number % len(marks)], label=curve.name)
    axes.set_xlabel("latency, share of the original's (estimate or prediction)")
    axes.set_ylabel("loss, nats an image (measured)")
    axes.legend(fontsize="small")
    return {}


def write_sweep(result: SweepResult, out: Path) -> Written:
    """Write the table as CSV, Markdown and LaTeX, and the page.

    Raises:
        StorageError: they cannot be written.
    """
    head, rows, same = grouped_rows(result)
    note = f"{result.title}: {', '.join(same)}\n\n"
    files = {
        out / "sweep.csv": as_csv(*all_rows(result)),
        out / "sweep.md": note + as_markdown(head, rows),
        out / "sweep.tex": column_table(result),
    }
    for file, text in files.items():
        write_atomic(file, text)
    (out / "figures").mkdir(exist_ok=True)
    shown = curves(result)
    figures, drawn_files = [], []
    if shown:
        drawn = drawing.save(out / "figures" / "sweep", partial(_draw, shown=shown), (6.4, 4.0))
        caption = (
            "The best plans' loss against latency, a curve for each model and device, a mark for "
            "each budget, means over seeds. Latencies are estimates of chips, or predictions of "
            "measured machines; losses are measured."
        )
        figures = [ShownFigure(drawn.svg, caption, "sweep")]
        drawn_files = list(drawn.files)
    page = out / PAGE
    full_head, full_rows = all_rows(result)
    write_atomic(
        page,
        rendered(
            "sweep.html",
            result=result, head=head, rows=rows, same=same, full_head=full_head,
            full_rows=full_rows, figures=figures,
        ),
    )  # fmt: skip
    return Written(page, (*files, *drawn_files))
