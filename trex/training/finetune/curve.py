"""How a training goes: a progress bar for people, a CSV file for curves."""

from __future__ import annotations

import csv
import io
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tqdm import tqdm

from trex.files import append_line, write_atomic
from trex.progress import is_told, tell
from trex.store.finetuning import read_curve

#: Rows of a curve, at most and about; each is the last of so many steps.
_ROWS: Final = 1000


class Curve:
    """One training's figures.

    Args:
        file: CSV; rows after `first` (of a killed run) are taken out. None writes nothing.
        columns: names of the figures, in order.
        steps: of the whole training.
        first: steps that are done.
        images: of a step.
    """

    def __init__(
        self, file: Path | None, columns: tuple[str, ...], *, steps: int, first: int, images: int
    ) -> None:
        self._file = file
        self._columns = ("step", *columns, "images_per_s", "wait_share")
        self._every = max(1, steps // _ROWS)
        self._images = images
        self._done = first
        self._since = first
        self._start = time.perf_counter()
        self._waited_s = self.seconds = self.waited_s = 0.0
        if file is not None:
            self._begin(file, first)
        self._total = steps * images
        self._bar = tqdm(
            desc="fine-tuning",
            total=self._total,
            initial=first * images,
            unit=" images",
            file=sys.stderr,
            # without a terminal, where a callback is told, and in all processes but one, there
            # is no bar
            disable=None if file is not None and not is_told() else True,
            unit_scale=True,
        )

    def _begin(self, file: Path, first: int) -> None:
        kept = read_curve(file) if first and file.exists() else []
        buffer = io.StringIO(newline="")
        writer = csv.DictWriter(buffer, self._columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(row for row in kept if int(row["step"]) <= first)
        write_atomic(file, buffer.getvalue())

    def add(self, figures: Mapping[str, float], waited_s: float) -> None:
        """Note one more step: its figures and the seconds it waited for images."""
        self._done += 1
        self._waited_s += waited_s
        self._bar.update(self._images)
        if self._file is not None:
            tell("fine-tuning", self._done * self._images, self._total, "images")
        if self._done % self._every:
            return
        now = time.perf_counter()
        seconds = now - self._start
        self.seconds += seconds
        self.waited_s += self._waited_s
        speed = (self._done - self._since) * self._images / seconds
        waiting = self._waited_s / seconds
        self._bar.set_postfix_str(f"loss {figures['loss']:.4f}, {waiting:.0%} waiting")
        if self._file is not None:
            row = {**figures, "step": self._done, "images_per_s": speed, "wait_share": waiting}
            cells = [_cell(row.get(name)) for name in self._columns]
            append_line(self._file, ",".join(cells))
        self._start, self._since, self._waited_s = now, self._done, 0.0

    @property
    def spent(self) -> tuple[float, float]:
        """Seconds since the first of these steps, and of these waiting for images."""
        return self.seconds + time.perf_counter() - self._start, self.waited_s + self._waited_s

    def close(self) -> None:
        """End the bar."""
        self._bar.close()


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
