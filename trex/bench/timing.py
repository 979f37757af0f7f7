"""Timing functions side by side, on a machine that does other work too.

All run in turns in one process, in an order drawn anew every round, and are compared round by
round: whatever slows the machine down slows all of them, and cancels.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray

#: `cpu`: time of this process on all its threads; `wall`: on the clock, which others may steal
Clock = Literal["cpu", "wall"]

_RESAMPLES: Final = 2_000
_WARM_UP: Final = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A median with a 95 % bootstrap interval, over rounds."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Timings:
    """Seconds of every function in every round.

    Attributes:
        seconds: name -> (rounds,), of one call.
        clock: which.
    """

    seconds: dict[str, NDArray[np.float64]]
    clock: Clock

    def latency_s(self, name: str) -> Interval:
        """Of one call."""
        return _interval(self.seconds[name])

    def ratio(self, name: str, reference: str) -> Interval:
        """Its seconds over another one's, of the same rounds."""
        return _interval(self.seconds[name] / self.seconds[reference])


def plain(interval: Interval) -> dict[str, float]:
    """As plain values."""
    return {"median": interval.median, "low": interval.low, "high": interval.high}


def clock_of(threads: int, device: str) -> Clock:
    """The process's own time where one thread of a CPU does all the work, else the wall's."""
    return "cpu" if threads == 1 and device == "cpu" else "wall"


def interleaved(
    functions: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    clock: Clock,
    device: str = "cpu",
    seed: int = 0,
) -> Timings:
    """Call every function once a round, after rounds that do not count.

    Args:
        functions: by name; they run on `device`.
        rounds: that count.
        clock: what is read.
        device: whose work is waited for.
        seed: of the orders.
    """
    order, shuffle = list(functions), random.Random(seed)
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    read = time.process_time if clock == "cpu" else time.perf_counter
    for number in range(-_WARM_UP, rounds):
        shuffle.shuffle(order)
        for name in order:
            _wait(device)
            start = read()
            functions[name]()
            _wait(device)
            if number >= 0:
                seconds[name].append(read() - start)
    return Timings(seconds={name: np.array(of) for name, of in seconds.items()}, clock=clock)


def _wait(device: str) -> None:
    if device != "cpu":
        torch.accelerator.synchronize(torch.device(device))


def _interval(values: NDArray[np.float64]) -> Interval:
    draws = np.random.default_rng(0).integers(len(values), size=(_RESAMPLES, len(values)))
    low, high = np.quantile(np.median(values[draws], axis=1), (0.025, 0.975))
    return Interval(median=float(np.median(values)), low=float(low), high=float(high))
