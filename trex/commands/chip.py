"""`trex chip`: start a chip of your own; the schema of chip files."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from trex.commands import _arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's actions and their flags."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    new = actions.add_parser("new", help="a folder with a copy of another chip's file")
    new.add_argument(
        "folder", type=Path, metavar="NAME", help="of the chip; or a folder of that name"
    )
    new.add_argument(
        "--like", required=True, metavar="CHIP", help="a shipped chip, or a folder or file"
    )
    _arguments.add_json(new)
    schema = actions.add_parser("schema", help="print the JSON Schema of chip files, for editors")
    schema.add_argument("--out", type=Path, metavar="FILE", help="write it there instead")


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    from trex.files import write_atomic
    from trex.hardware.new_chip import new_chip
    from trex.hardware.schema import schema_text

    if args.action == "schema":
        if args.out is None:
            print(schema_text(), end="")
        else:
            write_atomic(args.out, schema_text())
        return 0
    written = new_chip(args.folder, args.like)
    if args.json:
        print(json.dumps({"name": args.folder.name, "files": list(map(str, written))}))
        return 0
    folder = args.folder if args.folder.is_absolute() else Path(".") / args.folder
    shown = str(folder) if folder.is_absolute() else f"./{folder}"
    print(
        f"{written[0]}: a copy of {args.like}; change values and their sources together, then\n"
        f"  trex check {shown}\n"
        f"  trex cost --model deit_tiny_patch16_224 --hw {shown} --accounting full"
    )
    return 0
