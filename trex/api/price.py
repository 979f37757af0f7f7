"""Pricing a model and a plan on a chip, or on a machine that was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trex.api import densities
from trex.api.data import Data
from trex.api.devices import DeviceGiven, open_device, refuse_flags
from trex.api.models import Model, ModelOptions, architecture_given
from trex.api.plans import PlanGiven, plan_of
from trex.architecture import Architecture
from trex.hardware import (
    Accounting,
    Chip,
    Cost,
    MeasuredDevice,
    Schedule,
    ScheduleCosts,
    compare_schedules,
    without_dead_rows,
    workload,
)
from trex.hardware import price as cost_of
from trex.plan import Plan


@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    """What an image costs on a chip with a plan, and without it; an estimate, in SI units.

    Attributes:
        cost: of the plan, by layer, stage and component.
        original: of the model as it is.
        without_dead_rows: of the model without rows that its head does not read; None where it
            reads all of them.
        densities: of ones in the inputs' bits, where they were measured.
    """

    cost: Cost
    original: Cost
    without_dead_rows: Cost | None
    densities: densities.MeasuredDensities | None

    @property
    def latency_s(self) -> float:
        """Seconds an image."""
        return self.cost.latency_s

    @property
    def energy_j(self) -> float:
        """Joules an image."""
        return self.cost.energy_j

    @property
    def area_m2(self) -> float:
        """Square metres of chip."""
        return self.cost.area_m2

    @property
    def edap_mj_ms_mm2(self) -> float:
        """Energy × latency × area, in mJ ms mm²."""
        return self.cost.edap_mj_ms_mm2

    @property
    def latency_ratio(self) -> float:
        """The plan's latency over the original's."""
        return self.cost.latency_s / self.original.latency_s

    @property
    def edap_gain(self) -> float:
        """The original's EDAP over the plan's."""
        return self.original.edap_j_s_m2 / self.cost.edap_j_s_m2


@dataclass(frozen=True, kw_only=True, slots=True)
class MachinePrice:
    """What a batch takes on a machine that was measured, with a plan and without it: predicted.

    Attributes:
        spread: how much closer, relatively, two latencies cannot be told apart.
        tells_apart: whether the two here can.
        measured_s: of the plan, where the machine's profile timed it.
    """

    model: str
    device: str
    basis: str
    runtime: str
    threads: int
    dtype: str
    batch: int
    plan: str
    latency_s: float
    original_latency_s: float
    latency_ratio: float
    spread: float
    tells_apart: bool
    measured_s: float | None
    macs: int
    original_macs: int
    not_measured: tuple[str, ...] = ("energy", "area", "EDAP")

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "not_measured": list(self.not_measured)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What is priced, and how.

    Attributes:
        accounting: of a chip; None takes `usual`.
        overrides: fields of the chip's file -> other values.
        data: images to measure input densities on.
        data_images: how many of them.
    """

    model: Model
    device: DeviceGiven
    plan: Plan = field(default_factory=Plan)
    options: ModelOptions = field(default_factory=ModelOptions)
    accounting: Accounting | None = None
    usual: Accounting = "paper"
    schedule: Schedule | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    data: Data | None = None
    data_images: int = densities.N_IMAGES
    force: bool = False

    def open_device(self) -> Chip | MeasuredDevice:
        """The device.

        Raises:
            TrexError: as `trex.api.devices.open_device`.
        """
        return open_device(self.device, self.overrides, force=self.force)

    def architecture(self) -> Architecture:
        """What the model computes."""
        return architecture_given(self.model, self.options)

    def measured(self, chip: Chip) -> densities.MeasuredDensities | None:
        """Input densities, where images are given and they change a price."""
        return densities.of_given(self.model, self.options, chip, self.data, self.data_images)


