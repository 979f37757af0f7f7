"""A plan's price on a measured machine as text, for `trex cost`: latency alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trex.api.price import MachinePrice


def machine_lines(found: MachinePrice) -> list[str]:
    """A price for people."""
    near = (
        ""
        if found.tells_apart or not found.plan
        else "; closer to the original than the spread, so not told apart from it"
    )
    told = [
        f"{found.model} on {found.device}: {found.runtime}, {found.dtype}, "
        f"{found.threads} thread(s), batches of {found.batch}",
        f"plan: {found.plan or 'none, the original'}",
        "",
        f"latency of a batch, predicted   {found.latency_s * 1e3:10.3f} ms ± "
        f"{100 * found.spread:.1f} %",
        f"the original's                  {found.original_latency_s * 1e3:10.3f} ms",
        f"ratio                           {found.latency_ratio:10.3f}{near}",
    ]
    if found.measured_s is not None:
        told.append(f"timed when it was profiled      {found.measured_s * 1e3:10.3f} ms")
    return [
        *told,
        "",
        f"{found.macs / 1e9:.4g} GMAC, the original {found.original_macs / 1e9:.4g}",
        "energy, area, EDAP: nobody measured them on this machine",
    ]
