"""What is asked of a comparison, and the rows that answer it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from trex.compare.measure import Kept, Measured
from trex.compare.saved import SavedVariant
from trex.compare.target import ModelOnDevice, Price
from trex.models.registry import LoadedModel
from trex.plan import Plan
from trex.training.data import ImageSet

#: original: the model itself; within, beyond: methods by the limit; unpriced: no term for it;
#: trained: methods at their publication's setting; models: other backbones
Group = Literal["original", "within", "beyond", "unpriced", "trained", "models"]

#: a note: no setting of the method is within it
BEYOND_LIMIT: Final = "cannot reach the limit"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of the comparison.

    Attributes:
        setting: in words.
        encoders: that reuse or skip, where they were chosen.
        plan: in text, of whatever else is a plan.
        price: an estimate; None where the accounting has no term.
        without_dead_rows: the original's price without them, in its own row, where its head
            reads class tokens only.
        exact: it computes what the original does, so its accuracy is the original's.
        measured: on the data that was given, without training unless `finetuned`.
        published_top1: in percent, on all of ImageNet's validation images, trained.
        note: what is the matter, or nothing.
    """

    group: Group
    method: str
    title: str
    setting: str = ""
    encoders: str = ""
    plan: str = ""
    price: Price | None = None
    without_dead_rows: Price | None = None
    finetuned: bool = False
    exact: bool = False
    measured: Measured | None = None
    published_top1: float | None = None
    source: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareOptions:
    """What is compared, and with what.

    Attributes:
        class_token: whether the model has exactly one, which its head reads.
        limit_s: most latency.
        methods: names out of `NAMES`.
        saved: TReX variants that were made before.
        plans: by hand.
        loaded: the original with its weights, where anything is measured.
        images: labelled, or None.
        calibration: to choose encoders with, or None: they are evenly spread then, and nothing
            is fitted.
        fitting: the images that plans are fitted on; those of `calibration` are among them.
        amp: choose encoders and measure in mixed precision.
        kept: results of earlier, stopped comparisons.
    """

    target: ModelOnDevice
    class_token: bool
    limit_s: float
    methods: tuple[str, ...]
    saved: tuple[SavedVariant, ...]
    plans: tuple[Plan, ...]
    loaded: LoadedModel | None
    images: ImageSet | None
    calibration: ImageSet | None
    fitting: ImageSet | None
    amp: bool
    kept: Kept
