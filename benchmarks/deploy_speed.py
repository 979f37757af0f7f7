"""What a plain CPU gets of exported plans, beside merging alone and other models. Prints a table.

    python benchmarks/deploy_speed.py --variant RUN [--plan PLAN] [--batch 8] [--rounds 15]

All variants run in turns in one process, in every runtime, and are compared round by round with
timm's original in eager fp32, so that whatever slows the machine slows all of them. One thread,
CPU time. A variant's speed does not depend on its weights, so `--plan` takes plans that nobody
fitted; their accuracy is not known then. Accuracies are of two kinds, in columns of their own:
measured by a run (`trex search --eval`), and published for models with weights of their own, after
training, on all of ImageNet's validation images.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import copy
from pathlib import Path
from typing import Any, Final

import torch

from trex.bench.compare import bench
from trex.bench.runtimes import Setting
from trex.compare.planned import TomeMerging
from trex.compare.published import Backbone, published_of
from trex.exporters.bundle import CONFIG, load_bundle, load_config
from trex.exporters.variant import Variant
from trex.models.registry import architecture_of, create
from trex.plan import Plan
from trex.reuse import apply_plan
from trex.store.run import Run
from trex.training.transforms import DataConfig, input_config_from_json

#: pairs that ToMe merges in every encoder: its paper's settings for DeiT
TOME: Final = (11, 16)
OTHERS: Final = ("shvit_s1", "efficientvit_m5", "mobilenetv4_conv_small")
#: beside those of `trex compare`
PUBLISHED: Final = (
    Backbone("mobilenetv4_conv_small", 73.8, "MobileNetV4 (arXiv 2404.10518), MNv4-Conv-S"),
)
SETTINGS: Final = {
    "eager fp32": Setting(runtime="eager"),
    "ORT fp32": Setting(runtime="ort"),
    "ORT int8": Setting(runtime="ort", dtype="int8"),
}


def main() -> None:
    """Time everything and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="deit_tiny_patch16_224")
    parser.add_argument("--img-size", type=int, metavar="PIXELS")
    parser.add_argument(
        "--variant", action="append", default=[], type=Path, metavar="FOLDER",
        help="a run folder (its best), a fine-tuning or a bundle; repeatable",
    )  # fmt: skip
    parser.add_argument("--plan", action="append", default=[], metavar="PLAN", help="repeatable")
    parser.add_argument("--others", nargs="*", default=OTHERS, metavar="MODEL", help="of timm")
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=SETTINGS)
    parser.add_argument("--batch", type=int, nargs="+", default=[8], metavar="N")
    parser.add_argument("--rounds", type=int, default=15, metavar="N")
    args = parser.parse_args()
    settings = [SETTINGS[name] for name in args.settings]
    for setting in settings:
        setting.check()
    torch.set_num_threads(1)
    subjects, measured = _subjects(args)
    found = bench(subjects, settings, args.batch, args.rounds)
    print(
        f"{found['machine']['processor']}, {found['threads']} thread, {found['clock']} time, "
        f"medians of {found['rounds']} rounds; {_versions(found['versions'])}"
    )
    for batch in args.batch:
        _print_table(found, batch, args.settings, subjects, measured)


def _subjects(args: argparse.Namespace) -> tuple[dict[str, Variant], dict[str, dict[str, Any]]]:
    """What is timed by the names of rows, the original first; and what runs measured of some."""
    size = {} if args.img_size is None else {"img_size": args.img_size}
    original = _original(args.model, size)
    found = {args.model: original}
    measured = {}
    for folder in args.variant:
        variant, evaluation = _given(folder)
        name = f"TReX `{variant.plan}`"
        found[name] = variant
        if evaluation is not None:
            measured[name] = evaluation
    for text in args.plan:
        plan = Plan.parse(text)
        found[f"TReX `{plan}`, not fitted"] = _planned(original, plan)
    architecture = architecture_of(original.model, args.model)
    for pairs in TOME:
        plan = TomeMerging().plan(architecture, pairs)
        found[f"ToMe r = {pairs}"] = _planned(original, plan)
    for name in args.others:
        found[name] = _original(name, size)
    return found, measured


def _original(name: str, arguments: dict[str, Any]) -> Variant:
    """A model of timm's with random weights, which take as long."""
    model = create(name, **arguments)
    return Variant(
        name=name,
        arguments=arguments,
        model=model,
        data_config=DataConfig.of_model(model),
        base_weights_sha256="",
    )


def _planned(original: Variant, plan: Plan) -> Variant:
    model = apply_plan(copy.deepcopy(original.model), plan, keep_originals=False).eval()
    return Variant(
        name=original.name,
        arguments=original.arguments,
        model=model,
        data_config=original.data_config,
        base_weights_sha256="",
    )


def _given(folder: Path) -> tuple[Variant, dict[str, Any] | None]:
    """A variant that was made before, and what its run measured of it on labelled images."""
    places = (folder, folder / "bundle", folder / "best")
    bundle = next((place for place in places if (place / CONFIG).is_file()), folder)
    stored = load_config(bundle)
    variant = Variant(
        name=stored["model"],
        arguments=stored["model_args"],
        model=load_bundle(bundle),
        data_config=input_config_from_json(stored["data"]),
        base_weights_sha256=stored["base_weights_sha256"],
    )
    if bundle != folder / "best":
        return variant, None
    summary = Run.open(folder).summary()
    told = summary.best.evaluation if summary else None
    return variant, told and told.as_json()


def _published(model: str) -> Backbone | None:
    return next((known for known in PUBLISHED if known.model == model), published_of(model))


def _print_table(
    found: dict[str, Any],
    batch: int,
    settings: list[str],
    subjects: dict[str, Variant],
    measured: dict[str, dict[str, Any]],
) -> None:
    """One batch size's."""
    rows = {(r["variant"], r["runtime"], r["dtype"]): r for r in found["rows"]
            if r["batch"] == batch}  # fmt: skip
    heads = [f"{name}, ms | faster (95 %)" for name in settings]
    print(f"\nbatch {batch}; faster: than the first row in {settings[0]}, in the same rounds\n")
    print(f"| variant | {' | '.join(heads)} | points lost, measured (95 %) | top-1 %, published |")
    print("|---" * (3 + 2 * len(settings)) + "|")
    sources = []
    for name, variant in subjects.items():
        cells = []
        for of in settings:
            row = rows[name, SETTINGS[of].runtime, SETTINGS[of].dtype]
            speed = row["speedup"]
            cells.append(
                f"{row['latency_s']['median'] * 1e3:.1f} | {speed['median']:.2f}x "
                f"({speed['low']:.2f}-{speed['high']:.2f})"
            )
        lost = "-"
        if evaluation := measured.get(name):
            low, high = (-100 * end for end in reversed(evaluation["ci95"]))
            lost = f"{-100 * evaluation['difference']:.1f} ({low:.1f} to {high:.1f}), " \
                f"n = {evaluation['n']}"  # fmt: skip
        known = None if variant.plan != Plan() else _published(variant.name)
        if known is not None:
            sources.append(f"{known.model}: {known.source}")
        top1 = "-" if known is None else f"{known.top1:.1f}"
        print(f"| {name} | {' | '.join(cells)} | {lost} | {top1} |")
    print(f"\nPublished, trained: {'; '.join(sources)}. Points lost are of fp32.")


def _versions(found: dict[str, str]) -> str:
    from importlib import metadata

    ours = ", ".join(f"{name} {found[name]}" for name in ("torch", "timm"))
    return f"{ours}, onnxruntime {metadata.version('onnxruntime')}"


if __name__ == "__main__":
    main()
