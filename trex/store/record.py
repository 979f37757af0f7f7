"""Candidates as `results.jsonl` tells of them. Estimates and measurements stay apart.

The search makes these, the run folder keeps them, and reports and commands read them: one type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import Field, PrivateAttr

from trex.plan import Plan
from trex.store.fields import Amount, Count, Fields, Share, Text


class Estimate(Fields):
    """What a plan costs under an accounting: SI units, EDAP in mJ ms mm², and how large it is."""

    chip: Text
    accounting: Text
    latency_s: Annotated[float, Field(gt=0.0)]
    energy_j: Annotated[float, Field(gt=0.0)]
    area_m2: Annotated[float, Field(gt=0.0)]
    edap_mj_ms_mm2: Annotated[float, Field(gt=0.0)]
    parameters: Count | None = None
    macs: Count | None = None


class Measured(Fields):
    """How a candidate did on images that were kept aside; accuracies None without labels.

    Attributes:
        loss: KL divergence from the original, in nats an image.
        agreement: the share of images with the original's first guess.
        soft_agreement: how surely it gives that guess, between 0 and 1.
        n: images.
        start: what a short training began with, `fitted` or `refined`.
        epochs: of the short training.
    """

    loss: float
    agreement: Share
    soft_agreement: Share
    top1: Share | None
    baseline_top1: Share | None
    n: Annotated[int, Field(ge=1)]
    start: Text | None = None
    epochs: Count | None = None


class Spent(Fields):
    """What a rung found, and the images and seconds it spent on that."""

    rung: Annotated[
        str, Field(pattern=r"^(surrogate|fitted|confirmed|refined|finetuned-[1-9][0-9]{0,3})$")
    ]
    loss: float
    images: Count
    seconds: Amount


class Later(Fields):
    """A line of `results.jsonl`: what a rung after the fit measured of a candidate."""

    key: Text
    rung: Spent
    measured: Measured


#: what rungs before any training measured, the last first
UNTRAINED: Final = ("refined", "confirmed")
#: what records call the measurement behind the fit
SELECTION: Final = "selection"


class Record(Fields):
    """A line of `results.jsonl`, a fitted candidate, with what later lines say of it.

    Attributes:
        plan: in text.
        n_reuse: its consumers.
        transform: theirs, in words.
        ranked_on: what of the measured ranks it.
        rungs: what was found and spent, in order.
        seconds: that fitting and measuring took.
    """

    key: Annotated[str, Field(pattern=r"^[A-Za-z0-9]{1,64}$")]
    plan: Text
    n_reuse: Count
    transform: Text
    ranked_on: Literal["soft_agreement", "loss"] = "soft_agreement"
    estimate: Estimate
    predicted_loss: float | None = None
    selection: Measured
    rungs: Annotated[tuple[Spent, ...], Field(strict=False)] = ()
    seconds: Amount | None = None
    _later: Mapping[str, Measured] = PrivateAttr(default_factory=dict)

    @property
    def later(self) -> Mapping[str, Measured]:
        """What the rungs after the fit measured, by their names in order."""
        return self._later

    @property
    def parsed(self) -> Plan:
        """The plan."""
        return Plan.parse(self.plan)

    @property
    def last(self) -> Measured:
        """What was measured last before any training: refined, confirmed or fitted."""
        return next((self.later[name] for name in UNTRAINED if name in self.later), self.selection)

    def measured(self, rung: str) -> Measured | None:
        """What a rung measured, `selection` the fit's; None where the candidate did not come."""
        return self.selection if rung == SELECTION else self.later.get(rung)

    def spent(self, rung: str) -> Spent:
        """What a rung that the candidate came to spent on it."""
        return next(spent for spent in self.rungs if spent.rung == rung)

    def with_later(self, line: Later) -> Record:
        """With what a further line says of it; as it is where that rung has been told of."""
        if line.rung.rung in self.later:
            return self
        more = self.model_copy(update={"rungs": (*self.rungs, line.rung)})
        more._later = {**self.later, line.rung.rung: line.measured}
        return more
