"""From a machine to a measured device: whole-model runs of designed plans, and a fit."""

from __future__ import annotations

import logging
import os
import platform
import statistics
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

from torch import nn

from trex.architecture import Architecture
from trex.bench.designs import designed_plans, random_plans
from trex.bench.runtimes import Setting, prepared
from trex.bench.timing import Clock, Timings, clock_of, interleaved, plain
from trex.errors import BenchError
from trex.exporters.variant import Variant
from trex.hardware.measured import (
    FEATURES,
    OUTSIDE,
    MeasuredDevice,
    Profile,
    architecture_hash,
    features_of,
    fit_coefficients,
)
from trex.hardware.workload import workload
from trex.models.registry import architecture_of
from trex.plan import Plan
from trex.reuse import apply_plan
from trex.training.transforms import DataConfig
from trex.versions import versions

_logger = logging.getLogger(__name__)

#: plans that are in memory and timed together, the original among them
_TOGETHER: Final = 9
#: the libraries whose versions change latencies most
_TIMED: Final = frozenset({"torch", "onnxruntime"})


def profile_model(
    name: str,
    model: nn.Module,
    arguments: dict[str, Any],
    setting: Setting,
    batch: int,
    *,
    rounds: int,
    held_out: int,
) -> Profile:
    """Time designed plans of a model on this machine, and fit coefficients to them.

    Args:
        name: the model's.
        model: the original; its weights do not matter.
        arguments: what else builds it.
        setting: how it runs.
        batch: images in a forward.
        rounds: of timing.
        held_out: random plans that are timed beside the others and not fitted to.

    Raises:
        BenchError: the model has no encoders, or cannot run in this setting.
    """
    found = architecture_of(model, name)
    if not found.encoders:
        raise BenchError(
            f"{name} has no encoders that TReX understands, so there are no plans to tell apart",
            hint="time it with trex bench",
        )
    designed = designed_plans(found.layout)
    tests = random_plans(found.layout, held_out, but=designed)
    clock = clock_of(setting.threads, setting.device)
    original, ratios = _timed(
        name, model, arguments, [*designed[1:], *tests], setting, batch, rounds, clock
    )
    seconds = {Plan(): original["median"]}
    seconds |= {plan: original["median"] * ratios[plan]["median"] for plan in designed[1:]}
    coefficients = fit_coefficients(found, seconds)
    runs = [_run(found, Plan(), True, original, dict.fromkeys(original, 1.0), coefficients)]
    for plan in (*designed[1:], *tests):
        scaled = {end: original["median"] * value for end, value in ratios[plan].items()}
        runs.append(_run(found, plan, plan in designed, scaled, ratios[plan], coefficients))
    return Profile.model_validate(
        {
            "model": name,
            "architecture_sha256": architecture_hash(found),
            "runtime": setting.runtime,
            "device": setting.device,
            "threads": setting.threads,
            "dtype": setting.dtype,
            "batch": batch,
            "clock": clock,
            "rounds": rounds,
            "coefficients": coefficients,
            "original_s": original["median"],
            "spread": spread_of(runs),
            "runs": runs,
            "machine": machine(setting),
            "versions": {**versions(), **_runtime_version(setting)},
        }
    )


def setting_of(profile: Profile) -> Setting:
    """How a profile's models ran."""
    return Setting(
        runtime=profile.runtime,
        device=profile.device,
        threads=profile.threads,
        dtype=profile.dtype,
    )


