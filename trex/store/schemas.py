"""What the other result files hold, as they are read, written and carried on."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from trex.store.fields import Amount, Count, Fields, Positive, Share, Text
from trex.store.record import Estimate, Measured, Spent


class ModelArguments(BaseModel):
    """What a model is built with beside its name."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    num_classes: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    img_size: Annotated[int, Field(ge=1, le=8192)] | None = None
    tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    config: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """Keyword arguments; those that were given."""
        return self.model_dump(exclude_unset=True)


class Settings(Fields):
    """What was asked. Spaces and what a search does are as they were told."""

    model: Text
    model_args: ModelArguments
    weights_sha256: Text
    chip: Text
    chip_sha256: Text | None = None
    accounting: Text
    budget: Text
    space: dict[str, Any]
    search: dict[str, Any]
    calibration_sha256: Text | None = None
    data: dict[str, Any] = Field(default_factory=dict)


class LayoutFields(Fields):
    """Which plans a model can run."""

    stages: list[Count]
    tokens: Count


class Densities(Fields):
    """Input densities that were measured on the calibration images."""

    planes: Any = None


class Manifest(Fields):
    """`manifest.json`: what was asked, of what.

    Attributes:
        device: as it was named; None where it was given as an object, and in older runs.
    """

    settings: Settings
    command: list[str] = Field(default_factory=list)
    device: Text | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    weights_source: Text = "hub"
    calibration: Text | None = None
    calibration_images: Count | None = None
    calibration_images_sha256: Text | None = None
    class_map: Text | None = None
    layout: LayoutFields | None = None
    space_size: Count
    feasible: Count | None
    baseline: Estimate
    densities: Densities | None = None

    @property
    def device_named(self) -> str:
        """The device as the search was given it: one of one's own is known by its path alone."""
        if self.device is not None:
            return self.device
        for position, argument in enumerate(self.command):
            if argument == "--hw" and position + 1 < len(self.command):
                return self.command[position + 1]
            if argument.startswith("--hw="):
                return argument.removeprefix("--hw=")
        return self.settings.chip


class Winner(Fields):
    """`best.json`.

    Attributes:
        producers: what the plan lost on the images it is compared on, in nats, by the share of the
            way to the solution that producers behind its first change went.
        refinement: what each of its rounds did.
    """

    key: Text
    plan: Text
    producers: dict[str, float] = Field(default_factory=dict)
    refinement: list[Any] = Field(default_factory=list)


class Tuned(Winner):
    """`finetuned.json`: the winner as the last short training left it."""

    rung: Text
    images: Count
    measured: Measured


class Way(Fields):
    """A way of fitting.

    Attributes:
        shrink: the share of the step from the start to what is solved for.
        drift: the share of the streams' drift that is corrected.
        class_weight: how much more a class token's error counts.
        ridge: penalty on the way from the start.
        producers: the share of producers behind the first consumer; None where they stay.
    """

    shrink: float
    drift: float = 1.0
    class_weight: float
    ridge: float
    producers: float | None = None


class Tried(Way):
    """The same, tried; `loss`: of the plan that ways were compared on, None if it fits nothing."""

    loss: float | None


class Fit(Fields):
    """`fit.json`: how plans are fitted, chosen on the plan `fitted`, and all that was tried."""

    fitted: Text
    chosen: Way
    tried: Annotated[list[Tried], Field(min_length=1)]


class Proof(Fields):
    """`proof.json`: how well the best prediction is proved to be the best."""

    method: Text
    proved: bool
    predicted_loss: float | None = None
    bound: float | None = None
    gap: float | None = None


class NonIdeal(Fields):
    """A variant beside its original on instances of a chip with errors, in fractions.

    Attributes:
        draws: chip instances.
        top1_std: None of a single one.
        top1_by_draw: one entry a chip instance.
    """

    chip: Text
    mode: Text
    draws: Count | None = None
    top1: Share | None = None
    baseline_top1: Share | None = None
    top1_std: float | None = None
    baseline_top1_std: float | None = None
    top1_by_draw: list[Share]
    baseline_top1_by_draw: list[Share]


