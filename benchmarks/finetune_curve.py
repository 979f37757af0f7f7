"""Points lost against images seen: the averaged weights of a fine-tuning's checkpoints, measured.

    python benchmarks/finetune_curve.py TUNED CHECKPOINTS --eval OTHERS --class-map FILE
        [--weights FILE] [--bf16]

TUNED is what `trex finetune` wrote; CHECKPOINTS is a folder with copies of checkpoints/step-*.pt,
made while it trained, since it removes its own at the end. Weights on the way were trained with a
learning rate that had yet to fall, so they are worse than a shorter training would have ended.
Nothing is chosen by what is printed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from trex.export.bundle import load_bundle
from trex.models.registry import load
from trex.training.data import batches, open_dataset
from trex.training.evaluate import compare_paired, predict
from trex.training.finetune.losses import soft_label_loss
from trex.training.transforms import DataConfig, eval_transform


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tuned", type=Path, metavar="TUNED")
    parser.add_argument("checkpoints", type=Path, metavar="CHECKPOINTS")
    parser.add_argument("--eval", required=True, metavar="DATASET")
    parser.add_argument("--class-map", type=Path, metavar="FILE")
    parser.add_argument("--weights", type=Path, help="the original's local file; else timm's")
    parser.add_argument("--bf16", action="store_true", help="forwards in mixed precision")
    args = parser.parse_args()
    settings = json.loads((args.tuned / "manifest.json").read_text())["settings"]
    original = load(settings["model"], weights=args.weights, **settings["model_args"])
    images = open_dataset(
        args.eval,
        transform=eval_transform(DataConfig.of_model(original.model)),
        class_map=args.class_map,
        num_classes=getattr(original.model, "num_classes", None),
    )
    reference = predict(original.model, batches(images, 50), amp=args.bf16)
    variant = load_bundle(args.tuned / "bundle")
    print(f"{settings['plan']}, {len(images)} images{', bf16' if args.bf16 else ''}")
    print(f"{'step':>6}{'images':>8}{'top-1':>8}{'lost':>6}{'95 %':>15}{'agreement':>11}{'KL':>7}")
    for file in sorted(args.checkpoints.glob("step-*.pt")):
        state = torch.load(file, map_location="cpu", weights_only=True)
        variant.load_state_dict(state["average"])
        answers = predict(variant, batches(images, 50), amp=args.bf16)
        of = compare_paired(answers.logits, reference.logits, answers.labels)
        low, high = (-100 * bound for bound in reversed(of.ci95))
        divergence = soft_label_loss(answers.logits, reference.logits)
        print(
            f"{state['step']:>6}{state['step'] * settings['recipe']['batch_size']:>8,}"
            f"{100 * of.top1:>7.1f}%{-100 * of.difference:>6.1f}"
            f"{f'{low:.1f} to {high:.1f}':>15}{100 * of.agreement:>10.1f}%{divergence:>7.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
