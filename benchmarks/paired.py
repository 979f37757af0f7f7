"""Comparing the speed of two functions on a machine that does other work too."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Function = Callable[[Tensor], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Paired:
    """CPU seconds of two functions and how they compare.

    Attributes:
        first_s: median of the first function.
        second_s: median of the second.
        ratio: median of second by first, each of one round.
        low: lower quartile of the same.
        high: upper quartile.
    """

    first_s: float
    second_s: float
    ratio: float
    low: float
    high: float


def compare(first: Function, second: Function, images: Tensor, rounds: int) -> Paired:
    """Run both on the images in turn, in changing order, after one round that does not count.

    CPU time of this process is taken, so that other processes count only by what they do to
    caches and clock rates, and neighbouring runs are compared, which meet the same conditions.
    """
    pairs = []
    for number in range(rounds + 1):
        if number % 2:
            later = _cpu_s(second, images)
            pairs.append((_cpu_s(first, images), later))
        else:
            pairs.append((_cpu_s(first, images), _cpu_s(second, images)))
    firsts, seconds = zip(*pairs[1:], strict=True)
    ratios = [b / a for a, b in pairs[1:]]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return Paired(
        first_s=statistics.median(firsts),
        second_s=statistics.median(seconds),
        ratio=middle,
        low=low,
        high=high,
    )


def machine() -> str:
    """Processor, threads and library version, for a table's head."""
    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            models = (line.partition(":")[2].strip() for line in lines if "model name" in line)
            name = next(models, name)
    return f"{name}, {torch.get_num_threads()} thread(s), torch {torch.__version__}"


def _cpu_s(function: Function, images: Tensor) -> float:
    start = time.process_time()
    function(images)
    return time.process_time() - start
