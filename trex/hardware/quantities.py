"""Values in chip files: SI numbers that can be real, each with a source or an assumption."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Final, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trex.config import FieldProblem, StrictModel

T = TypeVar("T")

# The limits are far outside any real part and far inside a forgotten or a doubled prefix. Above:
# 1e-3 J an event, 1 s a step, 10 cm² a part. Below: the heat of one lost bit at room temperature
# (Landauer's limit, 2.9e-21 J), a femtosecond, a square nanometre.
EnergyJ = Annotated[float, Field(ge=2.9e-21, le=1e-3)]
FreeEnergyJ = Annotated[float, Field(ge=0, le=1e-3)]
LatencyS = Annotated[float, Field(ge=1e-15, le=1.0)]
AreaM2 = Annotated[float, Field(ge=1e-18, le=1e-3)]
PowerW = Annotated[float, Field(ge=0, le=1.0)]
#: From a kilohertz to a terahertz.
FrequencyHz = Annotated[float, Field(ge=1e3, le=1e12)]
#: From a slow serial line to what a million wires carry at a terahertz.
BitsPerS = Annotated[float, Field(ge=1e3, le=1e18)]
#: A watt a square millimetre is far above what leakage can be, for chips that can be cooled.
PowerWPerM2 = Annotated[float, Field(gt=0, le=1e6)]
ResistanceOhm = Annotated[float, Field(ge=1, le=1e15)]
#: From a nanosecond to three hundred years since something was written.
AgeS = Annotated[float, Field(ge=1e-9, le=1e10)]
#: Of a wire between two neighbouring cells.
WireOhm = Annotated[float, Field(gt=0, le=1e4)]
#: Writes that a cell survives: from one to a number that no test has reached.
Cycles = Annotated[float, Field(ge=1, le=1e18)]
#: Joules a bit and metre of wire: from a femtojoule a millimetre and bit to a nanojoule.
WireEnergyJPerM = Annotated[float, Field(ge=1e-12, le=1e-6)]
#: A converter's error in its own steps.
Steps = Annotated[float, Field(ge=0, le=256)]
#: How many of one thing make up another.
Ratio = Annotated[float, Field(gt=0, le=1000)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Bits = Annotated[int, Field(ge=1, le=64)]
#: More parts of one kind than any chip has.
MOST: Final = 2**20
Count = Annotated[int, Field(ge=1, le=MOST)]
BufferBits = Annotated[int, Field(ge=1, le=2**40)]
#: Cells along a line or a column.
Cells = Annotated[int, Field(ge=1, le=2**16)]


class Sourced(StrictModel, Generic[T]):
    """A value, and where it comes from: a `source`, an `assumption`, or both."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": ["source"]}, {"required": ["assumption"]}]}
    )

    value: T
    source: str | None = None
    assumption: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _is_not_bare(cls, data: Any) -> Any:
        if isinstance(data, str | int | float):
            raise FieldProblem(
                (),
                f"{data!r} has no source",
                f"write `{{value: {data}, source: where it stands}}`",
            )
        return data

    @model_validator(mode="after")
    def _has_origin(self) -> Sourced[T]:
        if self.source is None and self.assumption is None:
            raise FieldProblem(
                (), "has no source", "add `source: where it stands` or `assumption: why`"
            )
        for field in ("source", "assumption"):
            text = getattr(self, field)
            if text is not None and not text.strip():
                raise FieldProblem((field,), "says nothing", "say where it stands, or why")
        return self


def assumptions(model: BaseModel, prefix: str = "") -> Iterator[str]:
    """Every value of a file that rests on an assumption, as "field = value: why"."""
    for name, value in model:
        yield from _assumptions(value, f"{prefix}{name}")


def _assumptions(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, Sourced):
        if value.assumption is not None:
            number = f" = {value.value:g}" if isinstance(value.value, int | float) else ""
            yield f"{path}{number}: {value.assumption}"
    elif isinstance(value, BaseModel):
        yield from assumptions(value, f"{path}.")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _assumptions(item, f"{path}.{key}")
