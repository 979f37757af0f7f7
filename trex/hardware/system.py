"""A whole workload on a chip: which operations are priced, in what groups, on which shared parts.

`price` and `CostTable` both build on this module, so that they cannot come apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from trex.architecture import Architecture, Encoder, Operation
from trex.errors import ChipError
from trex.hardware.chip import Chip, Options, Schedule
from trex.hardware.matmul import tiles_of
from trex.hardware.measured import MeasuredDevice, MeasuredPricer
from trex.hardware.network import NETWORK, Links, lay_out
from trex.hardware.prices import (
    Accounting,
    Densities,
    DeviceAccounting,
    OperationPrice,
    ReusedMap,
)
from trex.hardware.pricing import is_known, is_priced, price_operation
from trex.hardware.schedule import at_once
from trex.hardware.workload import EncoderWork, Workload

#: What the published equations assume of the chip (TReX, section V).
_PUBLISHED: Final = Options()


@dataclass(frozen=True, kw_only=True, slots=True)
class Pricer:
    """A chip, an accounting and what goes with them."""

    chip: Chip
    accounting: Accounting
    options: Options
    densities: Densities | None = None
    #: of a chip with a network, under `full` accounting: laid out for the model as it is
    links: Links | None = None

    @classmethod
    def of(
        cls,
        chip: Chip,
        accounting: Accounting,
        schedule: Schedule | None = None,
        densities: Densities | None = None,
        architecture: Architecture | None = None,
    ) -> Pricer:
        """Settle the schedule: the chip's own under `full`, `sequential` under the published ones.

        `architecture` is the model, for which a chip's network is laid out.

        Raises:
            ChipError: another schedule is asked of an accounting that has only `sequential`.
        """
        if accounting == "full":
            options = replace(chip.options, schedule=schedule or chip.options.schedule)
        elif schedule not in (None, "sequential"):
            raise ChipError(
                f"{accounting} accounting is sequential; it has no {schedule} schedule",
                hint="use full accounting",
            )
        else:
            options = _PUBLISHED
        pricer = cls(
            chip=replace(chip, options=options),
            accounting=accounting,
            options=options,
            densities=densities,
        )
        if accounting == "full" and chip.network is not None and architecture is not None:
            return replace(pricer, links=_links_of(pricer, architecture))
        return pricer

    def encoder(self, work: EncoderWork) -> tuple[OperationPrice, ...]:
        """Every operation of an encoder that has a price, in order."""
        operations = work.operations
        if self.options.fused_qk:
            operations = _fuse_qk(work)
        following = _following(operations) if self.links else frozenset()
        return tuple(
            price_operation(
                op,
                self.chip,
                self.accounting,
                densities=self.densities,
                reused_map=_reused_map(work),
                links=self.links,
                follows=i in following,
            )
            for i, op in enumerate(operations)
            if self._has_price(op, in_encoder=True)
        )

    def outside(self, op: Operation) -> tuple[OperationPrice, ...]:
        """An operation outside the encoders; empty where it has no price."""
        if not self._has_price(op, in_encoder=False):
            return ()
        priced = price_operation(
            op, self.chip, self.accounting, densities=self.densities, links=self.links
        )
        return (priced,)

    def _has_price(self, op: Operation, *, in_encoder: bool) -> bool:
        priced = is_priced(op, self.accounting, in_encoder=in_encoder)
        return priced and is_known(op, self.chip)

    def once(self, heads: int) -> tuple[float, float, float]:
        """What the chip has once, whatever the plan: seconds, area (m²) and leakage (W)."""
        area_m2 = sum(area for _, area in self.shared_area_m2(heads))
        return 0.0, area_m2, area_m2 * self.chip.periphery.leakage_w_per_m2

    def shared_area_m2(self, heads: int) -> Iterator[tuple[str, float]]:
        """Parts the chip has once: under `full`, whatever the plan.

        Shared softmax units are as many as the chip says, or one for each of the `heads` of the
        model's widest attention.
        """
        if self.accounting != "full":
            return
        around, softmax = self.chip.periphery, self.chip.softmax
        if softmax.shared and heads:
            yield "softmax", (softmax.units or heads) * softmax.area_per_unit_m2
        yield "vector_unit", around.vector_unit_area_m2
        yield "buffer", around.buffer_area_m2
        yield self.interconnect, around.bus_area_m2

    @property
    def interconnect(self) -> str:
        """What the resource `bus` is on this chip."""
        return "bus" if self.links is None else NETWORK

    @property
    def leaks_over_interval(self) -> bool:
        """Whether an image leaks for the time between two, not for its own latency."""
        options = self.options
        return options.schedule == "pipelined" and options.leakage_over == "interval"


def pricer_of(
    device: Chip | MeasuredDevice,
    accounting: DeviceAccounting,
    schedule: Schedule | None = None,
    densities: Densities | None = None,
    architecture: Architecture | None = None,
) -> Pricer | MeasuredPricer:
    """What prices plans on a device; accounting and the rest are a chip's.

    Raises:
        ChipError: as `Pricer.of`.
    """
    if isinstance(device, MeasuredDevice):
        return device.pricer()
    assert accounting != "measured"
    return Pricer.of(device, accounting, schedule, densities, architecture)


def _links_of(pricer: Pricer, architecture: Architecture) -> Links:
    """The network for the arrays and units that the model as it is takes."""
    assert pricer.chip.network is not None
    tiles, area_m2 = 0.0, sum(a for _, a in pricer.shared_area_m2(_heads(architecture)))
    for item in architecture.body:
        inside = isinstance(item, Encoder)
        for op in item.operations if isinstance(item, Encoder) else (item,):
            if not is_priced(op, "full", in_encoder=inside) or not is_known(op, pricer.chip):
                continue
            price = price_operation(op, pricer.chip, "full")
            area_m2 += sum(each for _, each in price.area_m2)
            if op.macs:
                tiles += tiles_of(op, pricer.chip)
    return lay_out(pricer.chip.network, max(tiles, 1.0), area_m2)


def _heads(architecture: Architecture) -> int:
    return most_heads(iter(architecture.operations))


def _following(operations: Sequence[Operation]) -> frozenset[int]:
    """Operations whose input vectors are fetched for another of their encoder: X of Q, K, V."""
    together = at_once(operations)
    if not together:
        return frozenset()
    first = max(together, key=lambda i: operations[i].vectors)
    shape = operations[first].groups, operations[first].in_features
    return frozenset(
        i
        for i in together
        if i != first and (operations[i].groups, operations[i].in_features) == shape
    )


def most_heads(operations: Iterator[Operation]) -> int:
    """The most groups any softmax of the model has; 0 where it has none."""
    return max((op.groups for op in operations if op.kind == "softmax"), default=0)


def _reused_map(work: EncoderWork) -> ReusedMap | None:
    """The map that an encoder reuses; all but the rows that it computes come from the buffer."""
    reuse = work.plan.reuse
    if reuse is None or reuse.tensor != "map":
        return None
    windows, heads, whole, _ = work.encoder.attention
    tokens, source = (
        whole - work.encoder.tokens + n for n in (work.tokens[0], work.source_tokens)
    )
    return ReusedMap(
        read=heads * (windows * tokens - work.rows) * tokens,
        written=0 if reuse.is_average else windows * heads * source**2,
    )


def streams_on(earlier: Operation | EncoderWork | None, item: Operation | EncoderWork) -> bool:
    """Whether an encoder's vectors can enter it as they leave the encoder before it."""
    if not isinstance(earlier, EncoderWork) or not isinstance(item, EncoderWork):
        return False
    leaving, entering = earlier.tokens[1], item.tokens[0]
    return (earlier.encoder.stage, leaving) == (item.encoder.stage, entering)


