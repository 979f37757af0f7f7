"""The plans a caller gives."""

from __future__ import annotations

from collections.abc import Sequence

from trex.errors import PlanError
from trex.plan import Plan

#: what a caller may give as a plan
PlanGiven = str | Plan


def plan_of(given: PlanGiven, transform: str = "linear") -> Plan:
    """The plan that was given; `transform`: of consumers whose transform it leaves out.

    Raises:
        PlanError: it is malformed.
    """
    return Plan.parse(given, transform) if isinstance(given, str) else given


def plans_of(given: Sequence[PlanGiven], transform: str = "linear") -> tuple[Plan, ...]:
    """The plans that were given, each once.

    Raises:
        PlanError: one is malformed, or does nothing.
    """
    plans = tuple(dict.fromkeys(plan_of(one, transform) for one in given))
    if Plan() in plans or not plans:
        raise PlanError(
            "--plan names nothing that is done to the model",
            hint='write, for example, "5<-4 7<-6" or "3~40 11=class"',
        )
    return plans
