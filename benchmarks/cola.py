"""A small BERT on CoLA: before reuse, after it, and fine-tuned; for several seeds.

    python benchmarks/cola.py --cola DIR [--out runs/cola] [--seeds 0 1 2] [--max-latency 0.6x]

Published BERT weights are not needed: for every seed the script trains a BERT of 4 encoders and
0.5 million parameters from nothing on nine tenths of CoLA's training sentences. Then a search
under a latency limit with transforms fitted on unlabelled training sentences, and fine-tuning by
distillation on such sentences. The development sets are measured on, and nothing else: candidates
are compared on training sentences.

Every stage leaves its result in --out and is not repeated. DIR holds CoLA's raw files
(in_domain_train.tsv, in_domain_dev.tsv, out_of_domain_dev.tsv).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from trex.cli import main as trex
from trex.exporters.bundle import load_bundle
from trex.files import write_atomic
from trex.models.registry import LoadedModel
from trex.search.pick import load_original
from trex.store.run import Run
from trex.text.config import TextConfig
from trex.text.small import SmallBert, train_classifier
from trex.text.sources import open_texts
from trex.text.tokenizer import FILE, build_tokenizer, encode
from trex.training.data import open_dataset
from trex.training.measure import measure_pair

SIZE = SmallBert()
#: the share of the labelled sentences that no classifier is trained on
HELD_OUT = 0.1
#: sentences that candidates are fitted and compared on, and that the winner is fine-tuned on
CALIBRATION = 1000
FINETUNING = 3000
DEVELOPMENT = ("in_domain_dev", "out_of_domain_dev")
RECIPE = Path(__file__).with_name("cola_finetune.yaml")


def main() -> None:
    """Train, search, fine-tune, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cola", type=Path, required=True, help="the folder of CoLA's files")
    parser.add_argument("--out", type=Path, default=Path("runs/cola"))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--hw", default="trex_fefet_32nm")
    parser.add_argument("--accounting", default="paper", choices=("paper", "full"))
    parser.add_argument("--only", choices=("reuse", "merging", "rows"), help="one axis alone")
    parser.add_argument("--max-latency", default="0.6x")
    parser.add_argument("--evaluations", type=int, default=16)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rows = [one_seed(args, seed) for seed in args.seeds]
    print("\n".join(table(rows)))


