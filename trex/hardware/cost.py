"""What a workload costs on a chip: latency, energy, area, and where each of them goes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from trex.architecture import Operation
from trex.errors import ChipError
from trex.hardware.accuracy import AccuracyFigure
from trex.hardware.chip import Chip, Schedule
from trex.hardware.limits import not_modelled, used_assumptions
from trex.hardware.prices import SHARED_RESOURCES, Accounting, Densities, OperationPrice
from trex.hardware.schedule import Exposed, busiest, exposed_times, flow, pipelined_times
from trex.hardware.system import Pricer, most_heads, streams_on
from trex.hardware.workload import EncoderWork, Workload
from trex.units import EDAP_MJ_MS_MM2

#: `Operation.part` -> stage of the paper's breakdown; other parts are stages of their own.
_STAGES: Final = {
    "q": "qkv",
    "k": "qkv",
    "v": "qkv",
    "proj": "projection",
    "fc1": "mlp",
    "activation": "mlp",
    "fc2": "mlp",
    "norm1": "norm",
    "norm2": "norm",
    "residual1": "residual",
    "residual2": "residual",
}

#: What a lithography scanner exposes at once, 26 mm x 33 mm.
RETICLE_M2: Final = 858e-6

#: The layer that carries what the chip has once.
CHIP_LAYER: Final = "chip"


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """What one component spends on one layer. `latency_s` is what it adds to one image's."""

    layer: str
    stage: str
    component: str
    energy_j: float = 0.0
    latency_s: float = 0.0
    area_m2: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Sums:
    """A group of shares added up."""

    energy_j: float
    latency_s: float
    area_m2: float


class Bottleneck(NamedTuple):
    """What sets the pace of images.

    Attributes:
        resource: what an image occupies longest: a component of the chip that all encoders share,
            or an operation's own arrays. Where nothing overlaps, the component that takes most of
            the latency.
        busy_s: for so long an image.
        share: of the interval between images.
    """

    resource: str
    busy_s: float
    share: float


class Lifetime(NamedTuple):
    """How long cells last that are written for every image, one image after another.

    Attributes:
        seconds: until they have been written as often as they survive.
        cycles: how often that is.
        cell: what they are.
    """

    seconds: float
    cycles: float
    cell: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """The cost of one image. Totals are the sums of the shares, however grouped.

    `interval_s` is the time after which the next image can follow; it equals the latency unless
    the schedule is pipelined. `macs` counts what the accounting prices, `original_macs` the same
    for the model without a plan; 1 MAC is 1 operation, as in the TReX paper.
    """

    model: str
    chip: str
    accounting: Accounting
    schedule: Schedule
    plan: str
    n_reuse: int
    transform: str | None
    #: for every encoder, tokens in its attention (keys) and in its MLP
    tokens: tuple[tuple[int, int], ...]
    #: for every encoder, rows of attention that it computes
    rows: tuple[int, ...]
    #: what was priced, in order
    operations: tuple[Operation, ...]
    shares: tuple[Share, ...]
    interval_s: float
    bottleneck: Bottleneck
    macs: int
    original_macs: int
    not_modelled: tuple[str, ...]
    assumptions: tuple[str, ...]
    notes: tuple[str, ...]
    #: what is stored of the accuracy that the chip leaves
    accuracy: tuple[AccuracyFigure, ...]
    #: of the cells that K and V are written to; None where the chip gives no endurance
    lifetime: Lifetime | None = None

    @property
    def energy_j(self) -> float:
        """Joules an image."""
        return math.fsum(s.energy_j for s in self.shares)

    @property
    def latency_s(self) -> float:
        """Seconds from an image's start to its end."""
        return math.fsum(s.latency_s for s in self.shares)

    @property
    def area_m2(self) -> float:
        """Square metres of chip."""
        return math.fsum(s.area_m2 for s in self.shares)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What speaks against the chip as priced."""
        if self.area_m2 <= RETICLE_M2:
            return ()
        return (
            f"{self.area_m2 * 1e6:.0f} mm2 are more than one reticle exposes "
            f"({RETICLE_M2 * 1e6:.0f} mm2): this is no single die, and what links dies is not "
            "priced",
        )

    @property
    def edap_j_s_m2(self) -> float:
        """Energy × latency × area."""
        return self.energy_j * self.latency_s * self.area_m2

    @property
    def edap_mj_ms_mm2(self) -> float:
        """The same in the TReX paper's unit."""
        return self.edap_j_s_m2 * EDAP_MJ_MS_MM2

    @property
    def tops_per_w(self) -> float:
        """Operations done, per joule, in 10¹² (the paper's convention)."""
        return self.macs / self.energy_j / 1e12

    @property
    def tops_per_mm2(self) -> float:
        """The *original* model's operations per second and mm², in 10¹² (the paper's convention).

        Reuse spares operations, yet the paper counts them; `actual_tops_per_mm2` does not.
        """
        return self.original_macs / self.interval_s / (self.area_m2 * 1e6) / 1e12

    @property
    def actual_tops_per_mm2(self) -> float:
        """Operations done per second and mm², in 10¹²."""
        return self.macs / self.interval_s / (self.area_m2 * 1e6) / 1e12

    def by_layer(self) -> dict[str, Sums]:
        """Sums by operation, in the model's order; `chip` is what the chip has once."""
        return self._grouped(lambda s: s.layer)

    def by_component(self) -> dict[str, Sums]:
        """Sums by kind of hardware."""
        return self._grouped(lambda s: s.component)

    def by_stage(self) -> dict[str, Sums]:
        """Sums by stage of an encoder, all encoders together."""
        return self._grouped(lambda s: s.stage)

    def of_images(self, images: int) -> tuple[float, float]:
        """(seconds, joules) of several images in a row.

        Leakage of a pipeline is counted over each image's own latency, an upper bound, unless the
        chip's options say `leakage_over: interval`.
        """
        if images < 1:
            raise ValueError("at least one image")
        return self.latency_s + (images - 1) * self.interval_s, self.energy_j * images

    def _grouped(self, key: Callable[[Share], str]) -> dict[str, Sums]:
        groups: dict[str, list[Share]] = {}
        for share in self.shares:
            groups.setdefault(key(share), []).append(share)
        return {
            name: Sums(
                energy_j=math.fsum(s.energy_j for s in group),
                latency_s=math.fsum(s.latency_s for s in group),
                area_m2=math.fsum(s.area_m2 for s in group),
            )
            for name, group in groups.items()
        }


