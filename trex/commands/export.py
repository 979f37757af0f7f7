"""`trex export`: write variants as files that run anywhere, and see that they do."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from trex.commands import _arguments
from trex.exporters import FORMATS

if TYPE_CHECKING:
    from trex.api.export import Eighth

# The same word as in trex.api.export, which is too heavy to import for `--help`.
ORIGINAL: Final = "original"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument(
        "source",
        type=Path,
        metavar="RUN_OR_BUNDLE",
        help="what `trex search`, `trex fit`, `trex finetune`, `trex dynamic` or `trex export` "
        "wrote; of a dynamic bundle all plans, or those that --pick or --plans name",
    )
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument(
        "--pick",
        default="best",
        metavar="best|finetuned|knee|N|PLAN",
        help="the best plan found, the same after the search's short training, where the front "
        'bends most, the best measured plan of N consumers, or a plan: "5<-4 3~40"',
    )
    chosen.add_argument(
        "--plans",
        nargs="+",
        metavar="PICK",
        help=f"several of these, and {ORIGINAL}: onnx keeps their weights once",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="a new folder")
    parser.add_argument(
        "--format",
        default="bundle",
        choices=FORMATS,
        help="bundle: trex.load reads it; onnx; torch-export: a .pt2 file; timm: a local-dir; "
        "uniform: a UniForm's reuse config and the public code's config of its base",
    )
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="the original's weights, if they have moved"
    )
    _arguments.add_factory(parser)
    parser.add_argument(
        "--classes", type=Path, metavar="FILE", help="names of the head's classes, one per line"
    )
    parser.add_argument(
        "--images",
        metavar="DATASET",
        help="images to verify files with; else the run's calibration images",
    )
    parser.add_argument(
        "--verify-images",
        type=int,
        default=8,
        metavar="N",
        help="how many images to verify with (8)",
    )
    parser.add_argument(
        "--no-verify", action="store_true", help="do not compare the files with the variant"
    )
    parser.add_argument(
        "--push-to-hub",
        metavar="ORGANISATION/NAME",
        help="upload the folder that --format timm wrote",
    )
    eighth = parser.add_argument_group("int8 (--format onnx)")
    eighth.add_argument(
        "--int8",
        choices=("dynamic", "static"),
        help="also model_int8.onnx: linear layers in 8 bits; dynamic finds ranges as it runs, "
        "static keeps those of the verification images",
    )
    eighth.add_argument(
        "--data",
        metavar="DATASET",
        help="images on which the int8 file is compared with the float file",
    )
    eighth.add_argument(
        "--class-map",
        type=Path,
        metavar="FILE",
        help="a file of class folders in the head's order",
    )
    eighth.add_argument(
        "--strict", action="store_true", help="stop at an unreadable image; else skip it"
    )
    _arguments.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Write the variants and read them back."""
    from trex.api import export
    from trex.api.factories import object_again
    from trex.errors import ExportError

    if args.push_to_hub and args.format != "timm":
        raise ExportError("--push-to-hub uploads timm's format", hint="add --format timm")
    written = export.run(
        export.Question(
            source=args.source,
            out=args.out,
            format=args.format,
            pick=args.pick,
            plans=args.plans or (),
            model=object_again(args.model, args.source, args.weights),
            weights=args.weights,
            classes=args.classes or (),
            images=args.images,
            verify=_verify(args),
            eighth=_eighth(args),
        )
    )
    record = written.record
    address = None
    if args.push_to_hub:
        from trex.exporters.timm import push_to_hub

        address = push_to_hub(args.out, args.push_to_hub)
    if args.json:
        hub = {} if address is None else {"hub": address}
        print(
            json.dumps({args.format: str(args.out), "plan": record["plans"][0], **record, **hub})
        )
        return 0
    for plan in record["plans"]:
        print(f'{args.out}: {record["model"]} with "{plan}"')
    print("\n".join([*_verified(record), *_told_int8(record)]))
    code = written.loading.splitlines()
    print("\n".join(["", *(f"  {line}".rstrip() for line in code)]))
    if address:
        print(f"\n{address}")
    return 0


def _verify(args: argparse.Namespace) -> int:
    """Images to verify with; 0 leaves it out.

    Raises:
        ExportError: too few.
    """
    from trex.errors import ExportError

    if args.verify_images < 2:
        raise ExportError("--verify-images: at least 2", hint="or leave it out: --no-verify")
    return 0 if args.no_verify else args.verify_images


def _eighth(args: argparse.Namespace) -> Eighth | None:
    """The file in 8 bits, where one is asked for.

    Raises:
        ExportError: it cannot be written or measured.
    """
    from trex.api.data import DataOptions
    from trex.api.export import Eighth, check_int8
    from trex.errors import ExportError

    if args.int8 is None:
        if args.data is not None or args.class_map is not None:
            raise ExportError(
                "--data and --class-map are for --int8",
                hint="add --int8 dynamic, or leave them out",
            )
        return None
    verify = 0 if args.no_verify else args.verify_images
    check_int8(
        args.format, several=bool(args.plans), data=args.data, verify=verify, mode=args.int8
    )
    reading = DataOptions(class_map=args.class_map, strict=args.strict)
    return Eighth(mode=args.int8, data=args.data, reading=reading)


def _verified(record: dict[str, Any]) -> list[str]:
    """What verification found, a line a file."""
    if record["verified"] is None:
        return ["not verified"]
    lines = []
    for check in record["verified"]:
        graph, ties = "", ""
        if check["ties"]:
            ties = f"; {check['ties']} where rounding decides which tokens merge"
        if check["attentions"] is not None:
            graph = f"; {check['attentions']} attentions, {check['matchings']} matchings"
        lines.append(
            f"verified on {check['images']} of {record['verified_on']}, in batches of "
            f"{' and '.join(map(str, check['batch_sizes']))}: logits within "
            f"{check['difference']:.2g}, {check['same_top1']} of the same first guess{ties}{graph}"
        )
    return lines


def _told_int8(record: dict[str, Any]) -> list[str]:
    found = record.get("int8")
    if found is None:
        return []
    lines = [
        f"int8, {found['mode']}: {found['bytes'] / 1e6:.1f} MB for "
        f"{found['float_bytes'] / 1e6:.1f} MB; the same first guess for "
        f"{100 * found['agreement']:.1f} % of {found['n']} images of {found['data']}"
    ]
    if "top1" in found:
        low, high = (100 * end for end in found["ci95"])
        lines.append(
            f"top-1 {100 * found['top1']:.1f} %, in float {100 * found['float_top1']:.1f} %: "
            f"{100 * found['difference']:+.1f} points ({low:+.1f} to {high:+.1f})"
        )
    return lines
