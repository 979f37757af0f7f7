"""`trex compare`: TReX beside other methods and models, on the same chip and accounting."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trex.commands import _arguments, _devices

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trex.compare.options import CompareOptions, Row
    from trex.compare.target import ModelOnDevice


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
    from trex.compare.comparison import compare
    from trex.compare.tables import as_json, legend, text_table

    options = prepare(args)
    rows = compare(options)
    target = options.target
    result = {
        "model": target.model.model,
        "chip": target.device.name,
        "basis": target.device.basis,
        "accounting": target.accounting,
        "max_latency_s": options.limit_s,
        "data": args.data,
        "amp": args.amp,
        "rows": as_json(rows),
    }
    files = _write(args, result, rows)
    if args.json:
        print(json.dumps({**result, "files": files}))
        return 0
    print(
        f"{target.model.model} on {target.device.name}, {_of(target)}, "
        f"latency <= {options.limit_s * 1e3:.4g} ms ({args.max_latency})\n"
    )
    print(
        "\n".join(
            [
                *text_table(rows),
                "",
                *legend(rows, target.accounting, _data(args), _spread(target)),
            ]
        )
    )
    if files:
        print(f"\ntables: {args.out}")
    return 0


def prepare(args: argparse.Namespace) -> CompareOptions:
    """Check everything a comparison needs, before any work.

    Raises:
        TrexError: anything the user gave is missing, malformed or does not fit.
    """
    from trex.compare.measure import Kept
    from trex.compare.options import CompareOptions
    from trex.compare.registry import NAMES, check_names
    from trex.compare.saved import read_saved
    from trex.compare.target import target
    from trex.compare.variants import has_class_token
    from trex.errors import DataError
    from trex.models.registry import architecture_of, create, load
    from trex.plan import Plan
    from trex.search.budget import Limit

    methods = check_names(args.methods or NAMES)
    limit = Limit.parse("latency", args.max_latency)
    plans = tuple(dict.fromkeys(map(Plan.parse, args.plans)))
    device = _devices.device_of(args)
    accounting = _devices.accounting_of(args, device, "full")
    loaded = images = calibration = fitting = None
    sizes = {name: getattr(args, name) for name in ("num_classes", "img_size", "tokens")}
    if args.data is None:
        for flag in ("calib", "class_map", "weights"):
            if getattr(args, flag) is not None:
                raise DataError(
                    f"--{flag.replace('_', '-')} is for measuring, and there is no --data",
                    hint="add --data with labelled images, or leave it out",
                )
        model = create(args.model, device="meta", **sizes)
    else:
        _arguments.check_sources(args.data, args.calib)
        loaded = load(args.model, weights=args.weights, **sizes)
        model = loaded.model
        config = _arguments.data_config(args, model)
        classes = getattr(model, "num_classes", None)
        images = _arguments.open_labelled(args.data, args, config, classes)
        if args.calib is not None:
            fitting = _arguments.open_calibration(args.calib, args, config, classes)
            few = fitting.subset(min(args.calib_images, len(fitting)), args.seed)
            # a class's images lie side by side, and a part of them is only compared on
            calibration = few.shuffled(args.seed)
    compared = target(
        architecture_of(model, args.model),
        sum(parameter.numel() for parameter in model.parameters()),
        device,
        accounting,
    )
    for plan in plans:
        plan.validate(compared.model.layout)
    limit_s = limit.absolute(compared.original().latency_s)
    weights_sha256 = loaded.weights_sha256 if loaded else None
    saved = tuple(read_saved(path, compared, weights_sha256, limit_s) for path in args.runs)
    if args.out is not None:
        from trex.files import make_folder

        make_folder(args.out)
    return CompareOptions(
        target=compared,
        class_token=has_class_token(model),
        limit_s=limit_s,
        methods=methods,
        saved=saved,
        plans=plans,
        loaded=loaded,
        images=images,
        calibration=calibration,
        fitting=fitting,
        amp=args.amp,
        kept=Kept(args.out / "measured.jsonl" if args.out else None),
    )


def _spread(target: ModelOnDevice) -> float | None:
    from trex.hardware import MeasuredDevice

    return target.device.spread if isinstance(target.device, MeasuredDevice) else None


def _of(target: ModelOnDevice) -> str:
    """What prices are of, in words."""
    if _spread(target) is None:
        return f"{target.accounting} accounting"
    return "a measured machine"


def _data(args: argparse.Namespace) -> str:
    return f"{args.data}{', mixed precision' if args.amp else ''}"


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
