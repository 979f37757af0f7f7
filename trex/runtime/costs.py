"""What the parts of a plan cost: what images pay that go only a part of the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from trex.architecture import Architecture, Operation
from trex.hardware import Accounting, EncoderWork, is_measured, price, workload
from trex.hardware.measured import FEATURES, OUTSIDE, encoder_features
from trex.plan import Plan

#: quantity -> what the stem, every encoder in order, and the head cost, in SI units
Parts = Mapping[str, Sequence[float]]


def parts_of(
    architecture: Architecture,
    plan: Plan,
    device: Any,
    accounting: Accounting,
    densities: Any = None,
) -> dict[str, list[float]]:
    """Latency and energy of the stem, of every encoder and of the head.

    They add up to the plan's price. What lies between two encoders counts to the first of them,
    what the chip has once to the stem. Leakage is that of a whole image's time. On a measured
    machine only latencies are known, and all that is outside the encoders counts to the stem.

    Args:
        architecture: the model.
        plan: of it.
        device: a chip, or a measured machine.
        accounting: of a chip.
        densities: as in `trex.hardware.price`.

    Returns:
        `latency_s` and, of a chip, `energy_j`, each a list: stem, encoders in order, head.

    Raises:
        TrexError: the model cannot run the plan, or the device cannot price it.
    """
    work = workload(architecture, plan)
    encoders = [item for item in work.body if isinstance(item, EncoderWork)]
    if is_measured(device):
        device.check(architecture)
        per = device.profile.coefficients
        each = [sum(per[f] * encoder_features(item)[f] for f in FEATURES) for item in encoders]
        return {"latency_s": [per[OUTSIDE], *each, 0.0]}
    place: dict[str, int] = {}
    part = 0
    for item in work.body:
        if isinstance(item, EncoderWork):
            part = item.encoder.index + 1
            place |= {op.name: part for op in item.operations}
        else:
            place[item.name] = len(encoders) + 1 if part == len(encoders) else part
    latency, energy = ([0.0] * (len(encoders) + 2) for _ in range(2))
    cost = price(work, device, accounting, densities=densities)
    for layer, sums in cost.by_layer().items():
        latency[place.get(layer, 0)] += sums.latency_s
        energy[place.get(layer, 0)] += sums.energy_j
    return {"latency_s": latency, "energy_j": energy}


def exit_cost(
    architecture: Architecture, width: int, device: Any, accounting: Accounting
) -> dict[str, float]:
    """What an early exit's linear map costs beside the model's head: one vector, `width` wide.

    0 where the accounting has no term outside the encoders, and on a measured machine, where
    nobody timed it.

    Returns:
        `latency` in seconds and `energy` in joules.

    Raises:
        TrexError: the device cannot price it.
    """
    if is_measured(device):
        return {"latency": 0.0, "energy": 0.0}
    linear = Operation(
        name="exit", kind="static_matmul", part="head", vectors=1, in_features=width,
        out_features=width, bias=True,
    )  # fmt: skip
    more = replace(architecture, body=(*architecture.body, linear))
    before, after = (price(workload(of), device, accounting) for of in (architecture, more))
    return {
        "latency": max(after.latency_s - before.latency_s, 0.0),
        "energy": max(after.energy_j - before.energy_j, 0.0),
    }