def price(
    work: Workload,
    chip: Chip,
    accounting: Accounting = "paper",
    *,
    schedule: Schedule | None = None,
    densities: Densities | None = None,
) -> Cost:
    """The cost of one image.

    `paper` accounting is the published equations: Q, K, V, scores, softmax, context, projection
    and MLP of every encoder, one after another; no transform, buffer, norm, stem or head. For a
    consumer that reuses a `map` the paper has no equation; it is priced by the same ones, its V,
    the write of V and the product with V kept. So are fewer tokens and rows, by their numbers; the
    equations have no term for matching and merging, means of what shares a row, and mixed maps.

    Args:
        work: what is done.
        chip: where.
        accounting: `paper`, `paper_transform` (adds the transforms' crossbars) or `full`.
        schedule: of `full` accounting; the chip's own by default.
        densities: operation name -> measured density of ones in each input bit-plane.

    Raises:
        ChipError: the accounting leaves nothing to price, or the densities do not fit.
    """
    pricer = Pricer.of(chip, accounting, schedule, densities, work.architecture)
    items = [
        pricer.encoder(item) if isinstance(item, EncoderWork) else pricer.outside(item)
        for item in work.body
    ]
    if not any(p.operation.macs for item in items for p in item):
        raise ChipError(
            f"{work.architecture.model} has no encoder that {accounting} accounting could price",
            hint="use full accounting",
        )
    times, interval_s, bottleneck = _times(work, items, pricer)
    shares = _shares(work, items, times, pricer, interval_s)
    latency_s = math.fsum(seconds for time in times for _, seconds in time)
    in_flight = math.ceil(latency_s / interval_s - 1e-9) if interval_s else 1
    return Cost(
        model=work.architecture.model,
        chip=chip.name,
        accounting=accounting,
        schedule=pricer.options.schedule,
        plan=str(work.plan),
        n_reuse=work.plan.n_reuse,
        transform=work.plan.transform,
        tokens=work.tokens,
        rows=work.rows,
        operations=tuple(p.operation for item in items for p in item),
        shares=tuple(shares),
        interval_s=interval_s,
        bottleneck=bottleneck,
        macs=sum(p.operation.macs for item in items for p in item),
        original_macs=_original_macs(work, accounting),
        not_modelled=not_modelled(work, pricer, max(in_flight, 1)),
        assumptions=used_assumptions(work, pricer),
        notes=chip.notes,
        accuracy=chip.accuracy,
        lifetime=_lifetime(items, pricer, interval_s),
    )


