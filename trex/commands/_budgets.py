"""The flags of several searches that share work: many limits, or the cheapest plan."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trex.api.budgets import Many


def add_many(group: argparse._ArgumentGroup) -> None:
    """The flags."""
    group.add_argument(
        "--budgets",
        nargs="+",
        metavar="LIMIT",
        help="several limits on what --minimize names: 0.8x 0.65x 0.5x",
    )
    group.add_argument(
        "--max-drop",
        type=float,
        metavar="POINTS",
        help="the cheapest plan that loses at most so many points: of top-1 where the calibration "
        "images have labels, else of agreement with the original",
    )
    group.add_argument(
        "--minimize",
        default="latency",
        choices=("latency", "energy", "area", "edap"),
        help="the cost that --budgets limits and --max-drop minimises (latency)",
    )


def many_of(args: argparse.Namespace) -> Many:
    """What is varied; nothing where one search is asked for."""
    from trex.api.budgets import Many

    return Many(limits=tuple(args.budgets or ()), max_drop=args.max_drop, minimized=args.minimize)
