"""Plans as files hold them: one way to write them, one to read those of every version.

Version 0.1 kept the consumers' transforms apart from the plan's text, as `transforms`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from trex.errors import PlanError
from trex.plan import Layout, Plan

_APART: Final = "transforms"


def plan_fields(plan: Plan) -> dict[str, Any]:
    """A plan in a record; `plan` says all of it, the others are for people."""
    return {
        "plan": str(plan),
        "n_reuse": plan.n_reuse,
        "transform": plan.transform or "none",
    }


def read_plan(stored: Mapping[str, Any]) -> Plan:
    """The plan of a record, a bundle's configuration or a `best.json`, of any version.

    Raises:
        PlanError: its text, or what version 0.1 kept beside it, is not of a plan.
    """
    plan = Plan.parse(stored["plan"])
    if _APART not in stored:
        return plan
    try:
        transforms = {int(k): str(v) for k, v in stored[_APART].items()}
    except (AttributeError, ValueError):
        raise PlanError(
            "the transforms beside a plan name no encoders", hint="restore the file they are in"
        ) from None
    return plan.with_transforms(transforms)


def current(stored: Mapping[str, Any]) -> dict[str, Any]:
    """What holds a plan, as this version writes it: its text says all.

    Raises:
        PlanError: as `read_plan`.
    """
    kept = {name: value for name, value in stored.items() if name != _APART}
    return {**kept, "plan": str(read_plan(stored))}


def read_layout(stored: Mapping[str, Any]) -> Layout:
    """What of a model decides which plans it can run; `dataclasses.asdict` writes it."""
    listed = {name: tuple(stored.get(name, ())) for name in ("stages", "windows")}
    return Layout(**{**stored, **listed})


def text_of_v0_1(plan: Plan) -> str:
    """A plan of reuses as version 0.1 wrote it: without transforms."""
    return " ".join(
        f"{r.consumer}<-{r.source}{':map' if r.tensor == 'map' else ''}" for r in plan.reuses
    )
