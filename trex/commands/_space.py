"""The flags that say which plans a search may choose from."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trex.api.space import SpaceOptions

_FIELDS = (
    "source", "tensors", "transforms", "consumers", "mixed", "max_run", "max_reuse", "class_rows",
)  # fmt: skip
#: flags of parts of a space's file
_PARTS = {
    "merge_encoders": "merging.encoders",
    "merge_step": "merging.step",
    "most_merged": "merging.most",
    "least_tokens": "merging.least",
    "row_encoders": "rows.encoders",
    "row_shares": "rows.shares",
}


def add_space(parser: argparse.ArgumentParser) -> None:
    """A space by name, and what is to differ from its file."""
    group = parser.add_argument_group("search space (flags replace what its file says)")
    group.add_argument(
        "--space",
        metavar="NAME",
        help="a shipped search space, or a path (joint; default for --strategy paper)",
    )
    group.add_argument(
        "--only",
        choices=("reuse", "merging", "rows"),
        help="one axis alone: outputs of the nearest producer, as in the paper (--space default), "
        "merged tokens, or shared rows",
    )
    group.add_argument(
        "--keep-tokens",
        action="store_true",
        help="no merging: for tasks that read every token",
    )
    group.add_argument("--source", metavar="WHICH", help="producers to reuse: nearest, or any")
    group.add_argument(
        "--tensors", nargs="+", metavar="NAME", help="tensors to reuse: output, map"
    )
    group.add_argument(
        "--transforms",
        nargs="+",
        metavar="NAME",
        help="transforms: none, linear, block, linear_own; for maps also mixed",
    )
    group.add_argument(
        "--consumers",
        type=int,
        nargs="+",
        metavar="ENCODER",
        help="encoders that may reuse; else all",
    )
    group.add_argument(
        "--mixed",
        action=argparse.BooleanOptionalAction,
        help="every consumer of a plan chooses its own tensor and transform",
    )
    group.add_argument(
        "--class-rows",
        action=argparse.BooleanOptionalAction,
        help="leave dead rows out, and compute class rows of mixed maps",
    )
    group.add_argument("--max-run", type=int, metavar="N", help="the most consumers in a row")
    group.add_argument("--max-reuse", type=int, metavar="N", help="the most consumers in all")
    group.add_argument(
        "--merge-encoders",
        type=int,
        nargs="+",
        metavar="ENCODER",
        help="encoders that may merge; else all",
    )
    group.add_argument(
        "--merge-step",
        type=float,
        metavar="SHARE",
        help="merges are multiples of this share of the tokens",
    )
    group.add_argument(
        "--most-merged",
        type=float,
        metavar="SHARE",
        help="the most tokens that one encoder merges",
    )
    group.add_argument(
        "--least-tokens", type=float, metavar="SHARE", help="tokens that must be left at the end"
    )
    group.add_argument(
        "--row-encoders",
        type=int,
        nargs="+",
        metavar="ENCODER",
        help="encoders whose tokens may share rows; else all",
    )
    group.add_argument(
        "--row-shares",
        type=float,
        nargs="+",
        metavar="SHARE",
        help="shares of an encoder's rows that may be computed",
    )


def space_overrides(args: argparse.Namespace) -> dict[str, Any]:
    """What was given, as fields of `trex.search.space.SpaceFile`."""
    names = {**dict.fromkeys(_FIELDS), **_PARTS}
    given = {field or name: getattr(args, name) for name, field in names.items()}
    return {name: value for name, value in given.items() if value is not None}


def space_options(args: argparse.Namespace) -> SpaceOptions:
    """The space that was asked for."""
    from trex.api.space import SpaceOptions

    return SpaceOptions(
        name=args.space,
        only=args.only,
        keep_tokens=args.keep_tokens,
        changes=space_overrides(args),
    )
