"""Schedules side by side: where an image's time goes, and what a plan saves under each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from trex.hardware.chip import SCHEDULES, Chip, Schedule
from trex.hardware.cost import Cost, price
from trex.hardware.prices import Densities
from trex.hardware.workload import Workload, without_dead_rows, workload


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleCosts:
    """A plan's cost under one schedule, and the original's.

    `trimmed` is the original without dead rows; None where its head reads all tokens. `other` is
    the same with the softmax depth-first where the chip's is not, and the other way round: scores
    that cross the buffer are traffic that reuse saves.
    """

    schedule: Schedule
    cost: Cost
    original: Cost
    trimmed: Cost | None
    depth_first: bool
    other: ScheduleCosts | None = None

    @property
    def latency_ratio(self) -> float:
        """The plan's latency over the original's."""
        return self.cost.latency_s / self.original.latency_s

    @property
    def interval_ratio(self) -> float:
        """The plan's time between images over the original's."""
        return self.cost.interval_s / self.original.interval_s

    @property
    def edap_gain(self) -> float:
        """The original's EDAP over the plan's."""
        return self.original.edap_j_s_m2 / self.cost.edap_j_s_m2

    @property
    def edap_gain_without_dead_rows(self) -> float | None:
        """The EDAP of the original without dead rows over the plan's."""
        return self.trimmed.edap_j_s_m2 / self.cost.edap_j_s_m2 if self.trimmed else None

    def largest_stages(self, count: int = 3) -> list[tuple[str, float]]:
        """The stages that add most to the plan's latency, each with its share."""
        stages = [
            (name, s.latency_s / self.cost.latency_s) for name, s in self.cost.by_stage().items()
        ]
        return sorted(stages, key=lambda stage: -stage[1])[:count]


def compare_schedules(
    work: Workload,
    chip: Chip,
    schedules: Sequence[Schedule] = SCHEDULES,
    *,
    densities: Densities | None = None,
) -> list[ScheduleCosts]:
    """Price a plan and its original under each schedule, `full` accounting.

    The softmax is depth-first as the chip says, and in `other` the other way round.
    """
    model, trimmed = work.architecture, without_dead_rows(work.architecture)

    def compared(chip: Chip, schedule: Schedule, other: ScheduleCosts | None) -> ScheduleCosts:
        def priced(what: Workload) -> Cost:
            return price(what, chip, "full", schedule=schedule, densities=densities)

        return ScheduleCosts(
            schedule=schedule,
            cost=priced(work),
            original=priced(workload(model)),
            trimmed=priced(workload(model, trimmed)) if trimmed else None,
            depth_first=chip.softmax.depth_first,
            other=other,
        )

    softmax = replace(chip.softmax, depth_first=not chip.softmax.depth_first)
    turned = replace(chip, softmax=softmax)
    return [compared(chip, each, compared(turned, each, None)) for each in schedules]
