"""The flags that say how far the best plans of a search are taken, and at what expense."""

from __future__ import annotations

import argparse
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trex.search.problem import FinetuneSettings
    from trex.training.data import ImageSet

#: images of the first short training, where none are given
_IMAGES = 1000


def add_rungs(parser: argparse.ArgumentParser) -> None:
    """What follows the closed-form fits."""
    group = parser.add_argument_group("rungs after the fit (the last one decides)")
    group.add_argument(
        "--refined-candidates",
        type=int,
        default=0,
        metavar="N",
        help="of the fitted plans, the best so many are refined and compared once more",
    )
    group.add_argument(
        "--finetuned-candidates",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help="of these, the best so many are trained for a short while and compared once more; "
        "8 4 2: of the eight the best four again, on more images, and of them the best two",
    )
    group.add_argument(
        "--finetune-images",
        type=int,
        nargs="+",
        metavar="N",
        help="images that each is trained on, for every such rung; one number is doubled from "
        f"rung to rung (default {_IMAGES})",
    )
    group.add_argument(
        "--finetune-recipe",
        metavar="NAME|FILE",
        help="how they are trained: a recipe of `trex finetune` (default few_steps, no labels)",
    )


def finetuning_of(args: argparse.Namespace, images: ImageSet) -> FinetuneSettings:
    """The short trainings that were asked for.

    Raises:
        BudgetError: numbers are too small, do not fall or rise, or are of no rung.
        RecipeError: there is no such recipe, or it reads labels that the images do not have.
    """
    import torch

    from trex.errors import BudgetError
    from trex.search.problem import FinetuneSettings
    from trex.training.finetune.precision import settled
    from trex.training.finetune.recipe import RecipeError, load_recipe

    candidates = args.finetuned_candidates
    if not candidates:
        for name in ("images", "recipe"):
            if getattr(args, f"finetune_{name}") is not None:
                raise BudgetError(
                    f"--finetune-{name} is given, but nothing is fine-tuned",
                    hint="say how many plans are, e.g. --finetuned-candidates 4",
                )
        return FinetuneSettings()
    counts = [args.refined_candidates, *candidates] if args.refined_candidates else candidates
    if min(candidates) < 1 or any(later > earlier for earlier, later in pairwise(counts)):
        raise BudgetError(
            f"--finetuned-candidates {_text(candidates)}: no rung can have more than the last",
            hint="give at least 1, and no more than before: 8 4 2",
        )
    given = args.finetune_images or [_IMAGES]
    if len(given) == 1:
        given = [given[0] * 2**rung for rung in range(len(candidates))]
    if len(given) != len(candidates):
        raise BudgetError(
            f"--finetune-images {_text(given)} is of {len(given)} rungs, "
            f"--finetuned-candidates {_text(candidates)} of {len(candidates)}",
            hint="give one number for each rung, or only the first one's",
        )
    if given[0] < 1 or any(later <= earlier for earlier, later in pairwise(given)):
        raise BudgetError(
            f"--finetune-images {_text(given)} does not rise",
            hint="give at least 1, and more for every further rung: 1000 2000 4000",
        )
    recipe = settled(load_recipe(args.finetune_recipe or "few_steps"), torch.device("cpu"))
    recipe.check_extra(False)
    if recipe.losses.labels != "none" and images.labels is None:
        raise RecipeError(
            f"{images.origin} has no labels, which the losses of {args.finetune_recipe} read",
            hint="use a recipe that only distils, such as few_steps",
        )
    return FinetuneSettings(
        candidates=tuple(candidates), images=tuple(given), recipe=recipe.model_dump()
    )


def _text(numbers: list[int]) -> str:
    return " ".join(map(str, numbers))
