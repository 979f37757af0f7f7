"""Variants and models side by side: latency, throughput, and how much faster, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trex.bench.profile import machine
from trex.bench.runtimes import Setting, prepared
from trex.bench.timing import Timings, clock_of, interleaved, plain
from trex.exporters.variant import Variant
from trex.versions import versions


def bench(
    subjects: Mapping[str, Variant],
    settings: Sequence[Setting],
    batches: Sequence[int],
    rounds: int,
) -> dict[str, Any]:
    """Time everything in one run, in turns; what it was, as plain values.

    Args:
        subjects: by name; the first in the first setting is what others are compared with.
        settings: of one device and one number of threads.
        batches: images in a forward.
        rounds: of timing.

    Raises:
        BenchError: something cannot run.
    """
    first = settings[0]
    clock = clock_of(first.threads, first.device)
    rows = []
    for batch in batches:
        places = [(name, setting) for setting in settings for name in subjects]
        functions = {
            _name(name, setting): prepared(subjects[name], setting, batch)
            for name, setting in places
        }
        found = interleaved(functions, rounds, clock=clock, device=first.device)
        rows += [_row(found, name, setting, batch, _name(*places[0])) for name, setting in places]
    return {
        "basis": "measured",
        "machine": machine(first),
        "device": first.device,
        "threads": first.threads,
        "clock": clock,
        "rounds": rounds,
        "plans": {name: str(variant.plan) for name, variant in subjects.items()},
        "models": {name: variant.name for name, variant in subjects.items()},
        "rows": rows,
        "versions": versions(),
    }


def _row(
    found: Timings, name: str, setting: Setting, batch: int, reference: str
) -> dict[str, Any]:
    own = _name(name, setting)
    latency, speedup = found.latency_s(own), found.ratio(reference, own)
    return {
        "variant": name,
        "runtime": setting.runtime,
        "dtype": setting.dtype,
        "batch": batch,
        "latency_s": plain(latency),
        "images_per_second": batch / latency.median,
        "speedup": plain(speedup),
    }


def _name(name: str, setting: Setting) -> str:
    return f"{name} {setting.runtime} {setting.dtype}"
