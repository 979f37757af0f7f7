"""Drawing a plan: encoders in a row, who reuses whom, and how the tokens shrink."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trex.report.plans import PlanPicture
from trex.report.svg import ACCENT, INK, PALE, PAPER

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: of an encoder's circle, and of its tokens' box when no token has merged yet
_RADIUS: Final = 0.3
_TALLEST: Final = 1.0
#: where the boxes hang, below the circles; room for a number under the tallest of them, and for
#: another one
_TOP: Final = -0.45
_ROOM: Final = 0.35
_LINE: Final = 0.24
#: of the bar of rows, beside the box
_BAR: Final = 0.12
#: a box of few rows is still seen
_LEAST: Final = 0.05


def plan_span(picture: PlanPicture) -> tuple[float, float]:
    """The lowest and the highest point of the drawing; an encoder is one wide."""
    # An arc rises to half its control point's height, which is half its width, plus its start's.
    low = _TOP - _TALLEST - _ROOM if picture.tokens else -0.4
    if picture.shared:
        low -= _LINE
    return low, 0.6 + 0.25 * max(1, picture.longest)


def draw_plan(axes: Axes, picture: PlanPicture) -> None:
    """Encoders in a row; an arc from every producer to who reuses it; tokens as boxes below."""
    from matplotlib.patches import Circle, FancyArrowPatch

    consumers = {*(consumer for _, consumer in picture.arcs), *picture.averages}
    for source, consumer in picture.arcs:
        axes.add_patch(
            FancyArrowPatch(
                (source, _RADIUS),
                (consumer, _RADIUS),
                connectionstyle="arc3,rad=-0.5",
                arrowstyle="-|>",
                mutation_scale=11,
                color=ACCENT,
                linewidth=1.5,
            )
        )
    for encoder in range(picture.num_encoders):
        reuses = encoder in consumers
        axes.add_patch(
            Circle(
                (encoder, 0), _RADIUS, facecolor=PAPER if reuses else INK, edgecolor=INK,
                linestyle="--" if encoder in picture.averages else "-",
            )
        )  # fmt: skip
        axes.text(
            encoder, 0, str(encoder), ha="center", va="center", fontsize=8,
            color=INK if reuses else PAPER,
        )  # fmt: skip
    for encoder in picture.averages:
        axes.text(
            encoder, _RADIUS + 0.05, "mean", ha="center", va="bottom", fontsize=7, color=ACCENT
        )
    for encoder in picture.own_class:
        place = (encoder - 0.7 * _RADIUS, 0.7 * _RADIUS)
        axes.add_patch(Circle(place, _RADIUS / 4, facecolor=INK, edgecolor=INK))
    _draw_tokens(axes, picture)
    axes.set_xlim(-0.6, picture.num_encoders - 0.4)
    axes.set_ylim(*plan_span(picture))
    axes.set_aspect("equal")
    axes.axis("off")


def _draw_tokens(axes: Axes, picture: PlanPicture) -> None:
    """A box an encoder, as high as many tokens enter it; where rows are dead, it is open.

    Where tokens share rows, a bar beside the box is as high as there are rows.
    """
    from matplotlib.patches import Rectangle

    rows, shared = dict(picture.rows), dict(picture.shared)
    if not picture.tokens:
        for encoder, count in picture.shared:
            _write_rows(axes, encoder, -0.4, count)
    first = max(picture.tokens, default=1)
    for encoder, tokens in enumerate(picture.tokens):
        height = max(_LEAST, _TALLEST * tokens / first)
        live = rows.get(encoder)
        _box(axes, encoder, height, filled=live is None)
        if live is not None:
            _box(axes, encoder, max(_LEAST, height * live / tokens), filled=True)
        label = str(tokens) if live is None else f"{tokens} \u2192 {live}"
        axes.text(encoder, _TOP - height - 0.05, label, ha="center", va="top", fontsize=8)
        if (few := shared.get(encoder)) is not None:
            high = max(_LEAST, height * few / tokens)
            axes.add_patch(
                Rectangle((encoder + _RADIUS, _TOP - high), _BAR, high, facecolor=ACCENT)
            )
            _write_rows(axes, encoder, _TOP - height - 0.05 - _LINE, few)


def _box(axes: Axes, encoder: int, height: float, *, filled: bool) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(
        Rectangle(
            (encoder - _RADIUS, _TOP - height), 2 * _RADIUS, height,
            facecolor=PALE if filled else PAPER, edgecolor=INK, linewidth=0.8,
            linestyle="-" if filled else "--",
        )
    )  # fmt: skip


def _write_rows(axes: Axes, encoder: int, top: float, rows: int) -> None:
    axes.text(encoder, top, str(rows), ha="center", va="top", fontsize=8, color=ACCENT)
