"""Candidates as `results.jsonl` tells of them. Estimates and measurements stay apart.

The search makes these, the run folder keeps them, and reports and commands read them: one type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import Field, PrivateAttr, model_validator

from trex.plan import Plan
from trex.store.fields import Amount, Count, Fields, Positive, Share, Text


class Estimate(Fields):
    """What a plan costs under an accounting of a chip, or on a measured machine; how large it is.

    SI units, EDAP in mJ ms mm².

    Attributes:
        basis: of records that do not tell, a chip's estimate.
        energy_j: None, as area and EDAP, on a measured machine, of which nobody knows them.
        spread: how much closer, relatively, latencies of a measured machine cannot be told
            apart; None on a chip, whose figures have none.
    """

    chip: Text
    accounting: Text
    basis: Literal["estimate", "measured"] = "estimate"
    latency_s: Positive
    energy_j: Positive | None
    area_m2: Positive | None
    edap_mj_ms_mm2: Positive | None
    spread: Positive | None = None
    parameters: Count | None = None
    macs: Count | None = None

    @model_validator(mode="after")
    def _of_one_basis(self) -> Estimate:
        others = (self.energy_j, self.area_m2, self.edap_mj_ms_mm2)
        if self.on_machine and (any(of is not None for of in others) or not self.spread):
            raise ValueError("a measured machine has a spread, and no energy, area or EDAP")
        if not self.on_machine and any(of is None for of in others):
            raise ValueError("a chip's price has energy, area and EDAP")
        return self

    @property
    def on_machine(self) -> bool:
        """Whether it is a latency predicted by a measured machine, not a chip's estimate."""
        return self.basis == "measured"

    @property
    def overall(self) -> float:
        """What stands for all costs: EDAP, or latency on a measured machine.

        In mJ·ms·mm², or in seconds: only prices of one device are compared.
        """
        return self.latency_s if self.edap_mj_ms_mm2 is None else self.edap_mj_ms_mm2


class Measured(Fields):
    """How a candidate did on images that were kept aside; accuracies None without labels.

    Attributes:
        loss: KL divergence from the original, in nats an image; of features the cosine distance.
        agreement: the share of images with the original's first guess, or nearest neighbour.
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
