"""Timing side by side: what is computed from seconds. No test measures time."""

from __future__ import annotations

import numpy as np
import pytest

from trex.bench.timing import Timings, clock_of, interleaved


def test_everything_runs_once_a_round_in_changing_order() -> None:
    calls: list[str] = []
    functions = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    found = interleaved(functions, 6, clock="wall")
    rounds = [tuple(calls[i : i + 3]) for i in range(0, len(calls), 3)]
    assert len(rounds) == 8  # two of them do not count
    assert all(sorted(one) == ["a", "b", "c"] for one in rounds)
    assert len(set(rounds)) > 1
    assert all(found.seconds[name].shape == (6,) for name in "abc")


def test_ratios_are_of_the_same_rounds() -> None:
    # a machine that grows slower and slower: ratios do not see it
    slow = np.linspace(1, 5, 20)
    found = Timings(seconds={"a": slow, "b": 2 * slow}, clock="cpu")
    ratio = found.ratio("b", "a")
    assert (ratio.median, ratio.low, ratio.high) == pytest.approx((2, 2, 2))
    latency = found.latency_s("a")
    assert latency.low < latency.median == 3 < latency.high


def test_one_thread_is_timed_by_what_it_did() -> None:
    assert clock_of(1, "cpu") == "cpu"
    assert clock_of(2, "cpu") == clock_of(1, "cuda") == "wall"
