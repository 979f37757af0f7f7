"""What methods are compared on, and what each costs there."""

from __future__ import annotations

from dataclasses import dataclass

from trex.architecture import Architecture
from trex.compare.methods import Method, parameters
from trex.errors import ModelError
from trex.hardware import (
    Chip,
    Cost,
    DeviceAccounting,
    MeasuredDevice,
    Workload,
    price,
    without_dead_rows,
    workload,
)
from trex.units import EDAP_MJ_MS_MM2


@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    """An estimate of one image; `macs` and `parameters` are of the whole model, exactly.

    On a measured machine: its predicted latency of a batch; energy and area are None.
    """

    latency_s: float
    energy_j: float | None
    area_m2: float | None
    macs: int
    parameters: int

    @property
    def edap_mj_ms_mm2(self) -> float | None:
        """Energy × latency × area, in the TReX paper's unit; None where they are not known."""
        if self.energy_j is None or self.area_m2 is None:
            return None
        return self.latency_s * self.energy_j * self.area_m2 * EDAP_MJ_MS_MM2

    @property
    def overall(self) -> float:
        """What stands for all costs: EDAP, or latency (s) on a measured machine."""
        edap = self.edap_mj_ms_mm2
        return self.latency_s if edap is None else edap

    def within(self, limit_s: float) -> bool:
        """Whether it takes no longer; equal work differs in the last digits."""
        return self.latency_s <= limit_s * (1 + 1e-9)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelOnDevice:
    """A model on a chip under an accounting, or on a measured machine.

    Attributes:
        parameters: of the original.
    """

    model: Architecture
    parameters: int
    device: Chip | MeasuredDevice
    accounting: DeviceAccounting

    def original(self) -> Price:
        """The original's price."""
        return self.price_work(workload(self.model))

    def trimmed(self) -> Price | None:
        """The original's without dead rows; None where its head reads all of them."""
        plan = without_dead_rows(self.model)
        return None if plan is None else self.price_work(workload(self.model, plan))

    def price(self, method: Method, setting: float) -> Price:
        """What a method costs at a setting."""
        work = method.work(self.model, setting)
        shared = method.shared_parameters(self.model, setting)
        if isinstance(self.device, MeasuredDevice):
            return self._timed(self.device, work, shared)
        assert self.accounting != "measured"
        cost = price(work, method.chip(self.device), self.accounting)
        return self._price(method.adjusted(cost, work, setting), work, shared)

    def price_work(self, work: Workload) -> Price:
        """What a workload costs on the device as it is.

        Raises:
            ChipError: the device was measured with another model.
        """
        if isinstance(self.device, MeasuredDevice):
            return self._timed(self.device, work, 0)
        assert self.accounting != "measured"
        return self._price(price(work, self.device, self.accounting), work, 0)

    def _price(self, cost: Cost, work: Workload, shared: int) -> Price:
        return Price(
            latency_s=cost.latency_s,
            energy_j=cost.energy_j,
            area_m2=cost.area_m2,
            macs=work.macs,
            parameters=self._parameters(work, shared),
        )

    def _timed(self, device: MeasuredDevice, work: Workload, shared: int) -> Price:
        return Price(
            latency_s=device.latency_s(work),
            energy_j=None,
            area_m2=None,
            macs=work.macs,
            parameters=self._parameters(work, shared),
        )

    def _parameters(self, work: Workload, shared: int) -> int:
        spared = parameters(self.model.operations) - parameters(tuple(work))
        return self.parameters - spared - shared


def target(
    model: Architecture,
    parameters: int,
    device: Chip | MeasuredDevice,
    accounting: DeviceAccounting,
) -> ModelOnDevice:
    """A target whose encoders are all alike, as the methods need them.

    Raises:
        ModelError: the model has no encoders, or they differ.
        ChipError: the device was measured with another model.
    """
    if isinstance(device, MeasuredDevice):
        device.check(model)
    if not alike(model):
        raise ModelError(
            f"{model.model} is not made of like encoders, which the compared methods need",
            hint="compare a ViT, DeiT or LV-ViT; others stand in its table as other models",
        )
    return ModelOnDevice(model=model, parameters=parameters, device=device, accounting=accounting)


def alike(model: Architecture) -> bool:
    """Whether a model has encoders, all of one shape."""
    return len({(e.stage, e.tokens, e.dim, e.heads) for e in model.encoders}) == 1
