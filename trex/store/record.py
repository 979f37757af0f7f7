"""Candidates as a run folder's records tell of them. Estimates and measurements stay apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What a plan costs under an accounting of a chip, or on a measured machine.

    Attributes:
        energy_j: None, as area and EDAP, on a measured machine, of which nobody knows them.
        spread: how much closer, relatively, latencies of a measured machine cannot be told
            apart; None on a chip, whose figures have none.
    """

    latency_s: float
    energy_j: float | None
    area_m2: float | None
    edap_mj_ms_mm2: float | None
    spread: float | None = None

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Estimate:
        """From a file's fields, which `schemas.PriceFields` has let through."""
        fields: dict[str, Any] = {name: data.get(name) for name in cls.__slots__}
        return cls(**fields)

    @property
    def overall(self) -> float:
        """As `overall`."""
        return self.latency_s if self.edap_mj_ms_mm2 is None else self.edap_mj_ms_mm2


def overall(price: Mapping[str, Any]) -> float:
    """What stands for all costs of a record's price: EDAP, or latency on a measured machine.

    In mJ·ms·mm², or in seconds: only prices of one device are compared.
    """
    return Estimate.of(price).overall


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """How a candidate did on images that were kept aside; accuracies None without labels.

    Attributes:
        loss: KL divergence from the original, in nats an image.
        agreement: the share of images with the original's first guess.
        soft_agreement: how surely it gives that guess, between 0 and 1.
        n: images.
    """

    loss: float
    agreement: float
    soft_agreement: float
    top1: float | None
    baseline_top1: float | None
    n: int

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Measured:
        """From a file's fields, which `schemas.MeasuredFields` has let through."""
        return cls(**{name: data[name] for name in cls.__slots__})


@dataclass(frozen=True, kw_only=True, slots=True)
class Later:
    """What a rung after the fit measured, and the images it spent on that."""

    rung: str
    images: int
    measured: Measured


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One finished candidate.

    Attributes:
        plan: in text.
        n_reuse: its consumers.
        transform: theirs, in words.
        later: of the rungs after the fit, in order.
    """

    key: str
    plan: str
    n_reuse: int
    transform: str
    estimate: Estimate
    predicted_loss: float | None
    selection: Measured
    later: tuple[Later, ...]

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Record:
        """From what `Run.records` gives."""
        later = tuple(
            Later(
                rung=spent["rung"],
                images=spent["images"],
                measured=Measured.of(data[spent["rung"]]),
            )
            for spent in data.get("rungs", ())
            if spent["rung"] in data
        )
        return cls(
            key=data["key"],
            plan=data["plan"],
            n_reuse=data["n_reuse"],
            transform=data["transform"],
            estimate=Estimate.of(data["estimate"]),
            predicted_loss=data.get("predicted_loss"),
            selection=Measured.of(data["selection"]),
            later=later,
        )