def _lifetime(
    items: list[tuple[OperationPrice, ...]], pricer: Pricer, interval_s: float
) -> Lifetime | None:
    """Every image writes each cell of a dynamic array once, or every second with two sets."""
    array = pricer.chip.dynamic_array
    cycles = array.device.endurance_cycles
    if cycles is None or not any(price.write_s for item in items for price in item):
        return None
    sets = 2 if pricer.options.double_buffered_writes else 1
    return Lifetime(cycles * interval_s * sets, cycles, array.cell)


def _original_macs(work: Workload, accounting: Accounting) -> int:
    if accounting == "full":
        return work.architecture.macs
    return sum(op.macs for encoder in work.architecture.encoders for op in encoder.operations)


def _times(
    work: Workload, items: list[tuple[OperationPrice, ...]], pricer: Pricer
) -> tuple[list[Exposed], float, Bottleneck]:
    """What every operation adds to the latency, in order, the interval, and what sets it."""
    schedule, doubled = pricer.options.schedule, pricer.options.double_buffered_writes
    if schedule != "pipelined":
        times = [t for i in items for t in exposed_times(i, schedule, double_buffered=doubled)]
        latency_s = math.fsum(seconds for time in times for _, seconds in time)
        return times, latency_s, _longest_component(times, latency_s)
    earlier: list[Operation | EncoderWork | None] = [None, *work.body[:-1]]
    joins = [streams_on(a, b) for a, b in zip(earlier, work.body, strict=True)]
    flows = [flow(item, double_buffered=doubled) for item in items]
    shared = [math.fsum(f.shared_s[i] for f in flows) for i in range(len(SHARED_RESOURCES))]
    interval_s = max(*(f.occupied_s for f in flows), *shared)
    longest = max(range(len(shared)), key=shared.__getitem__)
    if shared[longest] >= interval_s:
        name = SHARED_RESOURCES[longest]
        bottleneck = Bottleneck(pricer.interconnect if name == "bus" else name, interval_s, 1.0)
    else:
        slowest = max(range(len(flows)), key=lambda i: flows[i].occupied_s)
        operation = busiest(items[slowest], double_buffered=doubled)
        kind = "units" if operation.kind == "softmax" else "arrays"
        bottleneck = Bottleneck(f"{kind} of {operation.name}", interval_s, 1.0)
    return pipelined_times(items, joins, double_buffered=doubled), interval_s, bottleneck


def _longest_component(times: list[Exposed], latency_s: float) -> Bottleneck:
    sums: dict[str, float] = {}
    for time in times:
        for component, seconds in time:
            sums[component] = sums.get(component, 0.0) + seconds
    name = max(sums, key=sums.__getitem__)
    return Bottleneck(name, sums[name], sums[name] / latency_s)


def _shares(
    work: Workload,
    items: list[tuple[OperationPrice, ...]],
    times: list[Exposed],
    pricer: Pricer,
    interval_s: float,
) -> list[Share]:
    flat = [price for item in items for price in item]
    leaking_s = (
        interval_s
        if pricer.leaks_over_interval
        else math.fsum(seconds for time in times for _, seconds in time)
    )
    shares: list[Share] = []
    for price_, time in zip(flat, times, strict=True):
        op = price_.operation
        stage = _STAGES.get(op.part, op.part)
        parts: dict[str, list[float]] = {}
        for component, energy_j in price_.energy_j:
            parts.setdefault(component, [0.0, 0.0, 0.0])[0] += energy_j
        for component, seconds in time:
            parts.setdefault(component, [0.0, 0.0, 0.0])[1] += seconds
        for component, area_m2 in price_.area_m2:
            parts.setdefault(component, [0.0, 0.0, 0.0])[2] += area_m2
        if price_.leakage_w:
            parts["leakage"] = [price_.leakage_w * leaking_s, 0.0, 0.0]
        shares += [
            Share(
                layer=op.name,
                stage="write" if component == "array_write" else stage,
                component=component,
                energy_j=energy_j,
                latency_s=seconds,
                area_m2=area_m2,
            )
            for component, (energy_j, seconds, area_m2) in parts.items()
        ]
    leakage = pricer.chip.periphery.leakage_w_per_m2
    heads = most_heads(iter(work.architecture.operations))
    for component, area_m2 in pricer.shared_area_m2(heads):
        shares.append(
            Share(layer=CHIP_LAYER, stage=CHIP_LAYER, component=component, area_m2=area_m2)
        )
        shares.append(
            Share(
                layer=CHIP_LAYER,
                stage=CHIP_LAYER,
                component="leakage",
                energy_j=area_m2 * leakage * leaking_s,
            )
        )
    return shares
