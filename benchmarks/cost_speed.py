"""How fast the cost model is, on one core. Prints a table; nothing is written.

    python benchmarks/cost_speed.py

(a) distinct layers a second; (b) every nearest-producer plan of a 12- and a 16-encoder model;
(c) a model's forward on a chip that errs (`nonideal_speed.py`, which takes flags of its own).
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import itertools
import platform
import time
from collections.abc import Callable
from functools import partial

import nonideal_speed
import numpy as np

from trex.architecture import Architecture, Operation, vit_encoder
from trex.hardware import SCHEDULES, CostTable, load_chip, price_layers

LAYERS = 200_000
REPEATS = 5


def vit(name: str, depth: int, mlp_hidden: int) -> Architecture:
    """DeiT-S's and LV-ViT-S's encoders, a patch embedding and a head."""
    stem = Operation(
        name="patch_embed", kind="static_matmul", part="stem",
        vectors=196, in_features=768, out_features=384,
    )  # fmt: skip
    head = Operation(
        name="head", kind="static_matmul", part="head",
        vectors=1, in_features=384, out_features=1000,
    )  # fmt: skip
    encoders = (
        vit_encoder(i, tokens=197, dim=384, heads=6, mlp_hidden=mlp_hidden) for i in range(depth)
    )
    return Architecture(model=name, body=(stem, *encoders, head))


def best_s(run: Callable[[], object]) -> float:
    """The shortest of a few runs: the others waited for something else."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def distinct_layers() -> None:
    """(a): layers of random shapes, all at once."""
    random = np.random.default_rng(0)
    vectors, heights, widths = random.integers(1, 4000, (3, LAYERS))
    print(f"{'(a) distinct layers, full accounting':<44} {'layers/s':>12}")
    for name in ("trex_fefet_32nm", "neurosim_sram_22nm"):
        run = partial(
            price_layers,
            load_chip(name),
            vectors=vectors,
            in_features=heights,
            out_features=widths,
        )
        print(f"    {name:<40} {LAYERS / best_s(run):>12,.0f}")


def all_plans() -> None:
    """(b): the table of encoders, then every nearest-producer plan from it."""
    head = f"{'(b) all nearest-producer plans':<44} {'plans':>12}"
    print(f"{head} {'table (ms)':>11} {'plans (ms)':>11}")
    chip = load_chip("trex_fefet_32nm")
    for model in (vit("deit_s", 12, 1536), vit("lvvit_s", 16, 1152)):
        depth = len(model.encoders)
        plans = np.array([(0, *rest) for rest in itertools.product((0, 1), repeat=depth - 1)])
        forms = [("output", "block")]
        for accounting, schedules in (("paper", SCHEDULES[:1]), ("full", SCHEDULES)):
            for schedule in schedules:
                build = partial(CostTable, model, chip, accounting, forms, schedule=schedule)
                price = partial(build().price, plans)
                label = f"    {model.model}, {accounting}, {schedule}"
                print(
                    f"{label:<44} {len(plans):>12,} {best_s(build) * 1e3:>11.2f} "
                    f"{best_s(price) * 1e3:>11.2f}"
                )


def main() -> None:
    """Measure and print."""
    print(
        f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}, "
        f"one thread, best of {REPEATS}\n"
    )
    distinct_layers()
    print()
    all_plans()
    print("\n(c) fast non-ideal forward")
    nonideal_speed.main()


if __name__ == "__main__":
    main()
