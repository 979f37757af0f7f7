"""The same plan in several forms, fine-tuned on the same images: what a user needs to choose one.

    python benchmarks/finetune_forms.py --calib IMAGES --eval OTHERS --class-map FILE --out FOLDER
        [--plan "1<-0 4<-3 ..."] [--weights FILE] [--forms linear block linear_own map:linear]
        [--recipe few_images] [--hw CHIP]

Every form is fitted in closed form on all of --calib (not refined), then fine-tuned on the same
images with the same recipe and seed, and both are measured on --eval beside the original. Costs
are estimates under `full` accounting, which prices the transforms too. Fits and fine-tunings are
kept in --out; run again, it does what is missing.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from measured import Measured
from safetensors.torch import load_file, save
from torch import nn

from trex.files import write_atomic
from trex.hardware import Cost, load_chip, price, workload
from trex.models.registry import architecture
from trex.plan import Reuse, ReusedTensor, ReusePlan
from trex.reuse.fit import Candidate, FittedPlan, apply_fitted
from trex.reuse.transforms import transforms_of
from trex.search.records import describe
from trex.training.data import dataset_fingerprint
from trex.training.finetune import Job, finetune, load_recipe
from trex.training.finetune.processes import start_processes

PLAN = "1<-0 4<-3 5<-3 8<-7 11<-10"
FORMS = ("linear", "block", "linear_own", "map:linear")


def main() -> None:
    """Fit, fine-tune, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="deit_tiny_patch16_224")
    parser.add_argument("--weights", type=Path, help="local file; else timm's")
    parser.add_argument("--calib", required=True, metavar="DATASET")
    parser.add_argument("--eval", required=True, metavar="DATASET")
    parser.add_argument("--class-map", type=Path, metavar="FILE")
    parser.add_argument("--plan", default=PLAN, help="who reuses whom; forms say what")
    parser.add_argument("--forms", nargs="+", default=FORMS, metavar="[map:]TRANSFORM")
    parser.add_argument("--recipe", default="few_images")
    parser.add_argument("--hw", default="trex_fefet_32nm")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    args.store, args.bf16, args.seconds = args.out / "store.jsonl", True, None
    measured = Measured(args, 1, 1)
    rows = [
        (form, measured_form(args, measured, form, fitted))
        for form, fitted in fits(args, measured)
    ]
    print(f"{args.plan}, {args.recipe}, {len(measured.final)} images; full accounting, {args.hw}")
    print(
        f"{'form':<12}{'latency':>9}{'EDAP gain':>11}  {'stage':<10}{'top-1':>7}{'lost':>6}",
        end="",
    )
    print(f"{'95 %':>15}{'agreement':>11}")
    for form, records in rows:
        cost, base = (costs(args, plan_of(args, form), form), costs(args, ReusePlan(), "none"))
        for record in records:
            of = record["evaluation"]
            low, high = (-100 * bound for bound in reversed(of["ci95"]))
            print(
                f"{form:<12}{cost.latency_s / base.latency_s:>8.3f}x"
                f"{base.edap_j_s_m2 / cost.edap_j_s_m2:>10.2f}x  {record['stage']:<10}"
                f"{100 * of['top1']:>6.1f}%{-100 * of['difference']:>6.1f}"
                f"{f'{low:.1f} to {high:.1f}':>15}{100 * of['agreement']:>10.1f}%"
            )


def plan_of(args: argparse.Namespace, form: str) -> ReusePlan:
    """The plan whose consumers reuse what the form says."""
    given = ReusePlan.parse(args.plan)
    tensor: ReusedTensor = "map" if form.startswith("map:") else "output"
    return ReusePlan(tuple(Reuse(r.consumer, r.source, tensor) for r in given))


def candidate_of(args: argparse.Namespace, form: str) -> Candidate:
    """The plan with the form's transform."""
    plan = plan_of(args, form)
    return Candidate(plan=plan, transforms=transforms_of(plan, form.removeprefix("map:")))


def costs(args: argparse.Namespace, plan: ReusePlan, form: str) -> Cost:
    """An estimate under full accounting."""
    work = workload(architecture(args.model), plan, transforms_of(plan, form.removeprefix("map:")))
    return price(work, load_chip(args.hw), "full")


def fits(args: argparse.Namespace, measured: Measured) -> Iterator[tuple[str, nn.Module]]:
    """Every form fitted on all calibration images."""
    files = {form: args.out / f"{form.replace(':', '-')}.safetensors" for form in args.forms}
    candidates = {form: candidate_of(args, form) for form in args.forms}
    missing = {candidates[form].key: form for form in args.forms if not files[form].exists()}
    if missing:
        wanted = [candidates[form] for form in missing.values()]
        for fitted in measured.fitted_finally(wanted):
            write_atomic(files[missing[fitted.candidate.key]], save(dict(fitted.state)))
    for form in args.forms:
        state = dict(load_file(files[form]))
        plan = FittedPlan(candidate=candidates[form], state=state, logits=torch.empty(0))
        yield form, apply_fitted(deepcopy(measured.loaded.model), plan)


def measured_form(
    args: argparse.Namespace, measured: Measured, form: str, fitted: nn.Module
) -> list[dict[str, Any]]:
    """The records of a form: as it was fitted, and as it was fine-tuned."""
    candidate, cost = candidate_of(args, form), costs(args, plan_of(args, form), form)
    job = Job(
        original=measured.loaded,
        data_config=measured.config,
        fitted=fitted,
        candidate={
            **describe(candidate),
            "estimate": {"accounting": cost.accounting, "latency_s": cost.latency_s},
        },
        images=measured.final,
        extra=None,
        evaluation=measured.open(args.eval, args.class_map),
        recipe=load_recipe(args.recipe),
        chip=None,
        seed=args.seed,
        workers=0,
        out=args.out / form.replace(":", "-"),
        fitted_on=dataset_fingerprint(measured.final, labels=False),
        origin=str(args.out),
    )
    with start_processes("cpu") as processes:
        return finetune(job, processes)


if __name__ == "__main__":
    main()