def _fuse_qk(work: EncoderWork) -> tuple[Operation, ...]:
    """Scores as X·(W_q W_kᵀ)·Xᵀ: a d×d product a head instead of Q and K, and Xᵀ written for Kᵀ.

    It saves a product only where there is one head; with more, each head needs its own d×d
    matrix. Biases add a term to the scores that is not counted. An encoder that matches its tokens
    by their keys computes them all the same, and writes those that it compares in every round. A
    consumer's own rows are such products from the start.
    """
    encoder: Encoder = work.encoder
    matches = work.plan.reuse is None and any(op.part == "matching" for op in work.operations)
    fused: list[Operation] = []
    for op in work.operations:
        if op.part == "k" and not matches:
            continue
        if op.part == "q":
            op = replace(op, out_features=encoder.dim * encoder.heads)
        elif op.part == "scores":
            op = replace(op, in_features=encoder.dim)
        elif op.part == "matching":  # Xᵀ lies in the arrays where Kᵀ would
            op = replace(op, resident_groups=0)
        fused.append(op)
    return tuple(fused)


def unpriced(work: Workload, pricer: Pricer) -> tuple[Operation, ...]:
    """The operations the accounting has no term for, or the chip no component."""
    missing: list[Operation] = []
    for item in work.body:
        inside = isinstance(item, EncoderWork)
        for op in item.operations if isinstance(item, EncoderWork) else (item,):
            if not (
                is_priced(op, pricer.accounting, in_encoder=inside) and is_known(op, pricer.chip)
            ):
                missing.append(op)
    return tuple(missing)
