"""What a second worker is worth, and what killing a search costs: nothing but time.

    python benchmarks/workers.py [--images 60] [--candidates 32] [--workers 2] [--kills 0]

Prints the candidates an hour of one worker with one thread and of several, for DeiT-Tiny's shape
with random weights (speed does not depend on them) and random plans of five consumers; each fits
and measures all of them, in turns, in folders of its own. With --kills, a search of a tiny model
is killed (SIGKILL) at so many random moments, each time in a new folder, resumed, and its records
compared with an undisturbed search's. The last column is what the processor times allow at most:
the ratio itself, where no other program wants the cores.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch

from trex.files import append_line, read_jsonl
from trex.fit.calibration import Calibration, FitSettings
from trex.fit.fitter import PlanFitter, Take
from trex.models.registry import adapter_of, create
from trex.plan import Plan
from trex.search.entries import plan_notes, plan_of_trial
from trex.search.storage import open_storage
from trex.search.study import Entry, Study
from trex.search.workers import Phase, Result, run_phase


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--candidates", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kills", type=int, default=0)
    args = parser.parse_args()
    speed(args.images, args.candidates, args.workers)
    if args.kills:
        kills(args.kills)


def speed(images: int, count: int, workers: int) -> None:
    """One worker against several."""
    torch.set_num_threads(1)
    model = create("deit_tiny_patch16_224")
    pixels = torch.randn(images, 3, 224, 224, generator=torch.Generator().manual_seed(0)).split(50)
    candidates = random_plans(count)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        calibration = Calibration(
            model, adapter_of(model), pixels, pixels[:1], settings=FitSettings(), scratch=folder
        )
        seconds: dict[int, float] = {}
        cpu: dict[int, float] = {}
        keys: dict[int, list[str]] = {}
        for number in (1, workers):
            run = folder / f"{number}"
            run.mkdir()
            started, used = time.perf_counter(), cpu_seconds()
            run_phase(phase(run, calibration, candidates), number)
            seconds[number] = time.perf_counter() - started
            cpu[number] = cpu_seconds() - used
            keys[number] = sorted(line["key"] for line in read_jsonl(run / "done.jsonl").records)
        calibration.close()
    assert keys[1] == keys[workers] == sorted(candidate.key for candidate in candidates)
    print(
        f"{count} candidates, {images} images, {os.cpu_count()} cores, load {os.getloadavg()[0]}"
    )
    print(
        f"{'workers, one thread each':<26}{'seconds':>9}{'candidates/h':>14}{'ratio':>7}"
        f"{'CPU seconds':>13}{'ratio if cores are free':>25}"
    )
    for number, taken in seconds.items():
        rate, ratio, most = count / taken * 3600, seconds[1] / taken, number * cpu[1] / cpu[number]
        print(
            f"{number:<26}{taken:>9.1f}{rate:>14,.0f}{ratio:>7.2f}{cpu[number]:>13.1f}{most:>25.2f}"
        )


def cpu_seconds() -> float:
    """Processor time of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(of.ru_utime + of.ru_stime for of in used)


def phase(folder: Path, calibration: Calibration, candidates: Sequence[Plan]) -> Phase:
    """Fitting and measuring, as a search does it."""

    def work(order: Sequence[Plan], take: Take) -> Iterator[Result]:
        for fitted in PlanFitter(calibration).fit(order, take):
            append_line(folder / "done.jsonl", json.dumps({"key": fitted.plan.key}))
            yield Result(fitted.plan.key, [float(fitted.logits.mean())], {})

    return Phase(
        name="candidates",
        total=len(candidates),
        entries=[Entry(key=c.key, choices={}, notes=plan_notes(c)) for c in candidates],
        open_study=lambda: Study(open_storage(None, folder, "speed"), "speed", ["mean"], {}),
        plan_of=plan_of_trial,
        prepare=lambda: None,
        known=lambda key: None,
        work=work,
    )


def random_plans(count: int) -> list[Plan]:
    """Random plans of five of twelve consumers."""
    rng = np.random.default_rng(0)
    plans: dict[Plan, None] = {}
    while len(plans) < count:
        consumers = rng.choice(np.arange(1, 12), size=5, replace=False)
        plans.setdefault(Plan.nearest(consumers.tolist()))
    return list(plans)


def kills(count: int) -> None:
    """Searches that are killed once each, against one that is not."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    from small_runs import results, write_inputs

    from trex.store.run import Run

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs = write_inputs(folder / "inputs")

        def search(out: str) -> list[str]:
            return [sys.executable, "-m", "trex", *inputs.search(folder / out, "--workers", "2")]

        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        started = time.perf_counter()
        subprocess.run(search("undisturbed"), check=True, **quiet)
        duration = time.perf_counter() - started
        expected = results(Run.open(folder / "undisturbed"))
        equal, recorded = 0, []
        for number in range(count):
            out = f"killed{number}"
            process = subprocess.Popen(search(out), **quiet)
            time.sleep(random.uniform(0.0, duration))
            process.send_signal(signal.SIGKILL)
            process.wait()
            file = folder / out / "results.jsonl"
            recorded.append(len(file.read_bytes().splitlines()) if file.exists() else 0)
            subprocess.run(search(out), check=True, **quiet)
            equal += results(Run.open(folder / out)) == expected
    print(
        f"{count} searches of 2 workers killed at random moments of {duration:.0f} s, when "
        f"{recorded} of {len(expected)} records were there:"
        f"\n{equal} ended with the records of an undisturbed search"
    )
    assert equal == count


if __name__ == "__main__":
    main()
