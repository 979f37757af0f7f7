"""Whether predicted losses find better plans than the paper's patterns or chance, at equal cost.

    python benchmarks/better_at_equal_cost.py --calib IMAGES [--eval OTHERS] [--weights FILE]
        [--class-map FILE] --store losses.jsonl [--bf16] [--exhaustive 5]

At 3, 5 and 7 consumers every way chooses as many plans as the paper has uniform patterns
(`trex.plan.uniform_plans`); these are fitted and measured, and the one that loses least wins:

    exact       the plans that are predicted to lose least
    paper       the strided, pyramid and continuous patterns
    random      random plans; and, for what the probes cost, 64 of them
    exhaustive  all plans of a count, on fewer images first; the best of them again as the others

All plans are fitted in closed form; the paper trains its candidates for 256,000 images each
instead. Images to fit and to choose with come from --calib only. Winners are fitted once more on
all of --calib, or --final-images of it, and measured on --eval, paired with the original. Losses
and answers are kept in --store and beside it; run again, it measures what is missing.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path

import numpy as np
from measured import Measured, add_arguments, encoder_steps
from rank import COUNTS, random_plans, space_of
from safetensors.torch import load_file, save
from torch import nn

from trex.files import write_atomic
from trex.fit.fitter import apply_fitted
from trex.plan import Plan, uniform_plans
from trex.search.predict import build, probes
from trex.training.data import batches
from trex.training.evaluate import PairedComparison, compare_paired, predict

#: random plans that cost about as much as the probes and the plans chosen by them
MANY = 64
#: images that all plans of a count are fitted on and compared on, and how many go on
SCREEN = (40, 40)
SURVIVORS = 32


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--eval", metavar="DATASET", help="labelled images for the winners")
    parser.add_argument("--fit-images", type=int, default=120)
    parser.add_argument("--select-images", type=int, default=80)
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS, metavar="N")
    parser.add_argument("--final-images", type=int, help="to fit winners on; else all")
    parser.add_argument("--eval-images", type=int, help="of --eval, at random; else all")
    parser.add_argument("--exhaustive", type=int, help="a count of consumers: measure all plans")
    args = parser.parse_args()
    measured = Measured(args, args.fit_images, args.select_images)
    if args.final_images:
        measured.final = measured.final.subset(args.final_images, measured.settings.seed)
    ways = {n: chosen(measured, n) for n in args.counts}
    measured.measure(itertools.chain(*(plans for of in ways.values() for plans in of.values())))
    if args.exhaustive:
        best = screened(args, measured, args.exhaustive)
        measured.measure(best)
        ways[args.exhaustive]["exhaustive"] = best
    winners = {
        (n, way): min(plans, key=measured.loss)
        for n, of in ways.items()
        for way, plans in of.items()
    }
    answers = Answers(args, measured) if args.eval else None
    if answers:
        answers.measure(winners.values())
    encoders = space_of(measured, "default").num_encoders
    print(measured.describe())
    if answers:
        print(f"winners fitted on {len(measured.final)}, measured on {answers.count} others")
    print(f"probes: {encoder_steps(probes(space_of(measured, 'default')), encoders)} steps")
    print(
        f"{'n':<3}{'way':<12}{'plans':>6}{'steps':>7}{'loss':>7}{'top-1':>7}"
        f"{'- original (95 %)':>22}  winner's consumers"
    )
    for (n, way), winner in winners.items():
        top1, change = "-", "-"
        if answers:
            paired = answers.compare(winner)
            low, high = (100 * bound for bound in paired.ci95)
            top1 = f"{100 * paired.top1:.1f}"
            change = f"{100 * paired.difference:.1f} ({low:.1f} to {high:.1f})"
        steps = encoder_steps(ways[n][way], encoders)
        print(
            f"{n:<3}{way:<12}{len(ways[n][way]):>6}{steps:>7}{measured.loss(winner):>7.3f}"
            f"{top1:>7}{change:>22}  " + " ".join(map(str, winner.consumers))
        )


def chosen(measured: Measured, n_reuse: int) -> dict[str, list[Plan]]:
    """Every way's plans of so many consumers."""
    space = space_of(measured, "default")
    measured.measure(probes(space))
    losses = build(space, {plan.key: measured.loss(plan) for plan in probes(space)})
    patterns = uniform_plans(space.num_encoders, n_reuse)
    rows = space.all_rows()
    rows = rows[(rows > 0).sum(axis=1) == n_reuse]
    order = np.argsort(losses.predict(rows), kind="stable")
    at_random = random_plans(space.num_encoders, n_reuse, MANY)
    return {
        "exact": [space.plan(row) for row in rows[order[: len(patterns)]]],
        "paper": [Plan.nearest(plan.consumers) for plan in patterns],
        "random": at_random[: len(patterns)],
        f"random {MANY}": at_random,
    }


def screened(args: argparse.Namespace, measured: Measured, n_reuse: int) -> list[Plan]:
    """The best of all plans of so many consumers on few images."""
    few = argparse.Namespace(**vars(args))
    few.store = args.store.with_suffix(".screen.jsonl")
    screen = Measured(few, *SCREEN)
    last = space_of(measured, "default").num_encoders
    every = [Plan.nearest(of) for of in itertools.combinations(range(1, last), n_reuse)]
    screen.measure(every)
    return sorted(every, key=screen.loss)[:SURVIVORS]


class Answers:
    """The answers of the original and of fitted plans on images of their own, kept in files."""

    def __init__(self, args: argparse.Namespace, measured: Measured) -> None:
        self._measured = measured
        self._images = measured.open(args.eval, args.class_map)
        if args.eval_images:
            self._images = self._images.subset(args.eval_images, measured.settings.seed)
        self._bf16: bool = args.bf16
        self._folder: Path = args.store.with_suffix(
            f".{len(measured.final)}.{len(self._images)}.answers"
        )
        self._folder.mkdir(exist_ok=True)
        self.count = len(self._images)

    def measure(self, plans: Iterable[Plan]) -> None:
        """Fit plans on all calibration images and run them, where it was not done before."""
        original = self._measured.loaded.model
        if not self._file("original").exists():
            self._run("original", original)
        wanted = {c.key: c for c in plans if not self._file(c.key).exists()}
        if wanted:
            print(f"fitting and measuring {len(wanted)} winners", flush=True)
            for fitted in self._measured.fitted_finally([*wanted.values()]):
                self._run(fitted.plan.key, apply_fitted(deepcopy(original), fitted))
                self._measured.stop_if_late()

    def compare(self, plan: Plan) -> PairedComparison:
        """A plan against the original."""
        ours, theirs = (load_file(self._file(key)) for key in (plan.key, "original"))
        return compare_paired(ours["logits"], theirs["logits"], theirs["labels"])

    def _run(self, key: str, model: nn.Module) -> None:
        answers = predict(model, batches(self._images, 50), amp=self._bf16)
        tensors = {"logits": answers.logits, "labels": answers.labels}
        write_atomic(self._file(key), save(tensors))

    def _file(self, key: str) -> Path:
        return self._folder / f"{key}.safetensors"


if __name__ == "__main__":
    main()
