"""Recipes: every hyper-parameter of a fine-tuning, as a strict YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from trex.config import FieldProblem, StrictModel, did_you_mean, read_document
from trex.errors import TrexError

Labels = Literal["none", "hard", "token"]
Part = Literal["new", "consumers", "all"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]

_Positive = Annotated[float, Field(gt=0)]
_NotNegative = Annotated[float, Field(ge=0)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Count = Annotated[int, Field(gt=0)]

_SHIPPED: Final = Path(__file__).resolve().parents[1] / "recipes"


class RecipeError(TrexError):
    """A recipe is malformed, contradictory, or does not fit the model or the data."""


class Optimizer(StrictModel):
    """timm's optimisers, with a learning rate for each kind of parameter."""

    name: str = "adamw"
    #: of pretrained parameters
    lr: _Positive
    #: of transforms and of consumers' projections, which were fitted and never trained
    lr_new: _Positive
    weight_decay: _NotNegative = 0.0
    betas: tuple[_Share, _Share] = (0.9, 0.999)
    #: what the rate is multiplied by from each encoder to the one before
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    #: largest norm of all gradients together; none leaves them as they are
    clip_norm: _Positive | None = 1.0


class Schedule(StrictModel):
    """Linear warm-up, then cosine, step by step."""

    warmup_epochs: _NotNegative = 0.0
    #: the last learning rate, as a share of the highest
    final_share: _Share = 0.01


class LossWeights(StrictModel):
    """How much each loss counts; 0 leaves it out."""

    #: cross-entropy with the data's labels
    ce: _NotNegative = 0.0
    label_smoothing: _Share = 0.0
    #: divergence of the probabilities from the teacher's, times the temperature squared
    kl: _NotNegative = 0.0
    temperature: _Positive = 1.0
    #: divergence of the softmaxed final class tokens
    class_kl: _NotNegative = 0.0
    #: mean square difference of the final tokens, each normalised
    tokens: _NotNegative = 0.0
    #: the same, at the output of every encoder that the plan names
    encoders: _NotNegative = 0.0
    #: how much more a class token's error counts than a patch token's in `tokens`, `encoders`
    class_weight: _Positive = 100.0
    #: LV-ViT's token labelling: cross-entropy of the image plus this times that of its patches,
    #: which the teacher labels; leave `ce` 0
    dense: _NotNegative = 0.0

    @property
    def labels(self) -> Labels:
        """The labels these losses read."""
        return "token" if self.dense else "hard" if self.ce else "none"

    @property
    def distils(self) -> bool:
        """Whether any loss reads the teacher."""
        return any((self.kl, self.class_kl, self.tokens, self.encoders, self.dense))


class Augment(StrictModel):
    """What random views show of an image; timm's names and meanings."""

    #: smallest and largest share of the area that a crop shows
    scale: tuple[_Positive, _Positive] = (0.35, 1.0)
    ratio: tuple[_Positive, _Positive] = (0.75, 1.3333333333333333)
    hflip: _Share = 0.5
    color_jitter: _NotNegative = 0.0
    #: e.g. rand-m9-mstd0.5-inc1
    auto_augment: str | None = None
    erasing: _Share = 0.0
    mixup: _NotNegative = 0.0
    cutmix: _NotNegative = 0.0
    #: how often a batch is mixed
    mix_probability: _Share = 1.0

    @property
    def mixes(self) -> bool:
        """Whether any batch is mixed."""
        return self.mix_probability > 0 and (self.mixup > 0 or self.cutmix > 0)


class TeacherUse(StrictModel):
    """The original runs on every batch, or once on a fixed set of views, kept on disk."""

    mode: Literal["live", "cached"] = "live"
    #: views of every image, where cached; they come round again
    views: _Count = 8


class Selection(StrictModel):
    """Which of the weights seen on the way are kept, by a split of the training images."""

    #: of the images; 0 keeps the last weights
    share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    #: stop after so many epochs without a better one
    patience: _Count | None = None
    #: the mean of the last so many epochs' weights is one more to choose from
    average: Annotated[int, Field(ge=0)] = 0


class Stage(StrictModel):
    """What is trained from `from_epoch` on: `new` parts, whole `consumers`, or `all`."""

    from_epoch: Annotated[int, Field(ge=0)]
    train: Part


class Checkpoints(StrictModel):
    """When the state is saved; whichever comes first."""

    minutes: _Positive = 10.0
    steps: _Count | None = None
    keep: _Count = 2


