"""Plans by hand beside each other: prices with everything included, and what is lost untrained.

    python benchmarks/joint_plans.py --weights FILE --eval DATASET --class-map FILE [--plan PLAN]

Every plan runs on the loaded weights; nothing is fitted or trained, so plans that reuse need
`trex fit` first and are refused here. Prices are estimates under full accounting, relative to the
original as loaded; accuracy is measured, paired with the original on the same images.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch

from trex.hardware import load_chip, price, workload
from trex.models.registry import architecture_of, load
from trex.plan import Plan
from trex.reuse import apply_plan
from trex.training.data import batches, open_dataset
from trex.training.evaluate import compare_paired, predict
from trex.training.transforms import DataConfig, eval_transform

_UNIFORM = " ".join(f"{i}~{{0}}" for i in range(12))
PLANS = (
    "11=class",
    "3~40 6~40 9~40 11=class",
    "3~24 4~24 5~24 6~14 7~14 8~14 9~14 10~14 11=class",
    "3~26 4~22 5~18 6~14 7~10 8~10 9~8 10~8 11=class",
    "3~48 5~48 8~24 11=class",
    "2~10 3~22 4~22 5~22 6~22 7~22 8~16 9~10 10~8 11=class",
    "0~8 2~12 3~14 4~40 5~22 6~16 7~20 9~18 10~8 11=class",
    _UNIFORM.format(11),
    _UNIFORM.format(13),
    f"{_UNIFORM.format(16)[:-2]}10",
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="deit_tiny_patch16_224")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--num-classes", type=int)
    parser.add_argument("--img-size", type=int)
    parser.add_argument("--eval", required=True, metavar="DATASET")
    parser.add_argument("--class-map", type=Path)
    parser.add_argument("--hw", default="trex_fefet_32nm")
    parser.add_argument("--plan", action="append", metavar="PLAN", help="else those of the docs")
    parser.add_argument("--amp", action="store_true", help="forwards in bfloat16")
    args = parser.parse_args()
    plans = [Plan.parse(text) for text in args.plan or PLANS]
    for plan in plans:
        if plan.reuses:
            parser.error(f'"{plan}" reuses: fit it with `trex fit`')
    loaded = load(
        args.model,
        weights=args.weights,
        num_classes=args.num_classes,
        img_size=args.img_size,
    )
    found, chip = architecture_of(loaded.model, loaded.name), load_chip(args.hw)
    images = open_dataset(
        args.eval,
        transform=eval_transform(DataConfig.of_model(loaded.model)),
        class_map=args.class_map,
        num_classes=loaded.model.num_classes,  # type: ignore[arg-type]
    )
    original = predict(loaded.model, batches(images, 50), amp=args.amp, label="original")
    whole = price(workload(found), chip, "full")
    top1 = (original.logits.argmax(1) == original.labels).double().mean()
    precision = "bfloat16" if args.amp else "float32"
    print(f"{loaded.name} on {chip.name}, full accounting; {args.eval}, n = {len(images)}, "
          f"{precision}, original {100 * top1:.1f} %, torch {torch.__version__}")  # fmt: skip
    print("| plan | latency | energy | area | EDAP | KL | agreement | top-1 | points lost, 95 % |")
    print("|---|---|---|---|---|---|---|---|---|")
    for plan in plans:
        variant = apply_plan(copy.deepcopy(loaded.model), plan)
        answers = predict(variant, batches(images, 50), amp=args.amp, label=str(plan))
        paired = compare_paired(answers.logits, original.logits, answers.labels)
        cost = price(workload(found, plan), chip, "full")
        low, high = (-100 * end for end in reversed(paired.ci95))
        print(
            f"| `{plan}` | {cost.latency_s / whole.latency_s:.3f}x "
            f"| {cost.energy_j / whole.energy_j:.3f}x | {cost.area_m2 / whole.area_m2:.3f}x "
            f"| {whole.edap_j_s_m2 / cost.edap_j_s_m2:.2f}x lower "
            f"| {paired.mean_kl:.3f} | {100 * paired.agreement:.1f} % "
            f"| {100 * paired.top1:.1f} % | {-100 * paired.difference:.1f} ({low:.1f} to "
            f"{high:.1f}) |",
            flush=True,
        )


if __name__ == "__main__":
    main()
