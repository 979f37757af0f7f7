"""`trex export`: write a variant as a bundle that `trex.load` runs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from trex.commands import _arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("run_folder", type=Path, metavar="DIR", help="what `trex search` wrote")
    parser.add_argument(
        "--pick", default="best", metavar="best|PLAN", help='the winner, or a plan: "5<-4 7<-6"'
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="the bundle")
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="the original's, where they have moved"
    )
    _arguments.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Write the bundle and read it back."""
    from trex.errors import BundleError
    from trex.export.bundle import load_bundle, save_bundle
    from trex.search.pick import load_original, pick_record, pick_variant
    from trex.search.run import Run

    if args.out.exists() and not (args.out.is_dir() and not any(args.out.iterdir())):
        raise BundleError(f"{args.out} is not an empty folder", hint="choose another --out folder")
    folder = Run.open(args.run_folder)
    original, config = load_original(folder, args.weights)
    plan, variant = pick_variant(folder, args.pick, original)
    save_bundle(
        args.out,
        variant,
        name=original.name,
        arguments=original.arguments,
        base_weights_sha256=original.weights_sha256,
        data_config=config,
        extra={"estimate": pick_record(folder, args.pick)["estimate"]},
    )
    load_bundle(args.out)
    if args.json:
        print(json.dumps({"bundle": str(args.out), "plan": plan}))
    else:
        print(f'{args.out}: {original.name} with "{plan}"\n')
        print(f'  import trex\n  model = trex.load("{args.out}")')
    return 0
