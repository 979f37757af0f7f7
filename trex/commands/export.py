"""`trex export`: write variants as files that run anywhere, and see that they do."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trex.commands import _arguments
from trex.exporters import FORMATS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trex.exporters.variant import Variant
    from trex.exporters.write import Probe
    from trex.training.transforms import InputConfig

_logger = logging.getLogger(__name__)

#: a plan's place in `--plans` for the original
ORIGINAL = "original"


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
    from trex.errors import ExportError
    from trex.exporters import exporter
    from trex.exporters.folder import check_folder
    from trex.exporters.write import export

    if args.push_to_hub and args.format != "timm":
        raise ExportError("--push-to-hub uploads timm's format", hint="add --format timm")
    _check_int8(args)
    if args.verify_images < 2:
        raise ExportError("--verify-images: at least 2", hint="or leave it out: --no-verify")
    chosen = exporter(args.format)
    check_folder(args.out, chosen)
    variants, images = _variants(args)
    if args.int8 and len(variants) > 1:
        raise ExportError("--int8 is of one plan", hint="name it with --pick")
    chosen.check(variants)
    probe = None if args.no_verify else _probe(args, variants[0], images)
    more = _int8(args, variants[0], probe) if args.int8 else None
    record = export(variants, args.out, chosen, probe, more)
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
    code = chosen.loading(str(args.out)).splitlines()
    print("\n".join(["", *(f"  {line}".rstrip() for line in code)]))
    if address:
        print(f"\n{address}")
    return 0


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


def _check_int8(args: argparse.Namespace) -> None:
    from trex.errors import ExportError

    if args.int8 is None:
        if args.data is not None or args.class_map is not None:
            raise ExportError(
                "--data and --class-map are for --int8",
                hint="add --int8 dynamic, or leave them out",
            )
        return
    if args.format != "onnx" or args.plans:
        raise ExportError("--int8 is of one ONNX file", hint="add --format onnx, and no --plans")
    if args.data is None:
        raise ExportError(
            "--int8 needs --data: what 8 bits lose is always measured",
            hint="give images of your own; labelled ones also tell the accuracy",
        )
    if args.no_verify and args.int8 == "static":
        raise ExportError(
            "--int8 static takes its ranges of the verification images",
            hint="leave --no-verify out, and give --images",
        )


def _int8(args: argparse.Namespace, variant: Variant, probe: Probe | None) -> Any:
    """What writes and measures the file in 8 bits."""
    from trex.errors import ExportError
    from trex.exporters.int8 import measure_int8, write_int8

    if variant.reads_texts:
        raise ExportError("--int8 is of image models", hint="leave it out")
    if args.int8 == "static" and (probe is None or not probe.real):
        raise ExportError(
            "--int8 static would take its ranges of noise", hint="give images with --images"
        )
    classes = getattr(variant.model, "num_classes", None)
    images = _arguments.open_calibration(args.data, args, variant.data_config, classes)

    def make() -> dict[str, Any]:
        write_int8(args.out, args.int8, None if probe is None else probe.images)
        return {"int8": {"mode": args.int8, **measure_int8(args.out, images)}}

    return make


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


def _variants(args: argparse.Namespace) -> tuple[list[Variant], str | None]:
    """What is exported, and the images it was fitted on, where that is known."""
    from trex.exporters.bundle import CONFIG
    from trex.exporters.card import classes_of
    from trex.runtime.bundle import is_dynamic

    classes = _class_names(args.classes)
    if is_dynamic(args.source):
        found = _of_dynamic(args)
        return [_with_classes(v, classes or classes_of(v.model)) for v in found], None
    for folder in (args.source, args.source / "bundle"):
        if (folder / CONFIG).is_file():
            found = [_of_bundle(args, folder)]
            return [_with_classes(v, classes or classes_of(v.model)) for v in found], None
    variants, images = _of_run(args)
    return [_with_classes(v, classes or classes_of(v.model)) for v in variants], images


def _of_bundle(args: argparse.Namespace, folder: Path) -> Variant:
    from trex.errors import ExportError
    from trex.exporters.bundle import load_bundle, load_config
    from trex.exporters.variant import Variant
    from trex.search.pick import load_original_of_bundle
    from trex.training.transforms import input_config_from_json

    if args.pick != "best" or args.plans:
        raise ExportError(
            f"{args.source} holds one variant with its weights",
            hint="leave --pick and --plans out",
        )
    stored = load_config(folder)
    if args.weights is not None:  # not needed, but what was given has to be the right file
        load_original_of_bundle(folder, args.weights)
    return Variant(
        name=stored["model"],
        arguments=stored["model_args"],
        model=load_bundle(folder),
        data_config=input_config_from_json(stored["data"]),
        base_weights_sha256=stored["base_weights_sha256"],
        estimate=stored.get("estimate"),
        measured=stored.get("measured"),
    )


def _of_dynamic(args: argparse.Namespace) -> list[Variant]:
    """Plans of a dynamic bundle, by their names."""
    from trex.exporters.variant import Variant
    from trex.runtime.bundle import load_dynamic, load_dynamic_config
    from trex.training.transforms import input_config_from_json

    stored, model = load_dynamic_config(args.source), load_dynamic(args.source)
    names = args.plans or (model.plans if args.pick == "best" else [args.pick])
    points = [model.point(name) for name in names]
    return [
        Variant(
            name=stored["model"],
            arguments=stored["model_args"],
            model=model.variant(point.name),
            data_config=input_config_from_json(stored["data"]),
            base_weights_sha256=stored["base_weights_sha256"],
            estimate=dict(point.estimate),
            measured=None if point.measured is None else dict(point.measured),
            label=point.name,
        )
        for point in points
    ]


def _of_run(args: argparse.Namespace) -> tuple[list[Variant], str | None]:
    from copy import deepcopy

    from trex.exporters.variant import Variant
    from trex.search.pick import load_original, pick_record, pick_variant
    from trex.store.run import Run

    run = Run.open(args.source)
    picks: Sequence[str] = args.plans or [args.pick]
    records = {pick: pick_record(run, pick) for pick in picks if pick != ORIGINAL}
    original, config = load_original(run, args.weights)
    manifest = run.manifest()
    variants = []
    for pick in picks:
        record = records.get(pick)
        model = pick_variant(run, pick, original)[1] if record else deepcopy(original.model).eval()
        variants.append(
            Variant(
                name=original.name,
                arguments=original.arguments,
                model=model,
                data_config=config,
                base_weights_sha256=original.weights_sha256,
                estimate=(record.estimate if record else manifest.baseline).as_json(),
                measured=record.selection.as_json() if record else None,
            )
        )
    return variants, manifest.calibration


def _with_classes(variant: Variant, classes: Sequence[str]) -> Variant:
    from dataclasses import replace

    from trex.errors import ExportError

    count = getattr(variant.model, "num_classes", len(classes))
    if classes and len(classes) != count:
        raise ExportError(
            f"--classes names {len(classes)} classes, the head has {count}",
            hint="give a name a line, in the head's order",
        )
    return replace(variant, classes=tuple(classes))


def _class_names(file: Path | None) -> tuple[str, ...]:
    from trex.errors import ExportError

    if file is None:
        return ()
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ExportError(f"{file}: cannot be read: {error}", hint="give a text file") from None
    return tuple(line.strip() for line in lines if line.strip())


def _probe(args: argparse.Namespace, variant: Variant, known: str | None) -> Probe:
    """What files are verified with: the user's images, the run's, else noise."""
    from trex.errors import DataError
    from trex.exporters.write import Probe

    if args.images is not None:
        return _opened(args.images, args.verify_images, variant.data_config)
    if known is not None:
        try:
            return _opened(known, args.verify_images, variant.data_config)
        except DataError as error:
            _logger.warning("the run's images cannot be verified with: %s", error.message)
    _logger.warning("verified on noise; give images of your own with --images")
    return Probe(images=variant.example(args.verify_images), origin="noise", real=False)


def _opened(source: str, count: int, config: InputConfig) -> Probe:
    import torch

    from trex.exporters.write import Probe
    from trex.training.data import batches, open_dataset
    from trex.training.transforms import eval_transform

    images = open_dataset(source, transform=eval_transform(config), labels=False)
    some = images.subset(min(count, len(images)), 0)
    found = torch.cat([batch.images for batch in batches(some, 16)])
    if len(found) < 2:
        from trex.errors import DataError

        raise DataError(f"{source}: fewer than 2 images can be read", hint="give more images")
    return Probe(images=found, origin=source, real=True)
