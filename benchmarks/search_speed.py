"""How much work a search shares: many candidates fitted together against one by one.

    python benchmarks/search_speed.py [--images 60] [--candidates 32 64] [--run DIR]
        [--surrogate FILE]

Prints, for DeiT-Tiny's shape with random weights (speed does not depend on them), how many
encoders the images pass and the CPU time that takes (which other programs do not lengthen much),
for the candidates fitted and measured together and one by one, in one run; the results must be
equal. Candidates are random plans of five of twelve consumers and, with --run, those that a search
measured; with --surrogate those of five consumers that are predicted to lose least, by what a
search in the space `default` kept.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from torch import Tensor

from trex.fit.calibration import Calibration, FitSettings
from trex.fit.fitter import PlanFitter
from trex.models.registry import adapter_of, architecture_of, create
from trex.plan import Plan
from trex.search.predict import Losses
from trex.search.space import SearchSpace
from trex.store.run import Run

#: consumers of the twelve encoders
N_REUSE = 5


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--candidates", type=int, nargs="+", default=[32, 64], metavar="K")
    parser.add_argument("--run", type=Path, metavar="DIR", help="what a search measured")
    parser.add_argument(
        "--surrogate", type=Path, metavar="FILE", help="a run's surrogate.json: what it predicts"
    )
    args = parser.parse_args()
    most = max(args.candidates)
    ways = {"random": random_plans(most)}
    if args.run:
        ways["measured by a search"] = [r.parsed for r in Run.open(args.run).records()]
    model = create("deit_tiny_patch16_224")
    if args.surrogate:
        space = SearchSpace.load("default", architecture_of(model, "deit_tiny_patch16_224"))
        losses = Losses.from_json(json.loads(args.surrogate.read_text()), space)
        ways["predicted best"] = predicted_best(losses, most)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(args.images, 3, 224, 224, generator=generator).split(50)
    with tempfile.TemporaryDirectory() as scratch:

        def calibrate() -> tuple[Calibration, float]:
            start = time.process_time()
            calibration = Calibration(
                model, adapter_of(model), images, images[:1],
                settings=FitSettings(), scratch=Path(scratch),
            )  # fmt: skip
            return calibration, time.process_time() - start

        calibrate()[0].close()  # warm up
        calibration, original_s = calibrate()
        print(
            f"{calibration.n_images} images, {torch.get_num_threads()} threads, "
            f"a pass of the original {original_s:.1f} CPU s"
        )
        print(
            f"{'':<22}{'K':>4}{'steps':>8}{'one by one':>12}{'ratio':>7}"
            f"{'CPU s':>9}{'one by one':>12}{'ratio':>7}{'passes':>8}"
        )
        for name, candidates in ways.items():
            compare(name, candidates, sorted(args.candidates), calibration, original_s)
        calibration.close()


def compare(
    name: str,
    candidates: list[Plan],
    counts: list[int],
    calibration: Calibration,
    original_s: float,
) -> None:
    """A line for each count of candidates; all are fitted one by one once."""
    fitter = PlanFitter(calibration)
    alone: list[tuple[Tensor, float]] = []
    for candidate in candidates[: counts[-1]]:
        start = time.process_time()
        (fitted,) = fitter.fit([candidate])
        alone.append((fitted.logits, time.process_time() - start))
    for count in sorted({min(count, len(candidates)) for count in counts}):
        some = candidates[:count]
        start = time.process_time()
        together = {fitted.plan.key: fitted.logits for fitted in fitter.fit(some)}
        together_s = time.process_time() - start
        for candidate, (logits, _) in zip(some, alone, strict=False):
            difference = (logits - together[candidate.key]).abs().max()
            assert difference < 1e-3, f"{candidate}: differs by {difference}"
        steps = fitter.steps(some) // calibration.n_images
        alone_steps = len(calibration.encoders) * count
        alone_s = sum(seconds for _, seconds in alone[:count])
        print(
            f"{name:<22}{count:>4}{steps:>8}{alone_steps:>12}{steps / alone_steps:>7.2f}"
            f"{together_s:>9.1f}{alone_s:>12.1f}{together_s / alone_s:>7.2f}"
            f"{(original_s + together_s) / original_s:>8.1f}",
            flush=True,
        )


def random_plans(count: int) -> list[Plan]:
    """Random plans of five of twelve consumers."""
    rng = np.random.default_rng(0)
    plans: dict[Plan, None] = {}
    while len(plans) < count:
        consumers = rng.choice(np.arange(1, 12), size=N_REUSE, replace=False)
        plans.setdefault(Plan.nearest(consumers.tolist()))
    return list(plans)


def predicted_best(losses: Losses, count: int) -> list[Plan]:
    """The plans of five consumers that are predicted to lose least."""
    rows = losses.space.all_rows()
    rows = rows[(rows > 0).sum(axis=1) == N_REUSE]
    best = np.argsort(losses.predict(rows), kind="stable")[:count]
    return [losses.space.plan(row) for row in rows[best]]


if __name__ == "__main__":
    main()