class Evaluation(Fields):
    """A variant beside its original on the same labelled images, in fractions.

    Attributes:
        matthews: correlation with the labels, of two classes alone.
        ci95: of the difference.
        agreement: the share of equal first guesses.
        mean_kl: of the variant's probabilities from the original's, in nats an image.
        skipped: images that cannot be read.
        speedup: of the variant.
        non_ideal: the same with a chip's errors.
    """

    data: Text
    unit: Text = "images"
    data_sha256: Text | None = None
    top1: Share
    top5: Share | None = None
    baseline_top1: Share
    baseline_top5: Share | None = None
    matthews: float | None = None
    baseline_matthews: float | None = None
    difference: Annotated[float, Field(ge=-1.0, le=1.0)]
    ci95: Annotated[list[float], Field(min_length=2, max_length=2)]
    p_value: float | None = None
    agreement: Share | None = None
    mean_kl: float | None = None
    n: Annotated[int, Field(ge=1)]
    skipped: Count = 0
    images_per_second: float | None = None
    baseline_images_per_second: float | None = None
    speedup: float | None = None
    non_ideal: NonIdeal | None = None


class EvaluationLine(Evaluation):
    """A line of `evaluations.jsonl`.

    Attributes:
        pick: `best` for the winner's bundle, `finetuned` for the one after the search's short
            training, else a plan as it was fitted for the selection.
    """

    pick: Text
    plan: Text


class Short(Fields):
    """A candidate in `summary.json`: its record, as far as it is told there."""

    key: Text | None = None
    plan: Text
    n_reuse: Count
    transform: Text
    estimate: Estimate
    predicted_loss: float | None = None
    selection: Measured
    confirmed: Measured | None = None
    refined: Measured | None = None
    rungs: Annotated[tuple[Spent, ...], Field(strict=False)] = ()
    evaluation: Evaluation | None = None

    @property
    def last(self) -> Measured:
        """What was measured last before any training: refined, confirmed or fitted."""
        return self.refined or self.confirmed or self.selection


class Front(Fields):
    """What nothing measured beats in everything, in `summary.json`."""

    objectives: list[Text] = Field(default_factory=list)
    points: list[Short]
    hypervolume: Amount
    knee: Short | None


class Counts(Fields):
    """How many plans there are, how many fit the budget, how many were measured."""

    space: Count
    feasible: Count | None
    evaluated: Count


class TunedSummary(Fields):
    """The winner after its short training in `summary.json`."""

    plan: Text
    rung: Text
    images: Count
    measured: Measured
    evaluation: Evaluation | None = None


class IntervalFields(Fields):
    """A median over rounds and its 95 % interval."""

    median: Positive
    low: Positive
    high: Positive


class Timed(Fields):
    """A finalist run whole on a measured machine, beside the original in the same rounds.

    Attributes:
        ratio: to the original, of the same rounds.
        holds: whether it is within the limits.
    """

    key: Text
    plan: Text
    predicted_s: Positive
    predicted_ratio: Positive
    latency_s: IntervalFields
    original_s: IntervalFields
    ratio: IntervalFields
    holds: bool


class Timings(Fields):
    """`timings.json`: what a measured machine took for the best plans, and how it ran."""

    device: Text
    runtime: Text
    threads: Annotated[int, Field(ge=1)]
    dtype: Text
    batch: Annotated[int, Field(ge=1)]
    clock: Text
    rounds: Annotated[int, Field(ge=1)]
    spread: Positive
    rows: list[Timed]


class ChosenTimings(Timings):
    """The same in `summary.json`, with the key of the plan that was chosen."""

    chosen: Text

    @property
    def passed_over(self) -> list[Timed]:
        """Timed plans that would have been chosen if they had held the limit, the best first."""
        before = takewhile(lambda row: row.key != self.chosen, self.rows)
        return [row for row in before if not row.holds]


class BenchRow(Fields):
    """One variant in one setting, as `trex bench` timed it."""

    variant: Text
    runtime: Text
    dtype: Text
    batch: Annotated[int, Field(ge=1)]
    latency_s: IntervalFields
    images_per_second: Positive
    speedup: IntervalFields


class Bench(Fields):
    """What `trex bench --out` wrote."""

    basis: Literal["measured"]
    machine: dict[str, Any]
    device: Text
    threads: Annotated[int, Field(ge=1)]
    clock: Text
    rounds: Annotated[int, Field(ge=1)]
    plans: dict[str, Text]
    models: dict[str, Text]
    rows: Annotated[list[BenchRow], Field(min_length=1)]


class Agreed(Fields):
    """How often the best plan gives the original's first guess."""

    agreement: Share
    ci95: Annotated[list[Share], Field(min_length=2, max_length=2)]
    n: Annotated[int, Field(ge=1)]
    far_from_original: bool


