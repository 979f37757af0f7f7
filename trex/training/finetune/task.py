"""What one training is given, what it gives back, and what follows from its recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import timm.data
from torch import nn

from trex.errors import ModelError
from trex.models.adapter import Adapter
from trex.models.answers import answers_of
from trex.models.registry import LoadedModel
from trex.plan import Plan
from trex.reuse import plan_of
from trex.store.schemas import HeldOutLoss
from trex.training.finetune.network import Observed
from trex.training.finetune.order import Order
from trex.training.finetune.paths import Paths
from trex.training.finetune.processes import Processes
from trex.training.finetune.recipe import Recipe, RecipeError
from trex.training.finetune.selection import HeldOut
from trex.training.finetune.teacher import Teacher
from trex.training.finetune.views import ViewSource


def check_head(model: nn.Module) -> None:
    """See that a model has a head, whose answers the losses compare.

    Raises:
        ModelError: it puts out features.
    """
    if answers_of(model) == "features":
        raise ModelError(
            f"the {type(model).__name__} has no head: fine-tuning compares answers of classes",
            hint="fine-tune it with a head, or search, fit and refine it, which need none",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What is trained, on what."""

    #: is trained in place
    variant: nn.Module
    adapter: Adapter
    recipe: Recipe
    source: ViewSource
    order: Order
    #: None where no loss reads one
    teacher: Teacher | None
    #: None keeps the last weights
    held_out: HeldOut | None
    #: whether the variant was fitted on the held-out images, among others
    fitted_on_held_out: bool
    folder: Path
    processes: Processes
    workers: int = 0
    #: whether `curve.csv` is written and a bar shown
    curve: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a training went.

    Attributes:
        kept: the weights that were kept: `start`, `epoch N`, `last` or `average`.
        history: what the held-out images said of all that were compared.
        steps: done in all.
        seconds: in all, whichever process went on from which; what a kill threw away is not in.
        waited_s: of these, waiting for images.
        images: trained on in these seconds.
    """

    kept: str
    history: list[HeldOutLoss]
    steps: int
    seconds: float
    waited_s: float
    images: int


def members_of(variant: nn.Module) -> list[nn.Module]:
    """The models that are trained together: a dynamic model's plans, or the variant alone."""
    return list(variant.members) if isinstance(variant, Paths) else [variant]


def as_teacher(original: LoadedModel, variant: nn.Module, recipe: Recipe) -> Observed:
    """The original as it teaches a variant by a recipe.

    Raises:
        ModelError: the recipe's losses read what the original does not put out.
    """
    check_teacher(original, recipe)
    return Observed(
        original.model,
        original.adapter,
        encoders=observed_encoders(variant, recipe),
        dense=bool(recipe.losses.dense),
    )


def check_teacher(original: LoadedModel, recipe: Recipe) -> None:
    """See that an original puts out what a recipe's losses read.

    Raises:
        ModelError: it does not.
    """
    if recipe.losses.dense and not original.adapter.classifies_patches:
        raise ModelError(
            f"{original.name} has no classifier of patches, which token labels need",
            hint="leave losses.dense 0, or fine-tune an LV-ViT",
        )


def observed_encoders(variant: nn.Module, recipe: Recipe) -> frozenset[int]:
    """The encoders whose outputs the recipe's losses compare: all that the plan names, or none."""
    named: set[int] = set()
    for member in members_of(variant) if recipe.losses.encoders else ():
        plan = plan_of(member) or Plan()
        merging, rows = {of.encoder for of in plan.merges}, {of.encoder for of in plan.rows}
        named |= merging | rows | set(plan.consumers)
    return frozenset(named)


def loss_names(recipe: Recipe) -> list[str]:
    """The losses a recipe uses, in the order of its file."""
    names = ("ce", "kl", "class_kl", "tokens", "encoders", "dense")
    return [name for name in names if getattr(recipe.losses, name)]


def seed_of(*parts: int) -> int:
    """A seed for each combination of small numbers."""
    return hash(parts) & 0x7FFF_FFFF


def make_mixup(task: Task) -> Any:
    """Timm's mixing of images, or None.

    Raises:
        RecipeError: a part of a batch has an odd number of images.
    """
    recipe, augment = task.recipe, task.recipe.augment
    if not augment.mixes:
        return None
    share = task.order.batch_size // task.processes.world
    micro = min(recipe.micro_batch, share)
    if micro % 2 or share % micro % 2:
        raise RecipeError(
            f"mixing needs batches of an even number, not {micro} of {share} images",
            hint="choose an even batch_size and micro_batch",
        )
    return timm.data.Mixup(
        mixup_alpha=augment.mixup,
        cutmix_alpha=augment.cutmix,
        prob=augment.mix_probability,
        label_smoothing=0.0,
        num_classes=cast(Any, task.variant).num_classes,
    )
