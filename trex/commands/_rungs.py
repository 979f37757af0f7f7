"""The flags that say how far the best plans of a search are taken, and at what expense."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from trex.api.rungs import RungOptions

# The same number as in trex.api.rungs, which is too heavy to import for `--help`.
_IMAGES: Final = 1000


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


def rung_options(args: argparse.Namespace) -> RungOptions:
    """The rungs that were asked for."""
    from trex.api.rungs import RungOptions

    return RungOptions(
        refined=args.refined_candidates,
        finetuned=args.finetuned_candidates,
        images=args.finetune_images,
        recipe=args.finetune_recipe,
    )