class Summary(Fields):
    """`summary.json`: what a search or a fit of given plans told at its end.

    Attributes:
        ranked_by: the last rung that candidates came to.
        ranked_on: what of the measured ranks them.
        fit: how plans were fitted; None of version 0.1.
        producers: the best plan's, as `Winner` has them.
        pareto: the front of EDAP (latency, on a measured machine) and loss, the cheapest first.
        timings: finalists timed whole on a measured machine; None on a chip.
        plans: all of them, the best first, where they were given.
        baseline_without_dead_rows: what the original costs without rows that its head does not
            read; None where it reads all, or where plans were searched for.
        seconds: that the command took.
        spent: seconds of its steps, by name.
        passes: images that went through one encoder in these, counted once an encoder.
    """

    run: Text = ""
    model: Text
    chip: Text
    basis: Literal["estimate", "measured"] = "estimate"
    accounting: Text
    budget: Text
    strategy: Text
    ranked_by: Text | None = None
    ranked_on: Text | None = None
    baseline: Estimate
    fit: Way | None = None
    producers: dict[str, float] = Field(default_factory=dict)
    agreement: Agreed | None = None
    best: Short
    finetuned: TunedSummary | None = None
    pareto: list[Short]
    front: Front
    timings: ChosenTimings | None = None
    proof: Proof | None
    plans: list[Short] | None = None
    baseline_without_dead_rows: Estimate | None = None
    candidates: Counts
    seconds: Amount = 0.0
    spent: dict[str, Amount] = Field(default_factory=dict)
    passes: dict[str, Count] = Field(default_factory=dict)


class Limited(Summary):
    """What a search under one of several limits told."""

    limit: Text


class Budgets(Fields):
    """`budgets.json`: several searches that differ in one limit.

    Attributes:
        minimized: what is limited.
        max_drop: points that the cheapest plan may lose; None where the limits were given.
        chosen: its limit; None where no plan will do.
    """

    minimized: Text
    max_drop: float | None
    chosen: Text | None
    searches: list[Limited]


class FinetuneSettings(Fields):
    """What a fine-tuning was asked."""

    model: Text
    weights_sha256: Text
    fitted_sha256: Text
    plan: Text


class FinetuneManifest(Fields):
    """`manifest.json` of a fine-tuning.

    Attributes:
        run: the run folder the variant came from, as the command named it.
    """

    settings: FinetuneSettings
    run: Text = ""
    command: list[str] = Field(default_factory=list)


class HeldOutLoss(Fields):
    """What held-out images said of weights.

    Attributes:
        loss: KL from the original, in nats an image.
        agreement: the share of equal first guesses.
        fitted_on_held_out: they look better on them than they are, and are never kept.
    """

    weights: Text
    loss: float
    agreement: Share
    fitted_on_held_out: bool = False


class RecipeFields(Fields):
    """A recipe as plain values.

    Attributes:
        interpolation: the share of the way from the fitted weights to the trained ones.
    """

    interpolation: float = 1.0


class Training(Fields):
    """How a fine-tuning went.

    Attributes:
        kept: which weights: `start`, `epoch N`, `last` or `average`.
        seconds: of training, in all its processes.
        wait_share: of these, waiting for images.
    """

    kept: Text
    steps: Count | None = None
    seconds: Amount | None = None
    images_per_second: Amount | None = None
    wait_share: Amount | None = None
    teacher: dict[str, Any] = Field(default_factory=dict)
    held_out: list[HeldOutLoss] = Field(default_factory=list)
    recipe: RecipeFields = RecipeFields()
    seed: int | None = None

    @property
    def in_words(self) -> str:
        """Which weights were kept."""
        share = self.recipe.interpolation
        way = f", {100 * share:.0f} % of the way from the fitted weights" if share < 1 else ""
        return f"{self.kept}{way}"


class Stage(Fields):
    """A line of a fine-tuning's `results.jsonl`: the variant before or after it."""

    stage: Annotated[str, Field(pattern=r"^(fitted|finetuned)$")]
    plan: Text
    n_reuse: Count | None = None
    transform: Text | None = None
    estimate: Estimate | None = None
    weights_sha256: Text | None = None
    evaluation: Evaluation | None = None
    non_ideal_chip: Text | None = None
    non_ideal_evaluation: Evaluation | None = None
    training: Training | None = None


#: of the run folder's JSON files
FILES: Final[Mapping[str, type[Fields]]] = {
    "manifest.json": Manifest,
    "best/best.json": Winner,
    "finetuned/finetuned.json": Tuned,
    "fit.json": Fit,
    "proof.json": Proof,
    "summary.json": Summary,
    "timings.json": Timings,
}
