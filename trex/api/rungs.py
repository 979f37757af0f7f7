"""How far the best plans of a search are taken, and at what expense, as a caller asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import torch

from trex.errors import BudgetError
from trex.search.problem import FinetuneSettings
from trex.training.data import ImageSet
from trex.training.finetune.precision import settled
from trex.training.finetune.recipe import RecipeError, load_recipe

#: images of the first short training, where none are given
IMAGES: Final = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class RungOptions:
    """What follows the closed-form fits.

    Attributes:
        refined: the best so many fitted plans are refined and compared once more.
        finetuned: the best so many are trained for a short while, fewer from rung to rung.
        images: that each is trained on, for every such rung; one number is doubled.
        recipe: how they are trained; None takes `few_steps`.
    """

    refined: int = 0
    finetuned: Sequence[int] = ()
    images: Sequence[int] | None = None
    recipe: str | Path | None = None

    def finetuning(self, images: ImageSet) -> FinetuneSettings:
        """The short trainings that were asked for.

        Raises:
            BudgetError: numbers are too small, do not fall or rise, or are of no rung.
            RecipeError: there is no such recipe, or it reads labels that the images do not have.
        """
        candidates = list(self.finetuned)
        if not candidates:
            for name in ("images", "recipe"):
                if getattr(self, name) is not None:
                    raise BudgetError(
                        f"--finetune-{name} is given, but nothing is fine-tuned",
                        hint="say how many plans are, e.g. --finetuned-candidates 4",
                    )
            return FinetuneSettings()
        counts = [self.refined, *candidates] if self.refined else candidates
        if min(candidates) < 1 or any(later > earlier for earlier, later in pairwise(counts)):
            raise BudgetError(
                f"--finetuned-candidates {_text(candidates)}: no rung can have more than the last",
                hint="give at least 1, and no more than before: 8 4 2",
            )
        given = list(self.images or [IMAGES])
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
        recipe = settled(load_recipe(self.recipe or "few_steps"), torch.device("cpu"))
        recipe.check_extra(False)
        if recipe.losses.labels != "none" and images.labels is None:
            raise RecipeError(
                f"{images.origin} has no labels, which the losses of {self.recipe} read",
                hint="use a recipe that only distils, such as few_steps",
            )
        return FinetuneSettings(
            candidates=tuple(candidates), images=tuple(given), recipe=recipe.model_dump()
        )


def _text(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))
