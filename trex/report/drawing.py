"""Drawing the figures' numbers with matplotlib, readable in grey, on light and on dark pages."""

from __future__ import annotations

import io
import logging
import textwrap
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from trex.report.charts import HeatMap, Points, Predictions, Resilience, Stacks
from trex.report.svg import ACCENT, INK, PALE, PAPER, for_page, with_titles
from trex.report.tables import shortened
from trex.units import format_quantity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_logger = logging.getLogger(__name__)

#: More marks than these become a picture, which no pointer can ask: a page stays small.
MOST_MARKS: Final = 1000

#: Characters of a title's line, and of two smaller ones: the narrowest axes leave so many.
_TITLE_WIDTH: Final = 66
_SMALL_WIDTH: Final = 74

_MARKERS: Final = "osD^vP*X"
_STYLE: Final[dict[str, Any]] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.titlesize": 9.5,
    "axes.edgecolor": PALE,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    # Names from files are text, never mathematics.
    "text.parse_math": False,
}


class Drawn(NamedTuple):
    """A figure as inline SVG for the page, beside the files it was saved to."""

    svg: str
    files: tuple[Path, ...]


def draw_points(figure: Figure, points: Points) -> dict[str, Sequence[str]]:
    """Candidates, their front, the winner, the budget's line; hover texts by group."""
    axes = figure.add_axes((0.14, 0.14, 0.83, 0.78))
    hover: dict[str, Sequence[str]] = {}

    def marks(gid: str, rows: Sequence[int], label: str, **style: Any) -> None:
        axes.scatter(
            [points.x[i] for i in rows], [points.y[i] for i in rows],
            gid=gid, label=label, linewidths=0.8, edgecolors=INK, **style,
        )  # fmt: skip
        hover[gid] = [points.hover[i] for i in rows]

    front = set(points.front)
    others = [i for i in range(len(points.x)) if i not in front]
    if others:
        many = len(others) > MOST_MARKS
        axes.scatter(
            [points.x[i] for i in others], [points.y[i] for i in others],
            gid="others", label="measured", s=7 if many else 16, c=PALE, linewidths=0,
            rasterized=many,
        )  # fmt: skip
        if not many:
            hover["others"] = [points.hover[i] for i in others]
    axes.plot([points.x[i] for i in points.front], [points.y[i] for i in points.front], color=INK)
    marks("front", points.front, "front", c=INK, s=34, marker="s", zorder=3)
    marks("best", [points.best], "best plan", c=ACCENT, s=170, marker="*", zorder=4)
    if points.paper:
        x, y, texts = zip(*points.paper, strict=True)
        axes.scatter(x, y, gid="paper", label="TReX paper (published)", marker="D", s=38,
                     facecolors=PAPER, edgecolors=ACCENT, linewidths=1.4)  # fmt: skip
        hover["paper"] = list(texts)
    if points.limit is not None:
        axes.axvline(points.limit, color=ACCENT, linestyle="--", linewidth=1.3, label="budget")
    if points.log and min(points.y) > 0:
        _log(axes, points.y)
    _labels(axes, points.title, points.x_label, points.y_label)
    axes.legend(frameon=False, fontsize=9)
    return hover


def draw_resilience(figure: Figure, numbers: Resilience) -> dict[str, Sequence[str]]:
    """A panel a quantity, a line a model; published results of other models hollow."""
    hover: dict[str, Sequence[str]] = {}
    for column, panel in enumerate(numbers.panels):
        axes = figure.add_axes((0.09 + 0.49 * column, 0.15, 0.4, 0.72))
        for number, curve in enumerate(panel.curves):
            gid = f"curve{column}-{number}"
            axes.plot(curve.x, curve.y, color=INK, linewidth=1.1)
            axes.scatter(
                curve.x, curve.y, gid=gid, marker=_MARKERS[number % len(_MARKERS)], s=30,
                c=INK if number % 2 == 0 else PAPER, edgecolors=INK, linewidths=1,
                label=textwrap.shorten(curve.name, 44),
            )  # fmt: skip
            hover[gid] = list(curve.hover)
        for number, (x, y, text) in enumerate(panel.published):
            gid = f"published{column}-{number}"
            axes.scatter([x], [y], gid=gid, marker="D", s=38, facecolors=PAPER,
                         edgecolors=ACCENT, linewidths=1.4,
                         label=f"{text.partition(':')[0]} (published)")  # fmt: skip
            hover[gid] = [text]
        axes.axhline(0.0, color=PALE, linewidth=0.8)
        _labels(axes, "", panel.x_label, numbers.y_label if column == 0 else "")
        axes.legend(frameon=False, fontsize=8, loc="upper left")
    title, style = _title(numbers.title)
    figure.text(0.02, 0.99, title, va="top", **style)
    return hover


