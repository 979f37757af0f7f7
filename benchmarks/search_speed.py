"""How much work a search shares: many candidates fitted together against one by one.

    python benchmarks/search_speed.py [--images 60] [--candidates 32] [--run DIR]

Prints, for DeiT-Tiny's shape with random weights (speed does not depend on them), the time of
fitting and measuring the candidates together and one by one, taken in turns in one run, and the
same in passes of the original over the same images. Candidates are random plans of five of twelve
consumers, or those that a run measured.
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

from trex.models.registry import adapter_of, create
from trex.plan import ReusePlan
from trex.reuse.fit import Calibration, Candidate, FitSettings, PlanFitter
from trex.search.records import candidate_of


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--candidates", type=int, default=32)
    parser.add_argument("--run", type=Path, help="take the candidates of this run folder")
    args = parser.parse_args()

    model = create("deit_tiny_patch16_224")
    adapter = adapter_of(model)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(args.images, 3, 224, 224, generator=generator).split(50)
    chosen = from_run(args.run) if args.run else random_plans(args.candidates)
    with tempfile.TemporaryDirectory() as scratch:

        def calibrate() -> tuple[Calibration, float]:
            start = time.perf_counter()
            calibration = Calibration(
                model, adapter, images, images[:1], settings=FitSettings(), scratch=Path(scratch)
            )
            return calibration, time.perf_counter() - start

        calibrate()[0].close()  # warm up
        calibration, original_s = calibrate()
        fitter = PlanFitter(calibration)
        start = time.perf_counter()
        together = {f.candidate.key: f.logits for f in fitter.fit(chosen)}
        together_s = time.perf_counter() - start
        start = time.perf_counter()
        for candidate in chosen:
            (alone,) = fitter.fit([candidate])
            difference = (alone.logits - together[candidate.key]).abs().max()
            assert difference < 1e-3, f"{candidate.plan}: differs by {difference}"
        separate_s = time.perf_counter() - start
        steps = fitter.steps(chosen)
        alone_steps = sum(fitter.steps([candidate]) for candidate in chosen)
        calibration.close()
    count = len(chosen)
    passes, most = (original_s + together_s) / original_s, 1.2 * (2 + count)
    print(f"{count} candidates, {calibration.n_images} images, {torch.get_num_threads()} threads")
    print(f"{'':<28}{'together':>10}{'one by one':>12}{'ratio':>8}")
    for name, ours, theirs in (
        ("seconds", together_s, separate_s),
        ("images through an encoder", steps, alone_steps),
    ):
        print(f"{name:<28}{ours:>10,.0f}{theirs:>12,.0f}{ours / theirs:>8.2f}")
    print(
        f"in passes of the original, this one included: {passes:.1f} (1.2 * (2 + K): {most:.1f})"
    )


def from_run(folder: Path) -> list[Candidate]:
    """What a run measured."""
    lines = (folder / "results.jsonl").read_text().splitlines()
    return [candidate_of(json.loads(line)) for line in lines]


def random_plans(count: int) -> list[Candidate]:
    """Random plans of five of twelve consumers."""
    rng = np.random.default_rng(0)
    plans: dict[ReusePlan, None] = {}
    while len(plans) < count:
        consumers = rng.choice(np.arange(1, 12), size=5, replace=False)
        plans.setdefault(ReusePlan.nearest(consumers.tolist()))
    return [Candidate(plan=p, transforms=dict.fromkeys(p.consumers, "linear")) for p in plans]


if __name__ == "__main__":
    main()
