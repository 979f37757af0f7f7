"""What is read of files is checked once, where it comes in, and carried on as what it was read as.

A file may hold more than a type lists; what is listed has this type, or the file is refused with
the place of the first field that is not so.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trex.errors import PlanError, TrexError
from trex.plan import Plan

_Fields = TypeVar("_Fields", bound=BaseModel)


class Fields(BaseModel):
    """Base: nothing is converted, no number is NaN or infinite; further fields are kept."""

    model_config = ConfigDict(
        extra="allow", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=()
    )

    def as_json(self) -> dict[str, Any]:
        """What a file holds of it: what was given or read, and no default."""
        return self.model_dump(exclude_unset=True)


Share = Annotated[float, Field(ge=0.0, le=1.0)]
Amount = Annotated[float, Field(ge=0.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=0)]
Text = Annotated[str, Field(max_length=10_000)]


def read_fields(
    model: type[_Fields], data: object, where: object, error: type[TrexError], hint: str
) -> _Fields:
    """What a file holds, as its type; `where` names it, and the line, in the error.

    Raises:
        TrexError: of class `error`: it does not hold what it must.
    """
    try:
        return model.model_validate(data)
    except ValidationError as found:
        first = found.errors(include_url=False, include_context=False)[0]
        field = ".".join(map(str, first["loc"]))
        value = "" if first["type"] == "missing" else f", not {_short(first['input'])}"
        raise error(
            f"{where} is damaged: {field}: {first['msg']}{value}"[:500], hint=hint
        ) from None
    except RecursionError:
        raise error(f"{where} is damaged: it is nested too deep", hint=hint) from None


def check_plan(text: str, where: object, error: type[TrexError], hint: str) -> None:
    """See that a file's plan is one.

    Raises:
        TrexError: of class `error`: it is not.
    """
    try:
        Plan.parse(text)
    except PlanError as found:
        raise error(f"{where} is damaged: plan: {found.message}", hint=hint) from None


def _short(value: Any) -> str:
    if isinstance(value, dict | list):
        return f"a {'mapping' if isinstance(value, dict) else 'list'} of {len(value)}"
    text = repr(value) if not isinstance(value, int) or abs(value) < 1e30 else "a huge number"
    return text if len(text) <= 60 else f"{text[:57]}..."
