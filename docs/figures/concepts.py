"""Draw the pictures of `docs/concepts.md`.

python docs/figures/concepts.py

Pictures of ideas: no measured number is in them. The same file comes out every time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyBboxPatch

HERE = Path(__file__).parent
OWN, REUSED, GONE, CLASS = "#2563a8", "#d9822b", "#c4c8ce", "#2f8f5b"
INK = "#22262b"
GROUPS = ("#2563a8", "#d9822b", "#2f8f5b", "#9550a8", "#b03a48")

plt.rcParams.update(
    {"svg.hashsalt": "trex", "font.size": 10, "text.color": INK, "font.family": "DejaVu Sans"}
)


def canvas(width: float, height: float) -> tuple[Any, Any]:
    """A figure whose units are a tenth of an inch."""
    figure, axes = plt.subplots(figsize=(width / 10, height / 10))
    figure.subplots_adjust(0, 0, 1, 1)
    axes.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    axes.axis("off")
    return figure, axes


def save(figure: Any, name: str) -> None:
    """Write the SVG file."""
    figure.savefig(HERE / f"{name}.svg", metadata={"Date": None}, facecolor="white")
    plt.close(figure)


def box(axes: Any, x: float, y: float, text: str, colour: str, width: float = 9) -> None:
    """A named part of an encoder; grey and dashed where it is not computed."""
    gone = colour == GONE
    patch = FancyBboxPatch(
        (x, y), width, 3.4, boxstyle="round,pad=0,rounding_size=0.7", linewidth=1.3,
        edgecolor=colour, facecolor="white" if gone else f"{colour}22",
        linestyle="--" if gone else "-",
    )  # fmt: skip
    axes.add_patch(patch)
    ink = "#8a9099" if gone else INK
    axes.text(x + width / 2, y + 1.6, text, ha="center", va="center", color=ink, fontsize=9)


Point = tuple[float, float]


def arrow(axes: Any, start: Point, end: Point, colour: str = INK, bend: float = 0) -> None:
    """An arrow between two points."""
    style = {"arrowstyle": "-|>", "color": colour, "lw": 1.5, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops={**style, "connectionstyle": f"arc3,rad={bend}"})


def depth() -> None:
    """Encoder 5 takes the attention output, or the map, of encoder 4."""
    figure, axes = canvas(66, 36)
    parts = ("Q, K", "softmax: map", "V", "map × V: output", "projection", "MLP")
    columns = (
        (1, "encoder 4: a producer", ()),
        (24, "5<-4: reuses the output", parts[:4]),
        (47, "5<-4:map/mixed: reuses maps", parts[:2]),
    )
    for x, title, left_out in columns:
        axes.text(x + 8, 33.6, title, ha="center", fontsize=9, weight="bold")
        for place, part in enumerate(parts):
            box(axes, x, 28 - 5 * place, part, GONE if part in left_out else OWN, 16)
    arrow(axes, (17, 14.7), (24, 9.7), REUSED, 0.1)
    axes.text(20.4, 15, "W", color=REUSED, ha="center", fontsize=10, weight="bold")
    arrow(axes, (17, 25.3), (47, 15.6), REUSED, -0.12)
    axes.text(43.8, 22.4, "heads\nmixed", color=REUSED, ha="center", fontsize=8, weight="bold")
    save(figure, "concept-depth")


def example_map(seed: int, tokens: int = 14) -> np.ndarray:
    """A made-up attention map: a band, a column that all attend to, some noise."""
    drawn = np.random.default_rng(seed)
    place = np.arange(tokens)
    near = np.exp(-(((place[:, None] - place[None] - (seed % 3 - 1) * 3) / 2.0) ** 2))
    scores = near + 0.9 * (place[None] == seed * 5 % tokens) + 0.35 * drawn.random((tokens,) * 2)
    return scores / scores.sum(1, keepdims=True)


def picture(axes: Any, map_NN: np.ndarray, x: float, y: float, size: float, **how: Any) -> None:
    """A map as a small image."""
    axes.imshow(map_NN, extent=(x, x + size, y, y + size), zorder=2, **how)
    axes.plot([x, x + size, x + size, x, x], [y, y, y + size, y + size, y], color=INK, lw=0.8,
              zorder=3)  # fmt: skip


def heads() -> None:
    """A consumer's map: its own average, and other heads' deviations from theirs."""
    figure, axes = canvas(66, 18)
    average = sum(example_map(seed) for seed in (1, 4, 7)) / 3
    deviations = [example_map(seed) - average for seed in (2, 3, 5)]
    total = average + 0.6 * deviations[0] + 0.3 * deviations[1] + 0.1 * deviations[2]
    picture(axes, total, 1, 4, 9, cmap="Blues", vmin=0, vmax=0.25)
    picture(axes, average, 14, 4, 9, cmap="Blues", vmin=0, vmax=0.25)
    for place, deviation in enumerate(deviations):
        left = 28 + 13.4 * place
        picture(axes, deviation, left, 4, 9, cmap="RdBu_r", vmin=-0.2, vmax=0.2)
        axes.text(left - 2.4, 8.5, f"+ w{place}", ha="center", va="center", fontsize=10)
        axes.text(left + 4.5, 1.8, f"source's head {place}", ha="center", fontsize=8.5)
    axes.text(12, 8.5, "=", ha="center", va="center", fontsize=13)
    axes.text(5.5, 1.8, "consumer's map", ha="center", fontsize=8.5)
    axes.text(18.5, 1.8, "its own average", ha="center", fontsize=8.5)
    axes.text(18.5, 14, "a constant, from\ncalibration images", ha="center", fontsize=8.5)
    axes.text(46, 14, "how the source's heads deviate\non this image from their averages",
              ha="center", fontsize=8.5)  # fmt: skip
    save(figure, "concept-heads")


def tokens_of(axes: Any, x: float, y: float, colours: list[str], sizes: list[int]) -> None:
    """A row of tokens; larger where one stands for more."""
    for place, (colour, size) in enumerate(zip(colours, sizes, strict=True)):
        radius = 1.05 * size**0.5
        axes.add_patch(plt.Circle((x + 3.15 * place, y), radius, color=colour, zorder=3))


def tokens() -> None:
    """Merging takes tokens away for good; shared rows keep them; class rows keep one row."""
    figure, axes = canvas(68, 44)
    blue, orange, _, purple, red = GROUPS
    every = [CLASS, blue, blue, orange, orange, purple, red, red]
    groups = [CLASS, blue, orange, purple, red]
    cases = (
        (37, "merging: 3~3", every, groups, [1, 2, 2, 1, 2], "three pairs become a token each"),
        (22, "shared rows: 6=5", groups, every, [1] * 8, "every token stays, with its row's copy"),
        (7, "class rows: 11=class", [CLASS], [CLASS], [1], "the head reads this token only"),
    )
    for y, title, attended, after, sizes, words in cases:
        axes.text(0.5, y + 4.6, title, fontsize=9.5, weight="bold")
        tokens_of(axes, 2, y, every, [1] * 8)
        top = y + 0.6 * (len(attended) - 1)
        for place, colour in enumerate(attended):
            axes.add_patch(plt.Rectangle((31, top - 1.2 * place - 0.45), 7, 0.9, color=colour))
        arrow(axes, (27.3, y), (30, y))
        arrow(axes, (39, y), (41.5, y))
        rows = f"attention: {len(attended)} row{'s' * (len(attended) > 1)}"
        axes.text(34.5, y - 6.6, rows, ha="center", fontsize=8.5)
        tokens_of(axes, 43.3, y, after, sizes)
        axes.text(42.3, y - 6.6, words, fontsize=8.2)
    save(figure, "concept-tokens")


if __name__ == "__main__":
    depth()
    heads()
    tokens()
