"""What `--hw` names: a chip, or a machine that `trex profile` measured. No heavy imports here."""

from __future__ import annotations

import argparse

from trex.commands._arguments import ACCOUNTINGS


def add_device(parser: argparse.ArgumentParser, accounting: str) -> None:
    """The flags; `accounting`: of a chip, where none is given."""
    parser.add_argument(
        "--hw", required=True, metavar="DEVICE",
        help="a shipped chip, a path, or what trex profile wrote (FOLDER, or FOLDER@BATCH)",
    )  # fmt: skip
    parser.add_argument(
        "--accounting",
        choices=ACCOUNTINGS,
        help=f"of a chip ({accounting}); paper: the published equations; full: everything it must "
        "do",
    )
    add_force(parser)


def add_force(parser: argparse.ArgumentParser) -> None:
    """The flag alone."""
    parser.add_argument(
        "--force",
        action="store_true",
        help="take a measured machine's latencies though it is another machine, or was measured "
        "with another model",
    )
