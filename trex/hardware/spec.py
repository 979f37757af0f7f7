"""The fields of a chip file, `chip.yaml`, and what the cost model makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import Field, field_validator

from trex.config import FieldProblem, StrictModel, raise_all
from trex.hardware.chip import (
    ArrayModel,
    Chip,
    LeakageOver,
    Options,
    Schedule,
    SoftmaxModel,
)
from trex.hardware.component_array import ComponentArraySpec
from trex.hardware.constant_array import ConstantArraySpec
from trex.hardware.corrections import NetworkSpec
from trex.hardware.periphery import PeripherySpec
from trex.hardware.quantities import (
    MOST,
    AreaM2,
    Count,
    EnergyJ,
    LatencyS,
    Sourced,
    assumptions,
)


class ArraySpec(Protocol):
    """What every kind of array's fields can be turned into."""

    def model(self, name: str, folder: Path) -> ArrayModel:
        """The array as the cost model sees it."""


class SoftmaxSpec(StrictModel):
    """Softmax units; see `trex.hardware.chip.SoftmaxModel`."""

    energy_per_element_j: Sourced[EnergyJ]
    latency_per_element_s: Sourced[LatencyS]
    area_per_unit_m2: Sourced[AreaM2]
    units: Count | Literal["one a head"] = "one a head"
    shared: bool = True
    depth_first: bool = False

    @field_validator("units", mode="before")
    @classmethod
    def _number_or_words(cls, units: Any) -> Any:
        whole = isinstance(units, int) and not isinstance(units, bool)
        if units != "one a head" and not (whole and 1 <= units <= MOST):
            raise FieldProblem(
                (),
                f"{units!r} is no number of units",
                f"give a whole number from 1 to {MOST}, or `one a head`",
            )
        return units

    def model(self) -> SoftmaxModel:
        """The units as the cost model sees them."""
        return SoftmaxModel(
            energy_per_element_j=self.energy_per_element_j.value,
            latency_per_element_s=self.latency_per_element_s.value,
            area_per_unit_m2=self.area_per_unit_m2.value,
            units=self.units if isinstance(self.units, int) else None,
            shared=self.shared,
            depth_first=self.depth_first,
        )


class OptionsSpec(StrictModel):
    """Choices of a chip's designer; see `trex.hardware.chip.Options`."""

    schedule: Schedule = "sequential"
    double_buffered_writes: bool = False
    fused_qk: bool = False
    leakage_over: LeakageOver = "latency"


class ChipSpec(StrictModel):
    """What every kind of chip file holds; `arrays` is what the kinds differ in."""

    name: str = Field(min_length=1)
    kind: str
    citation: str = Field(min_length=1)
    technology_nm: Sourced[Count]
    static_array: str
    dynamic_array: str
    softmax: SoftmaxSpec
    periphery: str = Field(min_length=1)
    options: OptionsSpec = OptionsSpec()
    network: NetworkSpec | None = None
    notes: tuple[str, ...] = ()

    def array_specs(self) -> Mapping[str, ArraySpec]:
        """The chip's arrays by name."""
        raise NotImplementedError

    def chip(self, periphery: PeripherySpec, folder: Path) -> Chip:
        """The chip as the cost model sees it, with every assumption it rests on.

        `folder` is where the chip file lies, for tables beside it.

        Raises:
            FieldProblem: an array's table or row does not exist; `FieldProblems` of several.
            ChipError: a table is wrong.
        """
        around = periphery.model()
        arrays, problems = {}, []
        for name, array in self.array_specs().items():
            try:
                arrays[name] = array.model(name, folder)
            except FieldProblem as problem:
                where = ("arrays", name, *problem.location)
                problems.append(FieldProblem(where, str(problem), problem.hint))
        raise_all(problems)
        return Chip(
            name=self.name,
            kind=self.kind,
            technology_nm=self.technology_nm.value,
            citation=self.citation,
            static_array=arrays[self.static_array],
            dynamic_array=arrays[self.dynamic_array],
            softmax=self.softmax.model(),
            periphery=around,
            options=Options(
                schedule=self.options.schedule,
                double_buffered_writes=self.options.double_buffered_writes,
                fused_qk=self.options.fused_qk,
                leakage_over=self.options.leakage_over,
            ),
            network=self.network.model() if self.network else None,
            assumptions=(
                *assumptions(self),
                *assumptions(periphery, f"{periphery.name}."),
            ),
            notes=self.notes,
        )


class TrexChipSpec(ChipSpec):
    """A chip of `kind: trex`: constants for a whole crossbar."""

    kind: Literal["trex"]
    arrays: dict[str, ConstantArraySpec] = Field(min_length=1)

    def array_specs(self) -> Mapping[str, ArraySpec]:
        """The chip's arrays by name."""
        return self.arrays


class ComponentChipSpec(ChipSpec):
    """A chip of `kind: component`: arrays from component figures."""

    kind: Literal["component"]
    arrays: dict[str, ComponentArraySpec] = Field(min_length=1)

    def array_specs(self) -> Mapping[str, ArraySpec]:
        """The chip's arrays by name."""
        return self.arrays
