"""What result files must hold to be read: checked once, where they come in.

A file may hold more than is listed here; what is listed has this type, or the file is refused with
the place of the first field that is not so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trex.errors import PlanError, TrexError
from trex.plan import Plan


class Fields(BaseModel):
    """Base: nothing is converted, no number is NaN or infinite, further fields are let through."""

    model_config = ConfigDict(
        extra="allow", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=()
    )


Share = Annotated[float, Field(ge=0.0, le=1.0)]
Amount = Annotated[float, Field(ge=0.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=0)]
Text = Annotated[str, Field(max_length=10_000)]


class PriceFields(Fields):
    """What a plan costs: SI units, and EDAP in mJ ms mm²; on a measured machine latency alone."""

    chip: Text
    accounting: Text
    basis: Literal["estimate", "measured"] = "estimate"
    latency_s: Positive
    energy_j: Positive | None
    area_m2: Positive | None
    edap_mj_ms_mm2: Positive | None
    spread: Positive | None = None

    @model_validator(mode="after")
    def _of_one_basis(self) -> PriceFields:
        others = (self.energy_j, self.area_m2, self.edap_mj_ms_mm2)
        if self.basis == "measured" and (any(of is not None for of in others) or not self.spread):
            raise ValueError("a measured machine has a spread, and no energy, area or EDAP")
        if self.basis == "estimate" and any(of is None for of in others):
            raise ValueError("a chip's price has energy, area and EDAP")
        return self


class MeasuredFields(Fields):
    """How a candidate compares with the original on images; accuracies None without labels."""

    loss: float
    agreement: Share
    soft_agreement: Share
    top1: Share | None
    baseline_top1: Share | None
    n: Annotated[int, Field(ge=1)]


_SPENT_ON: Final = r"^(surrogate|fitted|confirmed|refined|finetuned-[1-9][0-9]{0,3})$"


class SpentFields(Fields):
    """What a rung found and spent."""

    rung: Annotated[
        str, Field(pattern=r"^(surrogate|fitted|confirmed|refined|finetuned-[1-9][0-9]{0,3})$")
    ]
    loss: float
    images: Count
    seconds: Amount


class RecordFields(Fields):
    """A line of `results.jsonl`: a fitted candidate."""

    key: Annotated[str, Field(pattern=r"^[A-Za-z0-9]{1,64}$")]
    plan: Text
    n_reuse: Count
    transform: Text
    ranked_on: Text = "soft_agreement"
    estimate: PriceFields
    predicted_loss: float | None = None
    selection: MeasuredFields
    rungs: list[SpentFields] = []


class RungFields(Fields):
    """A line of `results.jsonl`: what a later rung measured of a candidate."""

    key: Text
    rung: SpentFields
    measured: MeasuredFields


class ModelArguments(BaseModel):
    """What a model is built with beside its name."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    num_classes: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    img_size: Annotated[int, Field(ge=1, le=8192)] | None = None
    tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    config: dict[str, Any] | None = None


class SettingsFields(Fields):
    """What was asked."""

    model: Text
    model_args: ModelArguments
    weights_sha256: Text
    chip: Text
    accounting: Text
    budget: Text
    space: dict[str, Any]
    search: dict[str, Any]


class LayoutFields(Fields):
    """Which plans a model can run."""

    stages: list[Count]
    tokens: Count


class ManifestFields(Fields):
    """`manifest.json`."""

    settings: SettingsFields
    weights_source: Text = "hub"
    command: list[str] = []
    versions: dict[str, str] = {}
    calibration: Text | None = None
    calibration_images_sha256: Text | None = None
    layout: LayoutFields | None = None
    densities: dict[str, Any] | None = None
    space_size: Count
    feasible: Count | None
    baseline: PriceFields


class WinnerFields(Fields):
    """`best.json`."""

    key: Text
    plan: Text


class TunedFields(WinnerFields):
    """`finetuned.json`."""

    rung: Text
    images: Count
    measured: MeasuredFields


class WayFields(Fields):
    """A way of fitting, and what the plan that ways were compared on lost."""

    class_weight: float
    ridge: float
    shrink: float


class TriedFields(WayFields):
    """The same, tried."""

    loss: float | None


class FitFields(Fields):
    """`fit.json`."""

    fitted: Text
    chosen: WayFields
    tried: Annotated[list[TriedFields], Field(min_length=1)]


class EvaluationFields(Fields):
    """A variant beside its original on labelled images."""

    data: Text
    n: Annotated[int, Field(ge=1)]
    top1: Share
    baseline_top1: Share
    difference: Annotated[float, Field(ge=-1.0, le=1.0)]
    ci95: Annotated[list[float], Field(min_length=2, max_length=2)]


class NoisyFields(Fields):
    """The same on instances of a chip that errs."""

    chip: Text
    mode: Text
    top1_by_draw: list[Share]
    baseline_top1_by_draw: list[Share]


class LineFields(EvaluationFields):
    """A line of `evaluations.jsonl`."""

    pick: Text
    plan: Text
    non_ideal: NoisyFields | None = None


