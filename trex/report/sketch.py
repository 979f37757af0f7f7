"""A front as text, for terminals."""

from __future__ import annotations

import math
from typing import Final

from trex.store.schemas import Short, Summary
from trex.units import significant

_WIDTH: Final = 60
_HEIGHT: Final = 10


def front_sketch(result: Summary) -> list[str]:
    """A search's front, loss against EDAP gain, or speed-up on a measured machine.

    Nothing where fewer than three points differ.
    """
    baseline = result.baseline.overall
    name = "times faster" if result.baseline.on_machine else "EDAP gain"

    def point(record: Short) -> tuple[float, float]:
        return baseline / record.estimate.overall, record.selection.loss

    points = [point(record) for record in result.pareto]
    best = point(result.best)
    gains, losses = zip(*points, best, strict=True)
    varied = len(set(points)) >= 3 and max(gains) > min(gains) and max(losses) > min(losses)
    if not varied or min(losses) <= 0:
        return []
    low, high = min(losses), max(losses)
    grid = [[" "] * _WIDTH for _ in range(_HEIGHT)]
    for mark, (gain, loss) in [*(("o", p) for p in points), ("*", best)]:
        column = (gain - min(gains)) / (max(gains) - min(gains))
        row = math.log(high / loss) / math.log(high / low)
        grid[round(row * (_HEIGHT - 1))][round(column * (_WIDTH - 1))] = mark
    labels = ["loss", significant(high, 3), *[""] * (_HEIGHT - 2), significant(low, 3)]
    width = max(map(len, labels))
    first, last = f"{min(gains):.2f}x", f"{max(gains):.2f}x"
    ruler = f"{first}{name:^{_WIDTH - len(first) - len(last)}}{last}"
    return [
        labels[0].rjust(width),
        *(
            f"{label:>{width}} |{''.join(row)}".rstrip()
            for label, row in zip(labels[1:], grid, strict=True)
        ),
        f"{'':{width}} +{'-' * _WIDTH}",
        f"{'':{width}}  {ruler}",
        f"{'':{width}}  o the front, * the best plan found; loss grows by factors",
    ]
