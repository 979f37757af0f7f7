"""The flags that say which plans a search may choose from."""

from __future__ import annotations

import argparse
from typing import Any

_FIELDS = ("source", "tensors", "transforms", "consumers", "mixed", "max_run", "max_reuse")


def add_space(parser: argparse.ArgumentParser) -> None:
    """A space by name, and what is to differ from its file."""
    group = parser.add_argument_group("search space (flags replace what its file says)")
    group.add_argument(
        "--space", default="default", metavar="NAME", help="a shipped search space, or a path"
    )
    group.add_argument("--source", metavar="WHICH", help="producers to reuse: nearest, or any")
    group.add_argument("--tensors", nargs="+", metavar="NAME", help="output, map")
    group.add_argument(
        "--transforms",
        nargs="+",
        metavar="NAME",
        help="none, linear, block, linear_own; of maps also mixed",
    )
    group.add_argument(
        "--consumers", type=int, nargs="+", metavar="ENCODER", help="that may reuse; else all"
    )
    group.add_argument(
        "--mixed",
        action=argparse.BooleanOptionalAction,
        help="every consumer of a plan chooses its own tensor and transform",
    )
    group.add_argument("--max-run", type=int, metavar="N", help="the most consumers in a row")
    group.add_argument("--max-reuse", type=int, metavar="N", help="the most consumers in all")


def space_overrides(args: argparse.Namespace) -> dict[str, Any]:
    """What was given, as fields of `trex.search.space.SpaceFile`."""
    given = {name: getattr(args, name) for name in _FIELDS}
    return {name: value for name, value in given.items() if value is not None}
