"""Plans as people see them in a study: units in names, estimates apart from measurements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from optuna.trial import FrozenTrial

from trex.errors import RunError
from trex.plan import EncoderPlan, Plan
from trex.search.space import NEAREST, TAKEN, Choice, SearchSpace
from trex.search.study import Entry
from trex.store.fields import Fields, read_fields
from trex.store.record import Estimate, Measured, Record
from trex.stored import current, read_plan

#: what a study minimises
LOSS: Final = "loss (KL from the original, nats an image)"
EDAP: Final = "EDAP (mJ*ms*mm2)"
LATENCY: Final = "latency (ms)"

#: an attribute that holds a whole record, for run folders on other machines
RECORD: Final = "record"
_NO_REUSE: Final = "no reuse"
_Kind = TypeVar("_Kind", bound=Fields)


class Options:
    """What every encoder may do, in words: what the space lets it choose, and what given plans do.

    Args:
        space: the plans.
        plans: that are given, whatever the space.
    """

    def __init__(self, space: SearchSpace, plans: Sequence[Plan] = ()) -> None:
        self._space = space
        #: of the space's choices alone, in their order
        self.chosen = tuple(
            tuple(choice_name(space, encoder, choice) for choice in of)
            for encoder, of in enumerate(space.choices)
        )
        self.names = tuple(
            tuple(dict.fromkeys([*of, *(decision_name(plan.at(encoder)) for plan in plans)]))
            for encoder, of in enumerate(self.chosen)
        )
        self._given = set(plans)

    def of(self, plan: Plan) -> list[str]:
        """What a plan does in every encoder, in these words."""
        if plan in self._given:
            return [decision_name(plan.at(encoder)) for encoder in range(len(self.names))]
        row = self._space.row(plan)
        return [of[number] for of, number in zip(self.chosen, row, strict=True)]


def entry(plan: Plan, options: Options, notes: Mapping[str, Any]) -> Entry:
    """A plan with what it does in every encoder, among all that could be done there."""
    chosen = {
        f"encoder {encoder}": (name, names)
        for encoder, (name, names) in enumerate(zip(options.of(plan), options.names, strict=True))
        if len(names) > 1
    }
    return Entry(key=plan.key, choices=chosen, notes={**plan_notes(plan), **notes})


def plan_notes(plan: Plan) -> dict[str, str | int]:
    """The plan in words; `plan_of_trial` reads it back."""
    return {"plan": str(plan) or _NO_REUSE, "consumers": plan.n_reuse}


def plan_of_trial(trial: FrozenTrial) -> Plan:
    """The plan that a trial is about."""
    attributes = trial.user_attrs
    return Plan() if attributes["plan"] == _NO_REUSE else read_plan(attributes)


def decision_name(here: EncoderPlan) -> str:
    """`own`, `output of 4, linear`, or `own, 40 pairs merged`."""
    parts = ["own"]
    if (reuse := here.reuse) is not None:
        of = "" if reuse.is_average else f" of {reuse.source}"
        parts = [f"{reuse.tensor}{of}, {reuse.transform}"]
    if here.pairs:
        parts.append(f"{here.pairs} pairs merged")
    if here.class_rows:
        parts.append("class rows its own" if here.own_class else "class rows only")
    if here.shared:
        groups = "" if here.groups_of is None else f" by the groups of {here.groups_of}"
        parts.append(f"{here.shared} rows shared{groups}")
    return ", ".join(parts)


def choice_name(space: SearchSpace, encoder: int, choice: Choice) -> str:
    """`output of the nearest, linear`, or `own, 40 pairs merged, half of the rows shared`."""
    parts = ["own"]
    if choice.form:
        tensor, transform = space.forms[choice.form - 1]
        named = "the nearest" if choice.source == NEAREST else str(choice.source)
        parts = [f"{tensor}{'' if transform == 'average' else f' of {named}'}, {transform}"]
    if choice.pairs:
        parts.append(f"{choice.pairs} pairs merged")
    if choice.share == TAKEN:
        parts.append("rows shared by the groups at hand")
    elif choice.share:
        parts.append(f"{space.shares[encoder][choice.share - 1]:.4g} of the rows")
    return ", ".join(parts)


def estimate_notes(estimate: Estimate, predicted_loss: float | None) -> dict[str, float]:
    """What is known before anything is fitted."""
    scales = (
        ("latency_s", LATENCY, 1e3),
        ("energy_j", "energy (uJ)", 1e6),
        ("area_m2", "area (mm2)", 1e6),
        ("edap_mj_ms_mm2", EDAP, 1.0),
    )
    by = "predicted" if estimate.on_machine else "estimate"
    notes = {
        f"{by}: {name}": value * scale
        for field, name, scale in scales
        if (value := getattr(estimate, field)) is not None
    }
    if predicted_loss is not None:
        notes["estimate: loss (nats)"] = predicted_loss
    return notes


def measured_notes(record: Record) -> dict[str, Any]:
    """What fitting and measuring showed."""
    return {**selection_notes(record.selection, record.seconds or 0.0), RECORD: record.as_json()}


def record_in(kind: type[_Kind], trial: FrozenTrial) -> _Kind:
    """What a worker on another machine put beside its trial, `RECORD`.

    Raises:
        RunError: it is damaged.
    """
    where, hint = f"trial {trial.number} of the study", "drop the study, or name another one"
    attributes = trial.user_attrs.get(RECORD)
    record = read_fields(kind, attributes, where, RunError, hint)
    if attributes is None or not isinstance(record, Record):
        return record
    return kind.model_validate(
        current(attributes)
    )  # version 0.1 told a plan's transforms beside it


def selection_notes(selection: Measured, seconds: float) -> dict[str, float]:
    """What a rung measured on the images that candidates are compared on, and how long it took."""
    notes = {
        "measured: agreement with the original (%)": 100 * selection.agreement,
        "measured: soft agreement with the original (%)": 100 * selection.soft_agreement,
        "measured: images": selection.n,
        "measured: seconds": seconds,
    }
    if selection.top1 is not None and selection.baseline_top1 is not None:
        notes["measured: top-1 (%)"] = 100 * selection.top1
        notes["measured: top-1 of the original (%)"] = 100 * selection.baseline_top1
    return notes


def in_tree_order(plans: Iterable[Plan]) -> list[Plan]:
    """Plans sorted so that those that begin alike stand together."""

    def decision(here: EncoderPlan) -> tuple[int, str, str, int, bool, int, int]:
        reuse, groups = here.reuse, here.groups_of
        way = (reuse.source + 1, reuse.tensor, reuse.transform) if reuse else (0, "", "")
        of = -1 if groups is None else groups
        return *way, here.pairs, here.class_rows, here.shared, of

    def decisions(plan: Plan) -> list[tuple[int, str, str, int, bool, int, int]]:
        return [decision(plan.at(encoder)) for encoder in range(plan.named_encoders)]

    return sorted(plans, key=decisions)
