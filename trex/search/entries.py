"""Candidates as people see them in a study: units in names, estimates apart from measurements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from optuna.trial import FrozenTrial

from trex.plan import ReusePlan
from trex.reuse.fit import Candidate
from trex.search.study import Entry
from trex.search.terms import Choice, Choices

#: what a study minimises
LOSS: Final = "loss (KL from the original, nats an image)"
EDAP: Final = "EDAP (mJ*ms*mm2)"

#: an attribute that holds a whole record, for run folders on other machines
RECORD: Final = "record"
_NO_REUSE: Final = "no reuse"


def entry(candidate: Candidate, choices: Choices, notes: Mapping[str, Any]) -> Entry:
    """A candidate with its choices by encoder, among all of the space's."""
    of = {}
    for encoder, (number, options) in enumerate(
        zip(choices.row(candidate), choices.of, strict=True)
    ):
        if len(options) > 1:
            names = tuple(map(choice_name, options))
            of[f"encoder {encoder}"] = (names[number], names)
    return Entry(key=candidate.key, choices=of, notes={**candidate_notes(candidate), **notes})


def candidate_notes(candidate: Candidate) -> dict[str, Any]:
    """The plan in words; `candidate_of_trial` reads it back."""
    return {
        "plan": str(candidate.plan) or _NO_REUSE,
        "consumers": candidate.plan.n_reuse,
        "transforms": {str(consumer): name for consumer, name in candidate.transforms.items()},
    }


def candidate_of_trial(trial: FrozenTrial) -> Candidate:
    """The candidate that a trial is about."""
    plan = trial.user_attrs["plan"]
    return Candidate(
        plan=ReusePlan() if plan == _NO_REUSE else ReusePlan.parse(plan),
        transforms={int(k): v for k, v in trial.user_attrs["transforms"].items()},
    )


def choice_name(choice: Choice | None) -> str:
    """`own`, or `output of 4, linear`."""
    if choice is None:
        return "own"
    return f"{choice.tensor} of {choice.source}, {choice.transform}"


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


def in_tree_order(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Candidates sorted so that those that begin alike stand together."""

    def decisions(candidate: Candidate) -> list[tuple[int, str, str]]:
        made = {
            reuse.consumer: (reuse.source + 1, reuse.tensor, candidate.transforms[reuse.consumer])
            for reuse in candidate.plan
        }
        return [made.get(encoder, (0, "", "")) for encoder in range(max(made, default=-1) + 1)]

    return sorted(candidates, key=decisions)
