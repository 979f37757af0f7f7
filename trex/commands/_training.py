"""What fine-tunings are given: the recipe and the images."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from trex.commands import _arguments

if TYPE_CHECKING:
    from trex.models.registry import LoadedModel
    from trex.training.data import ImageSet
    from trex.training.finetune import Recipe
    from trex.training.transforms import InputConfig

SET_EXAMPLE: Final = "epochs=48"


def recipe_of(args: argparse.Namespace) -> Recipe:
    """The recipe with the user's own values and labels; the sources of images are checked too.

    Raises:
        RecipeError: it is not valid, or does not fit the data that are given.
        DataError: there can be no data set of such a name.
    """
    from trex.training.finetune import RecipeError, load_recipe

    changes = _arguments.set_values(args.set, SET_EXAMPLE, RecipeError)
    recipe = load_recipe(args.recipe, changes).with_labels(args.labels)
    recipe.check_extra(args.extra is not None)
    _arguments.check_sources(args.data, args.extra, args.eval)
    return recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingImages:
    """Opened data sets of a fine-tuning.

    Attributes:
        images: trained on, with the labels that the recipe's losses read.
        extra: more images, without labels.
        evaluation: labelled images to measure on.
    """

    images: ImageSet
    extra: ImageSet | None
    evaluation: ImageSet | None


def training_images(
    args: argparse.Namespace, recipe: Recipe, original: LoadedModel, config: InputConfig
) -> TrainingImages:
    """Open what `--data`, `--extra` and `--eval` name.

    Raises:
        TrexError: one of them is missing, malformed, or the same as another.
    """
    from trex.training.data import open_dataset
    from trex.training.transforms import eval_transform

    classes = getattr(original.model, "num_classes", None)

    def labelled(source: str) -> ImageSet:
        return _arguments.open_labelled(source, args, config, classes)

    def unlabelled(source: str) -> ImageSet:
        return open_dataset(
            source, transform=eval_transform(config), labels=False, strict=args.strict
        )

    without = recipe.losses.labels == "none"
    return TrainingImages(
        images=unlabelled(args.data) if without else labelled(args.data),
        extra=unlabelled(args.extra) if args.extra else None,
        evaluation=labelled(args.eval) if args.eval else None,
    )
