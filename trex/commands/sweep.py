"""`trex sweep`: searches of models × devices × budgets × seeds, and one table of them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from trex.commands import _arguments

if TYPE_CHECKING:
    from trex.api.sweep import Swept


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument(
        "file", type=Path, metavar="SWEEP.yaml", help="what is searched: docs/sweeps.md"
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR",
        help="the sweep's folder; the same command goes on where it was stopped",
    )  # fmt: skip
    _arguments.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Search what is not done, and print the table; 1 where a search failed, 3 where none fits."""
    from trex.api import sweep
    from trex.report.sweeps import text_table

    swept = sweep.run(args.file, args.out)
    print(json.dumps(as_json(swept)) if args.json else "\n".join(text_table(swept.result)))
    if not args.json:
        print(f"\npage: {swept.page}\ntables: {', '.join(of.name for of in swept.tables)}")
    states = {row.state for row in swept.result.rows}
    return 1 if "failed" in states else 3 if states == {"infeasible"} else 0


def as_json(swept: Swept) -> dict[str, object]:
    """A sweep as plain values."""
    return {
        "out": str(swept.path),
        "title": swept.result.title,
        "page": str(swept.page),
        "tables": [str(file) for file in swept.tables],
        "searches": [
            {
                **row.place._asdict(),
                "state": row.state,
                "reason": row.reason,
                "summary": None if row.summary is None else row.summary.as_json(),
            }
            for row in swept.result.rows
        ],
    }