def check_here(device: MeasuredDevice) -> None:
    """See that a device is this very machine, and that it can run as it was measured.

    Raises:
        BenchError: it is another machine, or has fewer processors than it was measured with.
        ExportError: its runtime is not installed; it names the extra.
    """
    profile, hint = device.profile, "profile this machine with trex profile; --force goes on"
    setting = setting_of(profile)
    setting.check()
    here = machine(setting)
    if here != profile.machine:
        was, now = (", ".join(map(str, of.values())) for of in (profile.machine, here))
        raise BenchError(f"{device.name} was measured on {was}; this is {now}", hint=hint)
    processors = processors_here()
    if profile.device == "cpu" and profile.threads > processors:
        raise BenchError(
            f"{device.name} was measured with {profile.threads} threads; here are {processors} "
            "processors",
            hint=hint,
        )
    current = {**versions(), **_runtime_version(setting)}
    for name in _TIMED & profile.versions.keys():
        if current.get(name) != profile.versions[name]:
            _logger.warning(
                "%s was measured with %s %s; here it is %s",
                device.name, name, profile.versions[name], current.get(name),
            )  # fmt: skip


def processors_here() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def spread_of(runs: Sequence[dict[str, Any]]) -> float:
    """How far predictions lie from measurements: the median, relative, and the noise at least.

    Of plans that were not fitted to, where there are any.
    """
    tests = [run for run in runs if not run["fitted"]] or list(runs)
    errors = [abs(r["predicted_s"] / r["latency_s"]["median"] - 1) for r in tests]
    noise = [(r["ratio"]["high"] - r["ratio"]["low"]) / 2 / r["ratio"]["median"] for r in runs[1:]]
    return float(max(statistics.median(errors), statistics.median(noise or [0.0]), 1e-6))


def machine(setting: Setting) -> dict[str, object]:
    """What tells this machine from others."""
    import torch

    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text(errors="replace").splitlines()
        named = (line.partition(":")[2].strip() for line in lines if "model name" in line)
        processor = next(named, processor)
    if setting.device != "cpu":
        processor = torch.cuda.get_device_name()
    return {"processor": processor, "system": platform.system()}


def _timed(
    name: str,
    model: nn.Module,
    arguments: dict[str, Any],
    plans: Sequence[Plan],
    setting: Setting,
    batch: int,
    rounds: int,
    clock: Clock,
) -> tuple[dict[str, float], dict[Plan, dict[str, float]]]:
    """The original's seconds, and every plan's as shares of the original's beside it."""

    def ready(plan: Plan) -> Callable[[], object]:
        made = Variant(
            name=name,
            arguments=arguments,
            model=apply_plan(deepcopy(model), plan, keep_originals=False).eval(),
            data_config=DataConfig.of_model(model),
            base_weights_sha256="",
        )
        return prepared(made, setting, batch)

    reference = ready(Plan())
    originals: list[dict[str, float]] = []
    ratios: dict[Plan, dict[str, float]] = {}
    for start in range(0, len(plans), _TOGETHER - 1):
        some = plans[start : start + _TOGETHER - 1]
        functions = {"": reference, **{str(plan): ready(plan) for plan in some}}
        found: Timings = interleaved(functions, rounds, clock=clock, device=setting.device)
        _logger.info("%d of %d plans timed", start + len(some), len(plans))
        originals.append(plain(found.latency_s("")))
        ratios |= {plan: plain(found.ratio(str(plan), "")) for plan in some}
    middle = sorted(originals, key=lambda of: of["median"])[len(originals) // 2]
    return middle, ratios


def _run(
    model: Architecture,
    plan: Plan,
    fitted: bool,
    latency_s: dict[str, float],
    ratio: dict[str, float],
    coefficients: dict[str, float],
) -> dict[str, object]:
    features = features_of(workload(model, plan))
    predicted = coefficients[OUTSIDE] + sum(coefficients[f] * features[f] for f in FEATURES)
    return {
        "plan": str(plan),
        "fitted": fitted,
        "latency_s": latency_s,
        "ratio": ratio,
        "predicted_s": predicted,
    }


def _runtime_version(setting: Setting) -> dict[str, str]:
    from importlib import metadata

    if setting.runtime != "ort":
        return {}
    return {name: metadata.version(name) for name in ("onnx", "onnxruntime")}
