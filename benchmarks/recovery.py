"""What fitting recovers behind the first consumer: producers solved too, refinement, both.

    python benchmarks/recovery.py --model NAME --weights FILE --calib DATASET --plan PLAN ...

Plans may reuse through transforms, merge tokens and share rows. Every plan is fitted with
`FitSettings.producers` none, 0.5 and 1 on some images of the set, also where it has no consumer,
and refined on the same ones from each of these fits. Measured on others: KL from the original
(nats) and agreement of first guesses. Forwards in single precision.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch
from forms import BATCH, of_images
from torch import Tensor

from trex.fit.calibration import Calibration, FitSettings
from trex.fit.fitter import FittedPlan, PlanFitter, apply_fitted
from trex.fit.loss import mean_kl
from trex.fit.refine import Batch, RefineSettings, refine
from trex.plan import Plan
from trex.reuse.transforms import averaged

SHARES = (None, 0.5, 1.0)


def main() -> None:
    """Print the table."""
    args = parser().parse_args()
    torch.set_num_threads(args.threads)
    subject = of_images(args)
    fitted, measured = subject.fitted, subject.measured
    plans = [Plan.parse(text) for text in args.plan]
    print(
        f"{subject.name}: {len(fitted)} fitted on, {len(measured)} others measured, "
        f"share {args.share:g}, torch {torch.__version__}"
    )
    print("| plan | producers' share | refined, rounds | KL | agreement | s |")
    print("|---|---|---|---|---|---|", flush=True)
    with (
        tempfile.TemporaryDirectory() as scratch,
        closing(
            Calibration(
                subject.model,
                subject.adapter,
                fitted.split(BATCH),
                measured.split(BATCH),
                settings=FitSettings(batch_size=BATCH, shrink=args.share),
                scratch=Path(scratch),
                maps=averaged(plans),
            )
        ) as calibration,
    ):
        original = calibration.logits[len(fitted) :]

        def tell(plan: Plan, share: float | None, rounds: int, logits: Tensor, since: float):
            agreement = (logits.argmax(1) == original.argmax(1)).double().mean()
            print(
                f"| `{plan}` | {share or '-'} | {rounds or '-'} | {mean_kl(logits, original):.4f} "
                f"| {100 * agreement:.1f} % | {time.perf_counter() - since:.0f} |",
                flush=True,
            )

        def answered() -> Iterator[Batch]:
            for start in range(0, len(fitted), BATCH):
                rows = torch.arange(start, min(start + BATCH, len(fitted)))
                yield fitted[rows], calibration.logits[rows], rows

        def refined(found: FittedPlan) -> tuple[int, Tensor]:
            variant = apply_fitted(copy.deepcopy(subject.model), found).eval()
            rounds = refine(
                variant,
                subject.adapter,
                answered,
                settings=RefineSettings(),
                scratch=Path(scratch),
            )
            with torch.no_grad():
                return len(rounds), torch.cat([variant(part) for part in measured.split(BATCH)])

        for plan in plans:
            for share in SHARES:
                since = time.perf_counter()
                settings = replace(calibration.settings, producers=share)
                (found,) = PlanFitter(calibration, settings=settings, unconsumed=True).fit([plan])
                tell(plan, share, 0, found.logits, since)
                if not args.no_refinement:
                    since = time.perf_counter()
                    tell(plan, share, *refined(found), since)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--model", required=True)
    made.add_argument("--weights", type=Path)
    made.add_argument("--num-classes", type=int)
    made.add_argument("--img-size", type=int)
    made.add_argument("--calib", required=True, metavar="DATASET")
    made.add_argument("--plan", action="append", required=True)
    made.add_argument("--share", type=float, default=1.0, help="of consumers")
    made.add_argument("--fitted", type=int, default=500)
    made.add_argument("--measured", type=int, default=400)
    made.add_argument("--no-refinement", action="store_true")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--threads", type=int, default=1)
    return made


if __name__ == "__main__":
    main()
