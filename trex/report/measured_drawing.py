"""Drawing fine-tunings' curves and accuracies on chips that err."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trex.report.drawing import set_title
from trex.report.measured_charts import Curves, NoisyPair
from trex.report.svg import ACCENT, INK, PALE, PAPER

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DASHES = ("-", "--", ":", "-.")


def draw_curves(figure: Figure, numbers: Curves) -> dict[str, Sequence[str]]:
    """Training losses as lines, losses on held-out images as marks; a dash pattern a training."""
    axes = figure.add_axes((0.14, 0.14, 0.83, 0.78))
    hover: dict[str, Sequence[str]] = {}
    for number, curve in enumerate(numbers.curves):
        axes.plot(
            curve.steps, curve.loss, color=PALE, linestyle=_DASHES[number % len(_DASHES)],
            linewidth=1.3, label=f"{curve.name}: training images",
        )  # fmt: skip
        if curve.held_out:
            gid = f"heldout{number}"
            steps, losses = zip(*curve.held_out, strict=True)
            axes.plot(steps, losses, color=INK, linestyle=_DASHES[number % len(_DASHES)])
            axes.scatter(
                steps, losses, gid=gid, s=30, c=ACCENT, edgecolors=INK, linewidths=0.8, zorder=3,
                label=f"{curve.name}: held-out images",
            )  # fmt: skip
            hover[gid] = [
                f"{curve.name}, step {step}: loss {loss:.4f} on held-out images"
                for step, loss in curve.held_out
            ]
    set_title(axes, numbers.title)
    axes.set_xlabel("step")
    axes.set_ylabel("loss (measured)")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=9)
    return hover


def draw_noisy(figure: Figure, numbers: NoisyPair) -> dict[str, Sequence[str]]:
    """The ideal accuracy as a line, every chip instance as a mark, mean and spread beside."""
    axes = figure.add_axes((0.25, 0.25, 0.71, 0.6))
    hover: dict[str, Sequence[str]] = {}
    for row, spread in enumerate((numbers.original, numbers.variant)):
        at = 1 - row
        axes.plot(
            [spread.ideal] * 2, [at - 0.28, at + 0.28], color=INK, linewidth=2.2,
            label="ideal" if row == 0 else None,
        )  # fmt: skip
        axes.scatter(
            spread.draws, [at] * len(spread.draws), gid=f"draws{row}", s=34, c=PAPER,
            edgecolors=INK, linewidths=1, zorder=3,
            label="one chip instance" if row == 0 else None,
        )  # fmt: skip
        axes.errorbar(
            [spread.mean], [at - 0.18], xerr=[spread.std or 0.0], color=ACCENT, capsize=4,
            marker="D", markersize=5, label="mean and standard deviation" if row == 0 else None,
        )  # fmt: skip
        hover[f"draws{row}"] = [
            f"{spread.name}, chip instance {draw + 1}: {value:.1f} %, ideal {spread.ideal:.1f} %"
            for draw, value in enumerate(spread.draws)
        ]
    axes.set_yticks([1, 0], [numbers.original.name, numbers.variant.name])
    axes.set_ylim(-0.5, 1.5)
    set_title(axes, numbers.title)
    axes.set_xlabel(f"top-1 % (measured on {numbers.n} images, simulated errors)")
    axes.legend(
        frameon=False, fontsize=8.5, ncols=3, loc="upper left", bbox_to_anchor=(-0.35, -0.24),
        handletextpad=0.3, columnspacing=1,
    )  # fmt: skip
    return hover
