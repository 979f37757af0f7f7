"""Candidates as people see them in a study: units in names, estimates apart from measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from trex.reuse.fit import Candidate
from trex.search.study import Entry
from trex.search.terms import Choice, Choices

#: what a study minimises
LOSS: Final = "loss (KL from the original, nats an image)"
EDAP: Final = "EDAP (mJ*ms*mm2)"

#: an attribute that holds a whole record, for run folders on other machines
RECORD: Final = "record"


def entry(candidate: Candidate, choices: Choices, notes: Mapping[str, Any]) -> Entry:
    """A candidate with its choices by encoder, among all of the space's."""
    of = {}
    for encoder, (number, options) in enumerate(
        zip(choices.row(candidate), choices.of, strict=True)
    ):
        if len(options) > 1:
            names = tuple(map(choice_name, options))
            of[f"encoder {encoder}"] = (names[number], names)
    about = {"plan": str(candidate.plan) or "no reuse", "consumers": candidate.plan.n_reuse}
    return Entry(key=candidate.key, choices=of, notes={**about, **notes})


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
    selection = record["selection"]
    notes = {
        "measured: agreement with the original (%)": 100 * selection["agreement"],
        "measured: images": selection["n"],
        "measured: seconds": record["seconds"],
    }
    if selection["top1"] is not None:
        notes["measured: top-1 (%)"] = 100 * selection["top1"]
        notes["measured: top-1 of the original (%)"] = 100 * selection["baseline_top1"]
    return {**notes, RECORD: dict(record)}


def in_tree_order(candidates: Sequence[Candidate], choices: Choices) -> list[Candidate]:
    """Candidates sorted so that those that begin alike stand together."""
    return sorted(candidates, key=lambda candidate: tuple(choices.row(candidate)))