class Recipe(StrictModel):
    """One fine-tuning."""

    description: str
    epochs: _Count
    #: of every epoch's images, those of --extra, which then go round at their own pace; none
    #: shows each of them once an epoch
    extra_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    #: images of one optimiser step, over all processes
    batch_size: _Count
    #: most images of one forward in one process; gradients add up to the batch
    micro_batch: _Count = 64
    #: of forwards and backwards; weights stay fp32. auto: bf16 where the device multiplies it
    precision: Precision = "fp32"
    grad_checkpointing: bool = False
    optimizer: Optimizer
    schedule: Schedule = Schedule()
    losses: LossWeights
    augment: Augment = Augment()
    teacher: TeacherUse = TeacherUse()
    #: of the moving average of the weights, which is what is kept; none keeps the weights
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    #: how far the kept weights go from the fitted ones to the trained ones (or their average):
    #: 1 is all the way (weight-space ensembles, Wortsman et al., arXiv 2109.01903)
    interpolation: Annotated[float, Field(gt=0, le=1)] = 1.0
    selection: Selection = Selection()
    stages: tuple[Stage, ...] = (Stage(from_epoch=0, train="all"),)
    checkpoints: Checkpoints = Checkpoints()

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        losses, mixes = self.losses, self.augment.mixes
        if not (losses.ce or losses.distils):
            raise FieldProblem(("losses",), "are all 0", "give kl: 1.0 for instance")
        if losses.dense and losses.ce:
            raise FieldProblem(
                ("losses", "ce"), "is in the dense loss already", "leave one of the two 0"
            )
        if losses.dense and mixes:
            raise FieldProblem(
                ("augment",), "mixed images have no token labels", "set mix_probability: 0"
            )
        if self.teacher.mode == "cached" and (mixes or losses.encoders or losses.dense):
            raise FieldProblem(
                ("teacher", "mode"),
                "a cache holds logits and final tokens of unmixed images only",
                "set mix_probability: 0, encoders: 0 and dense: 0, or use the teacher live",
            )
        epochs = [stage.from_epoch for stage in self.stages]
        if not epochs or epochs[0] != 0 or sorted(set(epochs)) != epochs:
            raise FieldProblem(
                ("stages",), "do not begin at epoch 0 and rise", "order them by from_epoch"
            )
        if self.augment.scale[0] > self.augment.scale[1] or self.augment.scale[1] > 1:
            raise FieldProblem(("augment", "scale"), "is no range up to 1", "give [0.35, 1.0]")
        return self

    def check_extra(self, given: bool) -> None:
        """Whether extra images, which have no labels, are given as this recipe needs them.

        Raises:
            RecipeError: they are given and its losses read labels, or missing and it draws them.
        """
        if given and self.losses.labels != "none":
            raise RecipeError(
                "--extra images have no labels, which the recipe's losses read",
                hint="train with --labels none, or leave --extra out",
            )
        if not given and self.extra_share:
            raise RecipeError(
                f"{100 * self.extra_share:.0f} % of the recipe's images are --extra ones, "
                "and there are none",
                hint="give more images with --extra, or a recipe without extra_share",
            )

    def check_inputs(self, pixels: bool) -> None:
        """Whether this recipe can be used on such inputs.

        Raises:
            RecipeError: it mixes, and the inputs are texts.
        """
        if not pixels and self.augment.mixes:
            raise RecipeError(
                "the recipe mixes images, and these are texts",
                hint="train with --recipe few_steps, or with --set augment.mix_probability=0",
            )

    def with_labels(self, labels: Labels | None) -> Recipe:
        """The recipe for data with these labels; None takes what the recipe reads.

        `none` drops the losses that read labels.

        Raises:
            RecipeError: no loss is left, or none reads such labels.
        """
        if labels is None or labels == self.losses.labels:
            return self
        if labels != "none":
            raise RecipeError(
                f"--labels {labels}: no loss of the recipe reads them",
                hint=f"add --set losses.{'ce' if labels == 'hard' else 'dense'}=1.0",
            )
        losses = self.losses.model_copy(update={"ce": 0.0, "dense": 0.0})
        if not losses.distils:
            raise RecipeError(
                "--labels none: every loss of the recipe reads labels",
                hint="use a recipe that distils, such as few_images",
            )
        return self.model_copy(update={"losses": losses})


def shipped_recipes() -> dict[str, Path]:
    """Name -> file."""
    return {path.stem: path for path in sorted(_SHIPPED.glob("*.yaml"))}


def load_recipe(name: str | Path, changes: Mapping[str, Any] | None = None) -> Recipe:
    """A shipped recipe by name, or a user's by path.

    Args:
        name: of a shipped recipe, or a path.
        changes: field -> another value than the file's, for example `{"optimizer.lr": 3e-5}`;
            the description says so.

    Raises:
        RecipeError: there is none, or it is not valid, or is not with the changes.
    """
    known = shipped_recipes()
    path = known.get(str(name), Path(name))
    if not path.is_file():
        raise RecipeError(
            f"{name}: neither a shipped recipe nor a file", hint=did_you_mean(str(name), [*known])
        )
    document = read_document(path, RecipeError)
    recipe = document.validate(Recipe)
    if not changes:
        return recipe
    listed = ", ".join(f"{field}={value}" for field, value in sorted(changes.items()))
    described = {"description": f"{path.stem}, but {listed}", **changes}
    return document.with_values(described).validate(Recipe)
