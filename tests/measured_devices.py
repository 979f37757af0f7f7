"""A measured device of the small model that tests search with, and timings made up for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from small_runs import CLASSES, MODEL, SIDE

from trex.bench.profile import machine
from trex.bench.runtimes import Setting
from trex.bench.timing import Timings
from trex.hardware import workload
from trex.hardware.measured import (
    FEATURES,
    OUTSIDE,
    Profile,
    architecture_hash,
    features_of,
    write_device,
)
from trex.models.registry import architecture
from trex.versions import versions

#: seconds a unit of every feature, as a machine might have them
COEFFICIENTS = {
    OUTSIDE: 1e-4, "linear": 1e-10, "attention": 4e-9, "map": 3e-9, "mixing": 1e-9,
    "matching": 1e-9, "rounds": 1e-6, "shared": 2e-6, "own": 5e-4,
}  # fmt: skip


def write_machine(folder: Path, **changes: Any) -> Path:
    """A device of this machine; `changes` in its profile."""
    model = architecture(MODEL, num_classes=len(CLASSES), img_size=SIDE)
    found = features_of(workload(model))
    original_s = COEFFICIENTS[OUTSIDE] + sum(COEFFICIENTS[n] * found[n] for n in FEATURES)
    interval = {"median": original_s, "low": 0.99 * original_s, "high": 1.01 * original_s}
    run = {
        "plan": "", "fitted": True, "latency_s": interval,
        "ratio": {"median": 1.0, "low": 1.0, "high": 1.0}, "predicted_s": original_s,
    }  # fmt: skip
    profile = Profile.model_validate({
        "model": MODEL, "architecture_sha256": architecture_hash(model), "runtime": "eager",
        "device": "cpu", "threads": 1, "dtype": "fp32", "batch": 2, "clock": "cpu", "rounds": 3,
        "coefficients": COEFFICIENTS, "original_s": original_s, "spread": 0.02, "runs": [run],
        "machine": machine(Setting()), "versions": versions(), **changes,
    })  # fmt: skip
    folder.mkdir(parents=True)
    write_device(folder, [profile])
    return folder


class Clockwork:
    """In the place of a clock: the shares of the original's time that plans take, as they come.

    Attributes:
        names: what was timed, call by call.
    """

    def __init__(self, *shares: float) -> None:
        self._shares = list(shares)
        self.names: list[list[str]] = []

    def __call__(
        self, functions: Mapping[str, Callable[[], object]], rounds: int, **settings: Any
    ) -> Timings:
        """As `trex.bench.timing.interleaved`; every function runs once."""
        self.names.append([name for name in functions if name])
        seconds = {}
        for name, function in functions.items():
            function()
            share = (self._shares.pop(0) if self._shares else 0.5) if name else 1.0
            seconds[name] = np.full(rounds, 4e-3 * share)
        return Timings(seconds=seconds, clock="cpu")
