"""How long commands take that read a run of many candidates, and how large its page is.

    python benchmarks/report_speed.py [--candidates 10000]

The run is made up: plans of DeiT-Tiny on the FeFET chip, priced as a search prices them, with
losses drawn at random. Seconds are of processor time (what the work takes) and of the clock (what
a user waits, which other work on the machine lengthens), for a fresh process with its imports.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from trex.hardware import CostTable, load_chip
from trex.models.registry import architecture
from trex.plan import Plan
from trex.store.operations import store_architecture
from trex.store.run import SCHEMA, Run

MODEL, CHIP = "deit_tiny_patch16_224", "trex_fefet_32nm"


def write_run(path: Path, candidates: int, seed: int = 0) -> None:
    """A finished run."""
    rng = np.random.default_rng(seed)
    chip, model = load_chip(CHIP), architecture(MODEL)
    encoders = len(model.encoders)
    table = CostTable(model, chip, "paper", [("output", "linear")])
    masks = rng.random((candidates, encoders)) < 0.5
    masks[:, 0] = False
    costs = table.price(np.concatenate([np.zeros((1, encoders)), masks]).astype(np.intp))

    def estimate(row: int) -> dict[str, object]:
        return {
            "chip": CHIP,
            "accounting": "paper",
            "latency_s": float(costs.latency_s[row]),
            "energy_j": float(costs.energy_j[row]),
            "area_m2": float(costs.area_m2[row]),
            "edap_mj_ms_mm2": float(costs.edap_mj_ms_mm2[row]),
        }

    path.mkdir()
    settings = {
        "model": MODEL, "model_args": {"num_classes": None, "img_size": None}, "chip": CHIP,
        "chip_sha256": chip.fingerprint, "weights_sha256": "made up", "accounting": "paper",
        "space": {"may_reuse": [i > 0 for i in range(encoders)]}, "budget": "latency <= 2x",
        "calibration_sha256": "made up", "search": {"seed": seed},
    }  # fmt: skip
    manifest = {
        "schema": SCHEMA, "settings": settings, "command": ["made", "up"], "versions": {},
        "calibration": "none", "calibration_images": 0, "space_size": candidates,
        "feasible": candidates, "baseline": estimate(0), "layout": asdict(model.layout),
    }  # fmt: skip
    (path / "manifest.json").write_text(json.dumps(manifest))
    store_architecture(Run(path), model)
    with (path / "results.jsonl").open("w") as file:
        for row, mask in enumerate(masks, start=1):
            plan = Plan.nearest(np.flatnonzero(mask).tolist())
            predicted = 0.05 * plan.n_reuse**2 * float(rng.lognormal(0, 0.3))
            loss = predicted * float(rng.lognormal(0, 0.2)) + 1e-3
            record = {
                "schema": SCHEMA, "key": f"madeup{row}", "plan": str(plan),
                "n_reuse": plan.n_reuse, "transform": "linear",
                "estimate": estimate(row), "predicted_loss": predicted,
                "selection": {
                    "loss": loss, "agreement": float(np.exp(-loss)),
                    "soft_agreement": float(np.exp(-loss)),
                    "top1": 0.8 * float(np.exp(-loss)), "baseline_top1": 0.8, "n": 400,
                },
            }  # fmt: skip
            file.write(json.dumps(record) + "\n")


def timed(*words: str) -> tuple[float, float, str]:
    """A command in a fresh process: seconds of processor time and of the clock, and its answer."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "trex.cli", *words, "--json"]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    waited = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime, waited, answer


def appended(path: Path, count: int = 200) -> float:
    """Seconds of processor time to add a record and look it up, as a search does."""
    run = Run(path)
    (first, *_), started = run.records(), time.process_time()
    for number in range(count):
        run.append(first.model_copy(update={"key": f"more{number}"}))
        assert run.record(f"more{number}") is not None
    return (time.process_time() - started) / count


def main() -> None:
    """Make a run, read it in every way, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, default=5000)
    args = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}")
    print(f"{args.candidates:,} candidates; seconds of processor time, and waited")
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        write_run(run, args.candidates)
        for words in (("runs", "list", folder), ("runs", "show", str(run)), ("report", str(run))):
            spent, waited, answer = timed(*words)
            print(f"{' '.join(words[:-1]):<16}{spent:>8.1f}{waited:>8.1f}")
        page = Path(json.loads(answer)["page"])
        print(f"the page        {page.stat().st_size / 1e6:>8.2f} MB")
        print(f"one more record {1e3 * appended(run):>8.2f} ms")


if __name__ == "__main__":
    main()