def draw_runs(figure: Figure, runs: Sequence[tuple[str, Points]]) -> dict[str, Sequence[str]]:
    """The fronts of several runs, each with its own mark, each named in full."""
    labels = [
        textwrap.fill(f"{shortened(name, 40)}: {points.title}", 88, subsequent_indent="    ")
        for name, points in runs
    ]
    legend = 0.25 + sum(0.15 * label.count("\n") + 0.2 for label in labels)
    height = 3.5 + legend  # inches
    figure.set_figheight(height)
    axes = figure.add_axes((0.14, 0.55 / height, 0.83, 2.9 / height))
    hover: dict[str, Sequence[str]] = {}
    for number, (name, points) in enumerate(runs):
        rows = points.front
        x, y = [points.x[i] for i in rows], [points.y[i] for i in rows]
        shade = str(0.55 * number / max(1, len(runs) - 1))
        axes.plot(x, y, color=INK, alpha=1 - float(shade), linewidth=1.1)
        axes.scatter(
            x, y, gid=f"run{number}", marker=_MARKERS[number % len(_MARKERS)], s=36,
            c=INK if number % 2 == 0 else PAPER, edgecolors=INK, linewidths=1,
            label=labels[number],
        )  # fmt: skip
        hover[f"run{number}"] = [f"{name}: {points.hover[i]}" for i in rows]
    if all(min(points.y) > 0 for _, points in runs):
        _log(axes, [points.y[i] for _, points in runs for i in points.front])
    _labels(axes, "", "EDAP gain over each run's own original (estimate)", runs[0][1].y_label)
    axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(-0.14, 1.0))
    return hover


def draw_stacks(figure: Figure, stacks: Stacks) -> dict[str, Sequence[str]]:
    """A pair of bars a quantity; shades of one scale, told apart in grey, and hatches."""
    from matplotlib import colormaps

    names = [name for name, _, _ in stacks.stacks[0].parts]
    # The scale's darkest fifth is lost on a dark page.
    shades = colormaps["cividis"](np.linspace(0.2, 0.97, max(2, len(names))))
    hover: dict[str, Sequence[str]] = {}
    handles: list[Any] = []
    for row, stack in enumerate(stacks.stacks):
        axes = figure.add_axes((0.15, 0.73 - 0.235 * row, 0.68, 0.165))
        left = [0.0, 0.0]
        totals = [sum(p[1] for p in stack.parts), sum(p[2] for p in stack.parts)]
        for index, (name, *values) in enumerate(stack.parts):
            bars = axes.barh(
                [1, 0], values, left=left, height=0.78, color=shades[index],
                edgecolor=PAPER, linewidth=0.6, hatch=("", "///", "..")[index % 3],
            )  # fmt: skip
            if row == 0:
                handles.append(bars)
            for side, patch in enumerate(bars.patches):
                gid = f"bar{row}-{index}-{side}"
                patch.set_gid(gid)
                share = values[side] / totals[side] if totals[side] else 0.0
                hover[gid] = [
                    f"{name}, {('original', 'best plan')[side]}: "
                    f"{format_quantity(values[side], stack.unit)}, "
                    f"{share:.0%} of its {stack.quantity}"
                ]  # fmt: skip
            left = [a + b for a, b in zip(left, values, strict=True)]
        axes.set_yticks([1, 0], ["original", "best plan"])
        axes.set_xticks([])
        axes.spines[["bottom", "left"]].set_visible(False)
        axes.tick_params(length=0)
        axes.set_title(stack.quantity, loc="left", pad=2)
        for side, total in enumerate(totals):
            axes.text(total, 1 - side, "  " + format_quantity(total, stack.unit), va="center",
                      fontsize=9)  # fmt: skip
        axes.set_xlim(0, max(totals) * 1.02 or 1)
    title, style = _title(stacks.title)
    figure.text(0.02, 0.99, title, va="top", **style)
    figure.legend(handles, names, loc="lower center", ncols=4, frameon=False, fontsize=9,
                  handlelength=1.4)  # fmt: skip
    return hover


def draw_predictions(figure: Figure, numbers: Predictions) -> dict[str, Sequence[str]]:
    """Measured against predicted losses, and where both are equal."""
    axes = figure.add_axes((0.14, 0.14, 0.83, 0.78))
    many = len(numbers.predicted) > MOST_MARKS
    axes.scatter(numbers.predicted, numbers.measured, gid="pairs", s=7 if many else 18, c=INK,
                 linewidths=0, label="candidates", rasterized=many)  # fmt: skip
    best = numbers.best
    axes.scatter([numbers.predicted[best]], [numbers.measured[best]], gid="best", s=170,
                 marker="*", c=ACCENT, edgecolors=INK, linewidths=0.8,
                 label="best plan")  # fmt: skip
    both = [*numbers.predicted, *numbers.measured]
    ends = [min(both), max(both)]
    axes.plot(ends, ends, color=PALE, linestyle="--", label="equal")
    if min(ends) > 0:
        axes.set_xscale("log")
        axes.set_yscale("log")
        _plain_ticks(axes.xaxis, numbers.predicted)
        _plain_ticks(axes.yaxis, numbers.measured)
    _labels(axes, numbers.title, "predicted loss, nats an image", "measured loss, nats an image")
    axes.legend(frameon=False, fontsize=9)
    hover: dict[str, Sequence[str]] = {"best": [numbers.hover[best]]}
    return hover if many else {"pairs": numbers.hover, **hover}