class ShortFields(Fields):
    """A candidate in `summary.json`."""

    plan: Text
    n_reuse: Count
    transform: Text
    estimate: PriceFields
    selection: MeasuredFields
    evaluation: EvaluationFields | None = None


class FrontFields(Fields):
    """The front in `summary.json`."""

    points: list[ShortFields]
    hypervolume: Amount
    knee: ShortFields | None


class CountFields(Fields):
    """How many plans there are, how many fit, how many were measured."""

    space: Count
    feasible: Count | None
    evaluated: Count


class TunedSummaryFields(Fields):
    """The winner after its short training in `summary.json`."""

    plan: Text
    rung: Text
    images: Count
    measured: MeasuredFields
    evaluation: EvaluationFields | None = None


class IntervalFields(Fields):
    """A median over rounds and its 95 % interval."""

    median: Positive
    low: Positive
    high: Positive


class TimedFields(Fields):
    """A finalist run whole on a measured machine, beside the original in the same rounds."""

    key: Text
    plan: Text
    predicted_s: Positive
    predicted_ratio: Positive
    latency_s: IntervalFields
    original_s: IntervalFields
    ratio: IntervalFields
    holds: bool


class TimingsFields(Fields):
    """`timings.json`."""

    device: Text
    runtime: Text
    threads: Annotated[int, Field(ge=1)]
    dtype: Text
    batch: Annotated[int, Field(ge=1)]
    clock: Text
    rounds: Annotated[int, Field(ge=1)]
    spread: Positive
    rows: list[TimedFields]


class ChosenFields(TimingsFields):
    """The same in `summary.json`, with the key of the plan that was chosen."""

    chosen: Text


class BenchRowFields(Fields):
    """One variant in one setting, as `trex bench` timed it."""

    variant: Text
    runtime: Text
    dtype: Text
    batch: Annotated[int, Field(ge=1)]
    latency_s: IntervalFields
    images_per_second: Positive
    speedup: IntervalFields


class BenchFields(Fields):
    """What `trex bench --out` wrote."""

    basis: Literal["measured"]
    machine: dict[str, Any]
    device: Text
    threads: Annotated[int, Field(ge=1)]
    clock: Text
    rounds: Annotated[int, Field(ge=1)]
    plans: dict[str, Text]
    models: dict[str, Text]
    rows: Annotated[list[BenchRowFields], Field(min_length=1)]


class SummaryFields(Fields):
    """`summary.json`."""

    model: Text
    chip: Text
    accounting: Text
    budget: Text
    strategy: Text
    baseline: PriceFields
    best: ShortFields
    finetuned: TunedSummaryFields | None = None
    pareto: list[ShortFields]
    front: FrontFields
    timings: ChosenFields | None = None
    proof: dict[str, Any] | None
    candidates: CountFields


class StageFields(Fields):
    """A line of a fine-tuning's `results.jsonl`: the variant before or after it."""

    stage: Annotated[str, Field(pattern=r"^(fitted|finetuned)$")]
    plan: Text
    evaluation: EvaluationFields | None = None
    non_ideal_chip: Text | None = None
    non_ideal_evaluation: EvaluationFields | None = None
    training: dict[str, Any] = {}


#: of the run folder's JSON files
FILES: Final[Mapping[str, type[Fields]]] = {
    "manifest.json": ManifestFields,
    "best/best.json": WinnerFields,
    "finetuned/finetuned.json": TunedFields,
    "fit.json": FitFields,
    "summary.json": SummaryFields,
    "timings.json": TimingsFields,
}


def check_fields(
    model: type[BaseModel], data: object, where: object, error: type[TrexError], hint: str
) -> None:
    """See that a file holds what it must; `where` names it, and the line, in the error.

    Raises:
        TrexError: of class `error`: it does not.
    """
    try:
        model.model_validate(data)
    except ValidationError as found:
        first = found.errors(include_url=False, include_context=False)[0]
        field = ".".join(map(str, first["loc"]))
        value = "" if first["type"] == "missing" else f", not {_short(first['input'])}"
        raise error(
            f"{where} is damaged: {field}: {first['msg']}{value}"[:500], hint=hint
        ) from None
    except RecursionError:
        raise error(f"{where} is damaged: it is nested too deep", hint=hint) from None


def check_plan(text: str, where: object, error: type[TrexError], hint: str) -> None:
    """See that a file's plan is one.

    Raises:
        TrexError: of class `error`: it is not.
    """
    try:
        Plan.parse(text)
    except PlanError as found:
        raise error(f"{where} is damaged: plan: {found.message}", hint=hint) from None


def _short(value: Any) -> str:
    if isinstance(value, dict | list):
        return f"a {'mapping' if isinstance(value, dict) else 'list'} of {len(value)}"
    text = repr(value) if not isinstance(value, int) or abs(value) < 1e30 else "a huge number"
    return text if len(text) <= 60 else f"{text[:57]}..."
