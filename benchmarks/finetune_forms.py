"""The same encoders reusing in several forms, fine-tuned alike: what a user needs to choose one.

    python benchmarks/finetune_forms.py TUNED [TUNED ...] [--hw CHIP]

Every TUNED is what `trex finetune --eval OTHERS` wrote, all of them with the same recipe, images
and original, on the same chip's errors or none; several seeds of one form get one more row, their
mean. What they began with comes from a search that is given the form and only these consumers:

    trex search ... --transforms linear_own --consumers 1 4 5 8 11 --max-latency 0.63x --out RUN
    trex finetune RUN --data IMAGES --eval OTHERS --class-map FILE --seed 0 --out TUNED

Latency and EDAP are estimates under `full` accounting, which prices transforms, buffers, norms,
stem and head too; top-1 and agreement are measured. Nothing is trained here.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from trex.hardware import Chip, Cost, load_chip, price, workload
from trex.models.registry import architecture
from trex.plan import Plan
from trex.report.tables import percent
from trex.store.finetuning import FinetuneFolder, is_finetuning
from trex.store.schemas import Stage

#: settings without which numbers do not belong into one table
_ALIKE: Final = (
    "model", "model_args", "weights_sha256", "recipe", "images_sha256", "extra_sha256",
    "evaluation_sha256", "non_ideal_chip_sha256",
)  # fmt: skip


def main() -> None:
    """Read, price, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tuned", type=Path, nargs="+", metavar="TUNED")
    parser.add_argument("--hw", default="trex_fefet_32nm", metavar="CHIP")
    args = parser.parse_args()
    chip = load_chip(args.hw)
    settings: dict[str, Any] = {}
    groups: dict[str, list[tuple[int, dict[str, Any], dict[str, Any]]]] = {}
    for path in args.tuned:
        now, (fitted, finetuned) = read(path)
        for name in _ALIKE:
            if settings.setdefault(name, now[name]) != now[name]:
                raise SystemExit(f"{path} is of another {name} than {args.tuned[0]}")
        rows = groups.setdefault(fitted["plan"], [])
        rows.append((now["seed"], fitted, finetuned))
    model, n_images = settings["model"], fitted["evaluation"]["n"]
    base = costs(model, chip, "")
    print(f"{model}, {n_images} images; latency and EDAP: full accounting, {chip.name}")
    print(
        f"{'latency':>8}{'EDAP gain':>11}  {'stage':<11}{'seed':>4}{'top-1':>8}{'lost':>6}"
        f"{'95 %':>15}{'agreement':>11}"
    )
    for plan, rows in groups.items():
        cost = costs(model, chip, plan)
        prices = (
            f"{cost.latency_s / base.latency_s:>7.3f}x"
            f"{base.edap_j_s_m2 / cost.edap_j_s_m2:>10.2f}x"
        )
        print(plan)
        starts = {fitted["weights_sha256"]: fitted for _, fitted, _ in rows}
        for record in starts.values():
            print(f"{prices}  {measured(record, '')}")
        for seed, _, record in sorted(rows, key=lambda row: row[0]):
            print(f"{prices}  {measured(record, str(seed))}")
        if len(rows) > 1:
            evaluations = [record["evaluation"] for _, _, record in rows]
            top1, difference, agreement = (
                100 * fmean(evaluation[name] for evaluation in evaluations)
                for name in ("top1", "difference", "agreement")
            )
            print(
                f"{prices}  {'mean':<11}{len(rows):>4}{top1:>7.1f}%{-difference:>6.1f}"
                f"{'':>15}{agreement:>10.1f}%"
            )


def read(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Settings of a fine-tuning, and its two records.

    Raises:
        SystemExit: it is none, is not finished, or was not evaluated.
    """
    records = FinetuneFolder(path).records() if is_finetuning(path) else []
    if [r.stage for r in records if r.evaluation] != ["fitted", "finetuned"]:
        raise SystemExit(f"{path} holds no finished fine-tuning with --eval")
    return json.loads((path / "manifest.json").read_text())["settings"], records


def costs(model: str, chip: Chip, plan: str) -> Cost:
    """An estimate under full accounting."""
    return price(workload(architecture(model), Plan.parse(plan)), chip, "full")


def measured(record: Stage, seed: str) -> str:
    """What was measured of one stage."""
    of = record.evaluation
    assert of is not None
    low, high = (-100 * bound for bound in reversed(of.ci95))
    return (
        f"{record.stage:<11}{seed:>4}{100 * of.top1:>7.1f}%{-100 * of.difference:>6.1f}"
        f"{f'{low:.1f} to {high:.1f}':>15}{percent(of.agreement):>10}%"
    )


if __name__ == "__main__":
    main()
