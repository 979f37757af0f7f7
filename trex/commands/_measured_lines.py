"""A plan's price on a measured machine, for `trex cost`: latency alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trex.architecture import Architecture
    from trex.hardware import MeasuredDevice
    from trex.plan import Plan


def priced(device: MeasuredDevice, model: Architecture, plan: Plan) -> dict[str, Any]:
    """Predicted latency of a plan and of the original, as plain values.

    Raises:
        ChipError: the device was measured with another model.
        PlanError: the model cannot run the plan.
    """
    from trex.hardware import workload

    profile = device.profile
    work, original = workload(model, plan), workload(model)
    ours, theirs = device.latency_s(work), device.latency_s(original)
    timed = next((run for run in profile.runs if run.plan == str(plan)), None)
    return {
        "model": model.model,
        "device": device.name,
        "basis": device.basis,
        "runtime": profile.runtime,
        "threads": profile.threads,
        "dtype": profile.dtype,
        "batch": profile.batch,
        "plan": str(plan),
        "latency_s": ours,
        "original_latency_s": theirs,
        "latency_ratio": ours / theirs,
        "spread": device.spread,
        "tells_apart": device.tells_apart(ours, theirs),
        "measured_s": None if timed is None else timed.latency_s.median,
        "macs": work.macs,
        "original_macs": original.macs,
        "not_measured": ["energy", "area", "EDAP"],
    }


def lines(found: Mapping[str, Any]) -> list[str]:
    """The same for people."""
    near = (
        ""
        if found["tells_apart"] or not found["plan"]
        else "; closer to the original than the spread, so not told apart from it"
    )
    shown = [
        f"{found['model']} on {found['device']}: {found['runtime']}, {found['dtype']}, "
        f"{found['threads']} thread(s), batches of {found['batch']}",
        f"plan: {found['plan'] or 'none, the original'}",
        "",
        f"latency of a batch, predicted   {found['latency_s'] * 1e3:10.3f} ms ± "
        f"{100 * found['spread']:.1f} %",
        f"the original's                  {found['original_latency_s'] * 1e3:10.3f} ms",
        f"ratio                           {found['latency_ratio']:10.3f}{near}",
    ]
    if found["measured_s"] is not None:
        shown.append(f"timed when it was profiled      {found['measured_s'] * 1e3:10.3f} ms")
    return [
        *shown,
        "",
        f"{found['macs'] / 1e9:.4g} GMAC, the original {found['original_macs'] / 1e9:.4g}",
        "energy, area, EDAP: nobody measured them on this machine",
    ]