def one_seed(args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """All that a seed decides: the classifier, the search, the fine-tuning; what they measure."""
    folder = args.out / f"seed{seed}"
    question = "_".join(filter(None, (args.max_latency, args.accounting, args.only)))
    result = folder / f"result_{question}.json"
    if result.exists():
        return dict(json.loads(result.read_text()))
    started = time.monotonic()
    model, run, tuned = (
        folder / name for name in ("model", f"search_{question}", f"tuned_{question}")
    )
    train = f"cola:{args.cola / 'in_domain_train.tsv'}"
    if not (model / FILE).exists():
        training(train, model, seed)
        log(f"seed {seed}: classifier trained", started)
    chosen = random.Random(seed).sample(open_texts(train).texts, FINETUNING)
    finetuning, calibration = folder / "finetuning.txt", folder / "calibration.txt"
    write_atomic(finetuning, "\n".join(chosen) + "\n")
    write_atomic(calibration, "\n".join(chosen[:CALIBRATION]) + "\n")
    command(
        "search", "--model", str(model), "--tokens", str(SIZE.tokens), "--hw", args.hw,
        "--accounting", args.accounting, *(("--only", args.only) if args.only else ()),
        "--max-latency", args.max_latency, "--calib", f"text:{calibration}", "--seed", str(seed),
        "--evaluations", str(args.evaluations), "--out", str(run),
    )  # fmt: skip
    log(f"seed {seed}: searched", started)
    command(
        "finetune", str(run), "--data", f"text:{finetuning}", "--recipe", str(RECIPE),
        "--seed", str(seed), "--device", "cpu", "--out", str(tuned),
    )  # fmt: skip
    log(f"seed {seed}: fine-tuned", started)
    found = measured(args.cola, Run.open(run), tuned / "bundle") | {"seed": seed}
    write_atomic(result, json.dumps(found, indent=2) + "\n")
    return found


def training(train: str, folder: Path, seed: int) -> None:
    """A classifier from nothing, as a folder of `transformers`."""
    texts = open_texts(train)
    tokenizer = build_tokenizer(texts.texts, SIZE.vocabulary)
    inputs, labels = encode(tokenizer, texts.texts, SIZE.tokens), torch.tensor(texts.labels)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    rows = order[round(HELD_OUT * len(labels)) :]
    network = train_classifier(SIZE, tokenizer.get_vocab_size(), inputs[rows], labels[rows], seed)
    network.save_pretrained(folder)  # type: ignore[operator]
    tokenizer.save(str(folder / FILE))


def measured(cola: Path, run: Run, bundle: Path) -> dict[str, Any]:
    """The three models on the development sets, and what the variant costs."""
    original, config = load_original(run)
    assert isinstance(config, TextConfig)
    summary = run.summary()
    assert summary is not None
    estimate, baseline = summary.best.estimate, summary.baseline
    return {
        "plan": summary.best.plan,
        "parameters": sum(p.numel() for p in original.model.parameters()),
        "ratios": {
            name: getattr(estimate, name) / getattr(baseline, name)
            for name in ("latency_s", "energy_j", "area_m2", "edap_mj_ms_mm2", "macs")
        },
        **{
            name: on_set(cola / f"{name}.tsv", original, config, run, bundle)
            for name in DEVELOPMENT
        },
    }


def on_set(
    file: Path, original: LoadedModel, config: TextConfig, run: Run, bundle: Path
) -> dict[str, Any]:
    """Matthews correlation and accuracy of the three models on one set."""
    texts = open_dataset(f"cola:{file}", transform=config.transform(), num_classes=2)
    found: dict[str, Any] = {"n": len(texts), "majority": majority(texts.labels or ())}
    for stage, folder in (("reuse", run.best), ("finetuned", bundle)):
        pair = measure_pair(load_bundle(folder), original.model, texts).as_json()
        found["original"] = {name: pair[f"baseline_{name}"] for name in ("matthews", "top1")}
        found[stage] = {name: pair[name] for name in ("matthews", "top1", "agreement")}
    return found


def majority(labels: tuple[int, ...]) -> float:
    """The accuracy of always saying the more frequent class."""
    share = sum(labels) / len(labels)
    return max(share, 1 - share)


def table(rows: list[dict[str, Any]]) -> list[str]:
    """The lines of the table, in Markdown."""
    lines = [
        "| seed | plan | latency | EDAP | set | Matthews: original | reuse | fine-tuned "
        "| accuracy: original | reuse | fine-tuned | one class | agreement |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    stages = ("original", "reuse", "finetuned")
    for row in rows:
        for name in DEVELOPMENT:
            cells = [f"{row[name][stage]['matthews']:.3f}" for stage in stages]
            cells += [f"{100 * row[name][stage]['top1']:.1f}" for stage in stages]
            ratios = row["ratios"]
            lines.append(
                f"| {row['seed']} | `{row['plan']}` | {ratios['latency_s']:.3f}x "
                f"| {1 / ratios['edap_mj_ms_mm2']:.2f}x lower | {name.removesuffix('_dev')} | "
                + " | ".join(cells) + f" | {100 * row[name]['majority']:.1f} "
                f"| {100 * row[name]['reuse']['agreement']:.1f} |"
            )  # fmt: skip
    for name in DEVELOPMENT if rows else ():
        means = (
            f"{statistics.fmean(row[name][stage]['matthews'] for row in rows):.3f} {stage}"
            for stage in stages
        )
        lines.append(f"\nmean Matthews, {name.removesuffix('_dev')}: {', '.join(means)}")
    return lines


def command(*words: str) -> None:
    """One of TReX's commands; its table goes to standard error here."""
    log("trex " + " ".join(words))
    sys.stdout, kept = sys.stderr, sys.stdout
    try:
        if code := trex(list(words)):
            raise SystemExit(code)
    finally:
        sys.stdout = kept


def log(text: str, started: float | None = None) -> None:
    """A line for people."""
    after = "" if started is None else f" ({time.monotonic() - started:.0f} s)"
    print(text + after, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
