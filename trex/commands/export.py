"""`trex export`: write a variant as a bundle that `trex.load` runs, or for UniForm's tools."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from trex.commands import _arguments

if TYPE_CHECKING:
    from torch import nn

    from trex.training.transforms import InputConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument(
        "run_folder",
        type=Path,
        metavar="DIR",
        help="what `trex search` or `trex fit` wrote; for --format uniform also a bundle, as of "
        "a fine-tuning",
    )
    parser.add_argument(
        "--pick",
        default="best",
        metavar="best|finetuned|knee|N|PLAN",
        help="the best plan found, the same after the search's short training, where the front "
        'bends most, the best measured plan of N consumers, or a plan: "5<-4 3~40"',
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
    """Write the variant; a kill or a full disk leaves nothing under its name."""
    from trex.errors import BundleError
    from trex.files import new_folder

    if args.out.exists() and not (args.out.is_dir() and not any(args.out.iterdir())):
        raise BundleError(f"{args.out} is not an empty folder", hint="choose another --out folder")
    with new_folder(args.out) as out:
        answer, lines = _write(args, out)
    print(json.dumps(answer) if args.json else lines)
    return 0


def _write(args: argparse.Namespace, out: Path) -> tuple[dict[str, str], str]:
    """Write the variant into `out` and read it back; the answer for programs and for people."""
    from trex.export.bundle import CONFIG, load_bundle, save_bundle
    from trex.search.pick import load_original, pick_record, pick_variant
    from trex.store.run import Run

    if args.format == "uniform" and (args.run_folder / CONFIG).is_file():
        return _bundle_as_uniform(args, out)
    folder = Run.open(args.run_folder)
    original, config = load_original(folder, args.weights)
    plan, variant = pick_variant(folder, args.pick, original)
    if args.format == "uniform":
        return _write_uniform(args, out, original.name, plan, variant, config)
    save_bundle(
        out,
        variant,
        name=original.name,
        arguments=original.arguments,
        base_weights_sha256=original.weights_sha256,
        data_config=config,
        extra={"estimate": pick_record(folder, args.pick)["estimate"]},
    )
    load_bundle(out)
    return _report(args, original.name, plan, f'import trex\n  model = trex.load("{args.out}")')


def _bundle_as_uniform(args: argparse.Namespace, out: Path) -> tuple[dict[str, str], str]:
    from trex.errors import BundleError
    from trex.export.bundle import load_bundle, load_config
    from trex.training.transforms import input_config_from_json

    if args.pick != "best" or args.weights is not None:
        raise BundleError(
            f"{args.run_folder} is a bundle, of one variant with its weights",
            hint="leave --pick and --weights out",
        )
    stored = load_config(args.run_folder)
    variant = load_bundle(args.run_folder)
    config = input_config_from_json(stored["data"])
    return _write_uniform(args, out, stored["model"], stored["plan"], variant, config)


def _write_uniform(
    args: argparse.Namespace,
    out: Path,
    name: str,
    plan: str,
    variant: nn.Module,
    config: InputConfig,
) -> tuple[dict[str, str], str]:
    from trex.errors import BundleError
    from trex.export.uniform import save_uniform
    from trex.models.uniform import from_config
    from trex.training.transforms import DataConfig

    if not isinstance(config, DataConfig):
        raise BundleError(f"{name} is no UniForm", hint="leave --format out")
    save_uniform(out, variant, name=name, data_config=config)
    from_config(out)
    load = f'from trex.models.uniform import from_config\n  model = from_config("{args.out}")'
    return _report(args, name, plan, load)


def _report(
    args: argparse.Namespace, model: str, plan: str, load: str
) -> tuple[dict[str, str], str]:
    answer = {args.format: str(args.out), "plan": plan}
    return answer, f'{args.out}: {model} with "{plan}"\n\n  {load}'
