"""`trex report`: what runs found, as one page, figures and tables."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from trex.commands import _arguments, _devices

if TYPE_CHECKING:
    from trex.hardware import MeasuredDevice


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="folders of `trex search`, `trex fit` and `trex finetune`, or of one `trex sweep`",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="the report's folder; else `report` in the run's folder",
    )
    parser.add_argument(
        "--hw", metavar="DEVICE", help="a measured machine: price the best plans on it too"
    )
    _devices.add_force(parser)
    parser.add_argument(
        "--bench", nargs="+", default=[], type=Path, metavar="FILE",
        help="files of trex bench --out for these runs, shown beside accuracy",
    )  # fmt: skip
    _arguments.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Read the runs, write the page and say where it is."""
    from trex.errors import RunError
    from trex.report.facts import read_all
    from trex.report.page import write_report
    from trex.store.sweep import is_sweep

    if any(map(is_sweep, args.runs)):
        return _of_sweep(args)
    runs = read_all(args.runs)
    if args.out is None and len(runs) > 1:
        raise RunError(
            f"{len(runs)} runs, and no folder for their page", hint="say where to with --out DIR"
        )
    device = _machine(args) if args.hw else None
    written = write_report(
        runs, args.out or runs[0].path / "report", device=device, benches=args.bench
    )
    if args.json:
        files = [str(file) for file in written.files]
        result = {
            "page": str(written.page),
            "runs": [str(facts.path) for facts in runs],
            "files": files,
        }
        print(json.dumps(result))
    else:
        figures = sum(file.suffix == ".png" for file in written.files)
        tables = sum(file.suffix in (".csv", ".md", ".tex") for file in written.files)
        size = written.page.stat().st_size / 1e6
        print(f"page: {written.page} ({size:.2f} MB, needs no network)")
        print(f"beside it: {figures} figures as PNG and SVG, {tables} tables as CSV, MD or TeX")
    return 0


def _machine(args: argparse.Namespace) -> MeasuredDevice:
    from trex.api.devices import open_machine  # torch, which a page without a machine spares

    return open_machine(args.hw, force=args.force)


def _of_sweep(args: argparse.Namespace) -> int:
    """Write a sweep's table and page anew, of what is done so far."""
    from trex.api import sweep
    from trex.commands.sweep import as_json
    from trex.errors import SweepError
    from trex.report.sweeps import text_table
    from trex.store.sweep import SweepFolder

    if len(args.runs) > 1 or args.hw or args.bench or args.out:
        raise SweepError(
            "a sweep's page stands in its own folder, and tells of it alone",
            hint="give the sweep's folder alone, or its run folders: SWEEP/runs/*",
        )
    swept = sweep.finish(SweepFolder.open(args.runs[0]))
    print(json.dumps(as_json(swept)) if args.json else "\n".join(text_table(swept.result)))
    if not args.json:
        print(f"\npage: {swept.page}")
    return 0