def run(question: Question, device: Chip | MeasuredDevice) -> Price | MachinePrice:
    """The price of a plan, and beside it the original's.

    Raises:
        ChipError: something was asked that only chips have, or the machine was measured with
            another model.
        PlanError: the model cannot run the plan.
    """
    if isinstance(device, MeasuredDevice):
        refuse_flags(
            device,
            accounting=question.accounting,
            schedule=question.schedule,
            calib=question.data is not None,
        )
        return _on_machine(device, question.architecture(), question.plan)
    model = question.architecture()
    measured = question.measured(device)
    trimmed = without_dead_rows(model)
    plans = (question.plan, None, *([trimmed] if trimmed else ()))
    cost, original, *rest = (
        cost_of(
            workload(model, plan),
            device,
            question.accounting or question.usual,
            schedule=question.schedule,
            densities=measured.planes if measured else None,
        )
        for plan in plans
    )
    return Price(
        cost=cost,
        original=original,
        without_dead_rows=rest[0] if rest else None,
        densities=measured,
    )


def schedules(
    question: Question, chip: Chip
) -> tuple[list[ScheduleCosts], densities.MeasuredDensities | None]:
    """The plan under every schedule of full accounting, and the densities it is priced with.

    Raises:
        PlanError: the model cannot run the plan.
    """
    model = question.architecture()
    measured = question.measured(chip)
    planes = measured.planes if measured else None
    return compare_schedules(workload(model, question.plan), chip, densities=planes), measured


def price(
    model: Model,
    device: DeviceGiven,
    *,
    plan: PlanGiven = "",
    accounting: Accounting | None = None,
    schedule: Schedule | None = None,
    changes: Mapping[str, Any] | None = None,
    data: Data | None = None,
    data_images: int = densities.N_IMAGES,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    img_size: int | None = None,
    tokens: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    force: bool = False,
) -> Price | MachinePrice:
    """What a model costs with a plan, and without it; no weights are needed.

    Args:
        model: a name, or a model object; any image model of timm can be priced, reuse or not.
        device: a shipped chip's name, a path, or the folder of a machine that was measured.
        plan: `"5<-4 3~40 11=class"`; empty prices the model as it is.
        accounting: of a chip: `paper` or `full`; None is `full`, everything it must do.
        schedule: of full accounting; None takes the chip's own.
        changes: fields of the chip's file -> other values: `{"softmax.units": 12}`.
        data: images to measure input densities on, for chips whose energy depends on them.
        data_images: how many of them.
        weights: a local file, with `data`.
        num_classes: of the head, of a model given by name.
        img_size: in pixels, of a model given by name.
        tokens: of a text model given by name.
        mean: of the channels, with `data`.
        std: of the channels, with `data`.
        force: take a measured machine's latencies though it is not this one.

    Raises:
        TrexError: anything given is missing, malformed or does not fit.
    """
    question = Question(
        model=model,
        device=device,
        plan=plan_of(plan),
        options=ModelOptions(
            weights=weights,
            num_classes=num_classes,
            img_size=img_size,
            tokens=tokens,
            mean=None if mean is None else tuple(mean),
            std=None if std is None else tuple(std),
        ),
        accounting=accounting,
        usual="full",
        schedule=schedule,
        overrides=dict(changes or {}),
        data=data,
        data_images=data_images,
        force=force,
    )
    return run(question, question.open_device())


def _on_machine(device: MeasuredDevice, model: Architecture, plan: Plan) -> MachinePrice:
    """Latency alone: everything else is a chip's."""
    profile = device.profile
    work, original = workload(model, plan), workload(model)
    ours, theirs = device.latency_s(work), device.latency_s(original)
    timed = next((run for run in profile.runs if run.plan == str(plan)), None)
    return MachinePrice(
        model=model.model,
        device=device.name,
        basis=device.basis,
        runtime=profile.runtime,
        threads=profile.threads,
        dtype=profile.dtype,
        batch=profile.batch,
        plan=str(plan),
        latency_s=ours,
        original_latency_s=theirs,
        latency_ratio=ours / theirs,
        spread=device.spread,
        tells_apart=device.tells_apart(ours, theirs),
        measured_s=None if timed is None else timed.latency_s.median,
        macs=work.macs,
        original_macs=original.macs,
    )
