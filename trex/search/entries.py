"""Plans as people see them in a study: units in names, estimates apart from measurements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from optuna.trial import FrozenTrial

from trex.plan import EncoderPlan, Plan
from trex.search.study import Entry
from trex.search.terms import Choices
from trex.stored import read_plan

#: what a study minimises
LOSS: Final = "loss (KL from the original, nats an image)"
EDAP: Final = "EDAP (mJ*ms*mm2)"

#: an attribute that holds a whole record, for run folders on other machines
RECORD: Final = "record"
_NO_REUSE: Final = "no reuse"


#: for every encoder, what it may do, in words
Options = tuple[tuple[str, ...], ...]


def options_of(choices: Choices, plans: Sequence[Plan] = ()) -> Options:
    """What every encoder may do: what the space lets it choose, and what given plans do there."""
    return tuple(
        tuple(
            dict.fromkeys(
                (
                    *(decision_name(EncoderPlan(choice)) for choice in of),
                    *(decision_name(plan.at(encoder)) for plan in plans),
                )
            )
        )
        for encoder, of in enumerate(choices.of)
    )


def entry(plan: Plan, options: Options, notes: Mapping[str, Any]) -> Entry:
    """A plan with what it does in every encoder, among all that could be done there."""
    chosen = {
        f"encoder {encoder}": (decision_name(plan.at(encoder)), names)
        for encoder, names in enumerate(options)
        if len(names) > 1
    }
    return Entry(key=plan.key, choices=chosen, notes={**plan_notes(plan), **notes})


def plan_notes(plan: Plan) -> dict[str, Any]:
    """The plan in words; `plan_of_trial` reads it back."""
    return {"plan": str(plan) or _NO_REUSE, "consumers": plan.n_reuse}


def plan_of_trial(trial: FrozenTrial) -> Plan:
    """The plan that a trial is about."""
    told = trial.user_attrs
    return Plan() if told["plan"] == _NO_REUSE else read_plan(told)


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


def estimate_notes(estimate: Mapping[str, Any], predicted_loss: float | None) -> dict[str, Any]:
    """What is known before anything is fitted."""
    scales = (
        ("latency_s", "latency (ms)", 1e3),
        ("energy_j", "energy (uJ)", 1e6),
        ("area_m2", "area (mm2)", 1e6),
        ("edap_mj_ms_mm2", EDAP, 1.0),
    )
    notes = {f"estimate: {name}": estimate[field] * scale for field, name, scale in scales}
    if predicted_loss is not None:
        notes["estimate: loss (nats)"] = predicted_loss
    return notes


def measured_notes(record: Mapping[str, Any]) -> dict[str, Any]:
    """What fitting and measuring showed."""
    return {**selection_notes(record["selection"], record["seconds"]), RECORD: dict(record)}


def selection_notes(selection: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """What a rung measured on the images that candidates are compared on, and how long it took."""
    notes = {
        "measured: agreement with the original (%)": 100 * selection["agreement"],
        "measured: soft agreement with the original (%)": 100 * selection["soft_agreement"],
        "measured: images": selection["n"],
        "measured: seconds": seconds,
    }
    if selection["top1"] is not None:
        notes["measured: top-1 (%)"] = 100 * selection["top1"]
        notes["measured: top-1 of the original (%)"] = 100 * selection["baseline_top1"]
    return notes


def in_tree_order(plans: Iterable[Plan]) -> list[Plan]:
    """Plans sorted so that those that begin alike stand together."""

    def decision(here: EncoderPlan) -> tuple[int, str, str, int, bool, int]:
        reuse = here.reuse
        way = (reuse.source + 1, reuse.tensor, reuse.transform) if reuse else (0, "", "")
        return *way, here.pairs, here.class_rows, here.shared

    def decisions(plan: Plan) -> list[tuple[int, str, str, int, bool, int]]:
        return [decision(plan.at(encoder)) for encoder in range(plan.named_encoders)]

    return sorted(plans, key=decisions)
