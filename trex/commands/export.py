"""`trex export`: write a variant as a bundle that `trex.load` runs, or for UniForm's tools."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from trex.commands import _arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("run_folder", type=Path, metavar="DIR", help="what `trex search` wrote")
    parser.add_argument(
        "--pick",
        default="best",
        metavar="best|finetuned|PLAN",
        help='the winner, the same after the search\'s short training, or a plan: "5<-4 7<-6"',
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="a new folder")
    parser.add_argument(
        "--format",
        default="bundle",
        choices=("bundle", "uniform"),
        help="uniform: a UniForm's reuse config and the public code's config of its base",
    )
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="the original's, where they have moved"
    )
    _arguments.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Write the variant and read it back."""
    from trex.errors import BundleError
    from trex.export.bundle import load_bundle, save_bundle
    from trex.search.pick import load_original, pick_record, pick_variant
    from trex.search.run import Run
    from trex.training.transforms import DataConfig

    if args.out.exists() and not (args.out.is_dir() and not any(args.out.iterdir())):
        raise BundleError(f"{args.out} is not an empty folder", hint="choose another --out folder")
    folder = Run.open(args.run_folder)
    original, config = load_original(folder, args.weights)
    plan, variant = pick_variant(folder, args.pick, original)
    if args.format == "uniform":
        if not isinstance(config, DataConfig):
            raise BundleError(f"{original.name} is no UniForm", hint="leave --format out")
        from trex.export.uniform import save_uniform
        from trex.models.uniform import from_config

        save_uniform(args.out, variant, name=original.name, data_config=config)
        from_config(args.out)
        load = f'from trex.models.uniform import from_config\n  model = from_config("{args.out}")'
        return _report(args, original.name, plan, load)
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
    return _report(args, original.name, plan, f'import trex\n  model = trex.load("{args.out}")')


def _report(args: argparse.Namespace, model: str, plan: str, load: str) -> int:
    if args.json:
        print(json.dumps({args.format: str(args.out), "plan": plan}))
    else:
        print(f'{args.out}: {model} with "{plan}"\n\n  {load}')
    return 0
