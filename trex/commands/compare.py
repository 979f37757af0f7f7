"""`trex compare`: TReX beside other methods and models, on the same chip and accounting."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trex.commands import _arguments, _devices

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trex.compare.options import Row


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    _arguments.add_model(parser)
    _arguments.add_data(parser)
    _devices.add_device(parser, "full")
    parser.add_argument(
        "--max-latency", default="0.6x", metavar="LIMIT",
        help="every method gets the setting closest to this limit from below (0.6x)",
    )  # fmt: skip
    parser.add_argument(
        "--methods",
        nargs="+",
        metavar="NAME",
        help="only these methods; else all, and other models",
    )
    parser.add_argument(
        "--run", dest="runs", nargs="+", default=[], type=Path, metavar="DIR",
        help="TReX variants: run folders, fine-tunings, bundles",
    )  # fmt: skip
    parser.add_argument(
        "--plan", dest="plans", action="append", default=[], metavar="PLAN",
        help='a plan by hand, "3~40 6~40 11=class"; repeatable',
    )  # fmt: skip
    parser.add_argument("--data", metavar="DATASET", help="labelled images to measure on")
    parser.add_argument(
        "--calib", metavar="DATASET", help="images to choose encoders with; never those of --data"
    )
    parser.add_argument(
        "--calib-images",
        type=int,
        default=200,
        metavar="N",
        help="calibration images to choose encoders with (200); fits use all",
    )
    parser.add_argument(
        "--amp", action="store_true", help="measure and choose in mixed precision (bf16)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed that draws the calibration images"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR",
        help="folder for tables and measurements; the same command continues from it",
    )  # fmt: skip
    _arguments.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Compare and print."""
    from trex.api import compare
    from trex.compare.tables import as_json, legend, text_table

    found = compare.run(
        compare.Asked(
            model=args.model,
            device=args.hw,
            options=_arguments.model_options(args),
            reading=_arguments.data_options(args),
            accounting=args.accounting,
            force=args.force,
            max_latency=args.max_latency,
            methods=args.methods or (),
            runs=args.runs,
            plans=args.plans,
            data=args.data,
            calibration=args.calib,
            calibration_images=args.calib_images,
            amp=args.amp,
            seed=args.seed,
            out=args.out,
        )
    )
    rows, target, limit_s = found.rows, found.options.target, found.options.limit_s
    result = {
        "model": target.model.model,
        "chip": target.device.name,
        "basis": target.device.basis,
        "accounting": target.accounting,
        "max_latency_s": limit_s,
        "data": args.data,
        "amp": args.amp,
        "rows": as_json(rows),
    }
    files = _write(args, result, rows)
    if args.json:
        print(json.dumps({**result, "files": files}))
        return 0
    of = f"{target.accounting} accounting" if found.spread is None else "a measured machine"
    print(
        f"{target.model.model} on {target.device.name}, {of}, "
        f"latency <= {limit_s * 1e3:.4g} ms ({args.max_latency})\n"
    )
    data = f"{args.data}{', mixed precision' if args.amp else ''}"
    shown = legend(rows, target.accounting, data, found.spread)
    print("\n".join([*text_table(rows), "", *shown]))
    if files:
        print(f"\ntables: {args.out}")
    return 0


def _write(args: argparse.Namespace, result: dict[str, Any], rows: Sequence[Row]) -> list[str]:
    """The files of `--out`: the tables for papers, and everything as JSON."""
    if args.out is None:
        return []
    import sys

    from trex.compare.tables import table_rows
    from trex.files import write_atomic
    from trex.report.exports import write_table
    from trex.versions import versions

    kept = {**result, "command": ["trex", *sys.argv[1:]], "versions": versions()}
    write_atomic(args.out / "compare.json", json.dumps(kept, indent=2) + "\n")
    files = write_table(
        args.out / "compare", ("csv", "md", "tex"), *table_rows(rows, result["accounting"])
    )
    return [str(file) for file in (args.out / "compare.json", *files)]
