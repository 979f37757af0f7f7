"""Points lost against images seen: what a fine-tuning would have kept at each checkpoint.

    python benchmarks/finetune_curve.py TUNED CHECKPOINTS --eval OTHERS --class-map FILE
        [--weights FILE] [--bf16] [--interpolation SHARE ...]

TUNED is what `trex finetune` wrote; CHECKPOINTS is a folder with copies of checkpoints/step-*.pt,
made while it trained, since it removes its own at the end. Weights on the way were trained with a
learning rate that had yet to fall, so they are worse than a shorter training would have ended.
The start, and weights between it and the trained ones, come from the run that TUNED began with;
other shares of the way than the recipe's can be asked for. Nothing is chosen by what is printed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trex.models.registry import LoadedModel, load
from trex.models.weights import weights_hash
from trex.search.pick import pick_variant
from trex.store.run import Run
from trex.training.data import batches, open_dataset
from trex.training.evaluate import compare_paired, predict
from trex.training.finetune.losses import soft_label_loss
from trex.training.finetune.selection import between
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
    parser.add_argument(
        "--interpolation", type=float, nargs="+", metavar="SHARE", help="else the recipe's"
    )
    args = parser.parse_args()
    manifest = json.loads((args.tuned / "manifest.json").read_text())
    settings = manifest["settings"]
    shares = args.interpolation or [settings["recipe"]["interpolation"]]
    loaded = load(settings["model"], weights=args.weights, **settings["model_args"])
    original = loaded.model
    images = open_dataset(
        args.eval,
        transform=eval_transform(DataConfig.of_model(original)),
        class_map=args.class_map,
        num_classes=getattr(original, "num_classes", None),
    )
    reference = predict(original, batches(images, 50), amp=args.bf16)
    variant = fitted(manifest, loaded)
    start = {name: value.clone() for name, value in variant.state_dict().items()}
    print(f"{settings['plan']}, {len(images)} images{', bf16' if args.bf16 else ''}")
    print(
        f"{'images':>8}{'share':>7}{'top-1':>8}{'lost':>6}{'95 %':>15}{'agreement':>11}{'KL':>7}"
    )
    states = [(0, 1.0, start)]
    for file in sorted(args.checkpoints.glob("step-*.pt")):
        saved = torch.load(file, map_location="cpu", weights_only=True)
        seen = saved["step"] * settings["recipe"]["batch_size"]
        states += [(seen, share, between(start, saved["average"], share)) for share in shares]
    for seen, share, state in states:
        variant.load_state_dict(state)
        answers = predict(variant, batches(images, 50), amp=args.bf16)
        of = compare_paired(answers.logits, reference.logits, answers.labels)
        low, high = (-100 * bound for bound in reversed(of.ci95))
        divergence = soft_label_loss(answers.logits, reference.logits)
        print(
            f"{seen:>8,}{share:>7.2f}{100 * of.top1:>7.1f}%{-100 * of.difference:>6.1f}"
            f"{f'{low:.1f} to {high:.1f}':>15}{100 * of.agreement:>10.1f}%{divergence:>7.3f}",
            flush=True,
        )


def fitted(manifest: dict[str, Any], loaded: LoadedModel) -> nn.Module:
    """The variant that the fine-tuning began with."""
    settings, run = manifest["settings"], Run.open(Path(manifest["run"]))
    for pick in ("best", settings["plan"]):
        _, variant = pick_variant(run, pick, loaded)
        if weights_hash(variant) == settings["fitted_sha256"]:
            return variant
    raise SystemExit(f"{run.path} no longer holds the weights that this fine-tuning began with")


if __name__ == "__main__":
    main()
