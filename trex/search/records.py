"""Candidates as records: what was measured, which is best, which are on the front."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from trex.plan import ReusePlan
from trex.reuse.fit import Candidate
from trex.search.pareto import pareto_front


def describe(candidate: Candidate) -> dict[str, Any]:
    """A candidate as plain values; `candidate_of` reads it back."""
    names = sorted(set(candidate.transforms.values()))
    return {
        "plan": str(candidate.plan),
        "n_reuse": candidate.plan.n_reuse,
        "transform": "+".join(names) or "none",
        "transforms": {str(k): v for k, v in candidate.transforms.items()},
    }


def mean_kl(logits: Tensor, original: Tensor) -> float:
    """KL divergence of a variant's probabilities from the original's, in nats an image."""
    return float(
        F.kl_div(
            logits.double().log_softmax(-1),
            original.double().log_softmax(-1),
            reduction="batchmean",
            log_target=True,
        )
    )


def selection_metrics(logits: Tensor, original: Tensor, labels: Tensor) -> dict[str, Any]:
    """How a fitted candidate does on the selection images; accuracies None without labels."""
    labelled = bool((labels >= 0).all())

    def top1(of: Tensor) -> float | None:
        return float((of.argmax(1) == labels).double().mean()) if labelled else None

    return {
        "loss": mean_kl(logits, original),
        "agreement": float((logits.argmax(1) == original.argmax(1)).double().mean()),
        "top1": top1(logits),
        "baseline_top1": top1(original),
        "n": len(logits),
    }


def of_fitted_loss(record: dict[str, Any]) -> tuple[float, float]:
    """Sorts records by loss right after the fit; of equals the cheapest comes first."""
    return record["selection"]["loss"], record["estimate"]["edap_mj_ms_mm2"]


def best_record(records: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The record with the least selection loss on the last rung any came to."""
    known = list(records)
    if refined := [record for record in known if "refined" in record]:
        return min(refined, key=lambda r: (r["refined"]["loss"], r["estimate"]["edap_mj_ms_mm2"]))
    return min(known, key=of_fitted_loss)


def front_of(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records no other beats in both EDAP and selection loss, cheapest first."""
    objectives = np.array(
        # Equal plans differ in the last digits, by the order in which their encoders are added up.
        [
            [float(f"{r['estimate']['edap_mj_ms_mm2']:.9g}"), r["selection"]["loss"]]
            for r in records
        ]
    )
    return [records[i] for i in pareto_front(objectives)]


def candidate_of(record: dict[str, Any]) -> Candidate:
    """The candidate a record tells of."""
    return Candidate(
        plan=ReusePlan.parse(record["plan"]),
        transforms={int(k): v for k, v in record["transforms"].items()},
    )
