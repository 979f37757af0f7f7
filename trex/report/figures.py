"""Figures: numbers first, drawing after, so that tests can look at the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from trex.plan import ReusePlan

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: dark enough to read on white and to tell apart in grey
_INK, _ACCENT, _PALE = "#1f2937", "#b4530a", "#9ca3af"


class Front(NamedTuple):
    """Measured candidates by price.

    Attributes:
        gains: how many times lower the EDAP is than the original's.
        losses: selection loss in nats.
        on_front: whether no other candidate is better in both.
        best: the winner's position.
    """

    gains: tuple[float, ...]
    losses: tuple[float, ...]
    on_front: tuple[bool, ...]
    best: int


class PlanPicture(NamedTuple):
    """A plan as arcs.

    Attributes:
        num_encoders: encoders of the model.
        arcs: (source, consumer) of every reuse.
    """

    num_encoders: int
    arcs: tuple[tuple[int, int], ...]


def front_numbers(records: Sequence[dict[str, Any]], result: dict[str, Any]) -> Front:
    """From a run's records and its summary."""
    baseline = result["baseline"]["edap_mj_ms_mm2"]
    front = {record["plan"] for record in result["pareto"]}
    plans = [record["plan"] for record in records]
    return Front(
        gains=tuple(baseline / r["estimate"]["edap_mj_ms_mm2"] for r in records),
        losses=tuple(r["selection"]["loss"] for r in records),
        on_front=tuple(plan in front for plan in plans),
        best=plans.index(result["best"]["plan"]),
    )


def plan_numbers(plan: str, num_encoders: int) -> PlanPicture:
    """From a plan in text."""
    arcs = tuple((reuse.source, reuse.consumer) for reuse in ReusePlan.parse(plan))
    return PlanPicture(num_encoders=num_encoders, arcs=arcs)


def draw_front(axes: Axes, front: Front) -> None:
    """Loss against EDAP gain; the front joined, the winner marked."""
    others = [i for i, on in enumerate(front.on_front) if not on]
    line = sorted((i for i, on in enumerate(front.on_front) if on), key=lambda i: front.gains[i])
    axes.plot(
        [front.gains[i] for i in others], [front.losses[i] for i in others],
        "o", color=_PALE, markersize=4, label="fitted and measured",
    )  # fmt: skip
    axes.plot(
        [front.gains[i] for i in line], [front.losses[i] for i in line],
        "s-", color=_INK, markersize=5, label="front",
    )  # fmt: skip
    axes.plot(
        front.gains[front.best], front.losses[front.best],
        "*", color=_ACCENT, markersize=14, label="winner",
    )  # fmt: skip
    axes.set_xlabel("EDAP gain over the original (estimate)")
    axes.set_ylabel("loss, nats an image (measured)")
    axes.set_yscale("log")
    axes.set_xscale("log")
    axes.minorticks_off()
    ticks = [t for t in (1, 1.5, 2, 3, 5, 10, 20) if t <= max(front.gains) * 1.1]
    axes.set_xticks(ticks, [f"{t:g}x" for t in ticks])
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def draw_plan(axes: Axes, picture: PlanPicture) -> None:
    """Encoders in a row; an arc from every producer to who reuses it."""
    from matplotlib.patches import Circle, FancyArrowPatch

    consumers = {consumer for _, consumer in picture.arcs}
    for source, consumer in picture.arcs:
        axes.add_patch(
            FancyArrowPatch(
                (source, 0.3),
                (consumer, 0.3),
                connectionstyle="arc3,rad=-0.5",
                arrowstyle="-|>",
                mutation_scale=11,
                color=_ACCENT,
                linewidth=1.5,
            )
        )
    for encoder in range(picture.num_encoders):
        reuses = encoder in consumers
        axes.add_patch(
            Circle((encoder, 0), 0.3, facecolor="white" if reuses else _INK, edgecolor=_INK)
        )
        axes.text(
            encoder, 0, str(encoder), ha="center", va="center", fontsize=8,
            color=_INK if reuses else "white",
        )  # fmt: skip
    # An arc rises to half its control point's height, which is half its width, plus its start's.
    longest = max((consumer - source for source, consumer in picture.arcs), default=1)
    axes.set_xlim(-0.6, picture.num_encoders - 0.4)
    axes.set_ylim(-0.4, 0.6 + 0.25 * longest)
    axes.set_aspect("equal")
    axes.axis("off")
    axes.set_title("filled: own attention; open: reuses an earlier encoder's", fontsize=9)


def save_overview(file: Path, front: Front, picture: PlanPicture, title: str) -> None:
    """The winner's plan above the front, as SVG, PNG or PDF by the file's ending."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 5.0), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=[1, 2.4])
    draw_plan(above, picture)
    draw_front(below, front)
    figure.suptitle(title, fontsize=10)
    figure.savefig(file, dpi=150, metadata={"Date": None} if file.suffix == ".svg" else None)