def draw_heat_map(figure: Figure, numbers: HeatMap) -> dict[str, Sequence[str]]:
    """Encoder against encoder; the plan's own consumers framed."""
    values = np.array(numbers.values)
    axes = figure.add_axes((0.1, 0.11, 0.71, 0.81))
    finite = values[np.isfinite(values)]
    # A few pairs collapse; the scale ends where 95 % of the others still differ.
    top = float(np.quantile(np.abs(finite), 0.95)) or 1.0
    low = min(0.0, float(np.quantile(finite, 0.05)))
    mesh = axes.pcolormesh(np.ma.masked_invalid(values), cmap="cividis", vmin=low, vmax=top,
                           edgecolors=PAPER, linewidth=0.4)  # fmt: skip
    mesh.set_gid("cells")
    size = len(values)
    ticks = np.arange(size) + 0.5
    marked = [f"[{i}]" if i in numbers.chosen else str(i) for i in range(size)]
    axes.set_xticks(ticks, marked, fontsize=8)
    axes.set_yticks(ticks, marked, fontsize=8)
    axes.invert_yaxis()
    bar = figure.colorbar(mesh, cax=figure.add_axes((0.83, 0.11, 0.025, 0.81)), extend="both")
    bar.ax.set_ylabel("nats", fontsize=9, labelpad=2)
    hover = []
    for row, column in np.ndindex(values.shape):
        value = values[row, column]
        if not np.isfinite(value):
            hover.append("")
        elif row == column:
            hover.append(f"encoder {row} alone loses {value:.4f} nats")
        else:
            hover.append(f"{row} and {column} together lose {value:+.4f} nats beyond both alone")
    _labels(axes, numbers.title, "encoder ([in the plan])", "encoder")
    return {"cells": hover}


def save(
    stem: Path,
    draw: Callable[[Figure], dict[str, Sequence[str]]],
    size: tuple[float, float] = (5.8, 3.9),
) -> Drawn:
    """Draw once, save as SVG and PNG, and hand back SVG for a page."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    settings: Any = {**_STYLE, "svg.hashsalt": stem.name}
    with mpl.rc_context(settings):
        figure = Figure(figsize=size)
        hover = draw(figure)
        buffer = io.StringIO()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            figure.savefig(stem.with_suffix(".png"), dpi=160, facecolor="white")
            figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
        _tell(caught, stem)
    text = buffer.getvalue()
    svg = with_titles(text[text.index("<svg") :], hover)
    stem.with_suffix(".svg").write_text(text[: text.index("<svg")] + svg, encoding="utf-8")
    return Drawn(for_page(svg, stem.name), (stem.with_suffix(".svg"), stem.with_suffix(".png")))


def _tell(caught: Sequence[warnings.WarningMessage], stem: Path) -> None:
    """Pass on what matplotlib warned of; all letters it lacks are one line."""
    others = [w for w in caught if "missing from font" not in str(w.message)]
    for warning in others:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if len(others) < len(caught):
        _logger.warning("%s.png has boxes for letters that its font lacks", stem.name)


def _log(axes: Axes, values: Sequence[float]) -> None:
    axes.set_yscale("log")
    _plain_ticks(axes.yaxis, values)


def _plain_ticks(axis: Any, values: Sequence[float]) -> None:
    """1, 2, 5 and their tenfolds as plain numbers; three of them at least."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = min(values), max(values)
    steps: tuple[float, ...] = (
        (1, 2, 5) if high / low > 4 else (1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
    )
    if high / low > 1e3:
        steps = (1,)
    decades = range(int(np.floor(np.log10(low))) - 1, int(np.ceil(np.log10(high))) + 1)
    ticks = [s * 10.0**d for d in decades for s in steps]
    axis.set_major_locator(FixedLocator([t for t in ticks if low / 1.1 <= t <= high * 1.1]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _labels(axes: Axes, title: str, x: str, y: str) -> None:
    set_title(axes, title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def set_title(axes: Axes, title: str) -> None:
    """A title that ends within the figure: a long one takes two smaller lines."""
    text, style = _title(title)
    axes.set_title(text, loc="left", **style)


def _title(title: str) -> tuple[str, dict[str, Any]]:
    if len(title) <= _TITLE_WIDTH:
        return title, {"fontsize": 9.5}
    return textwrap.fill(title, _SMALL_WIDTH), {"fontsize": 8.5, "linespacing": 1.05}
