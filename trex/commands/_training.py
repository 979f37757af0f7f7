"""What fine-tunings are given: the recipe and the images, of flags."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

from trex.commands import _arguments

if TYPE_CHECKING:
    from trex.api.finetune import TrainingData

SET_EXAMPLE: Final = "epochs=48"


def training_data(args: argparse.Namespace) -> TrainingData:
    """What `--data`, `--extra`, `--eval` and the recipe's flags say.

    Raises:
        RecipeError: a change of the recipe is malformed.
    """
    from trex.api.finetune import TrainingData
    from trex.training.finetune import RecipeError

    return TrainingData(
        data=args.data,
        extra=args.extra,
        evaluated=args.eval,
        labels=args.labels,
        recipe=args.recipe,
        changes=_arguments.set_values(args.set, SET_EXAMPLE, RecipeError),
        reading=_arguments.data_options(args),
    )
