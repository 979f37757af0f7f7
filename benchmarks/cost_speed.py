"""How fast the cost model is, on one core. Prints a table; nothing is written.

    python benchmarks/cost_speed.py

(a) distinct layers a second; (b) every nearest-producer plan of a 12- and a 16-encoder model, and
every plan of 5 merge levels in 8 encoders, alone, with every second encoder a consumer, and with
shared rows in all eight;
(c) a model's forward on a chip that errs (`nonideal_speed.py`, which takes flags of its own).

(a) and (b) are the process's CPU time, which other processes lengthen little; their ratios, to the
same work done one by one, hardly change with the machine or its load.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import itertools
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import nonideal_speed
import numpy as np
from numpy.typing import NDArray

from trex.architecture import Architecture, Operation, vit_encoder
from trex.hardware import (
    SCHEDULES,
    Chip,
    CostTable,
    PlanArrays,
    load_chip,
    price,
    price_layers,
    workload,
)
from trex.plan import Layout, Merge, Plan, Reuse, Rows

LAYERS = 200_000
REPEATS = 5
#: Layers, and plans, that are priced one by one for the ratios.
SINGLES = 20
#: Pairs that each of eight encoders of DeiT-S may merge: 390,625 plans.
LEVELS = (0, 4, 8, 12, 16)
MERGING = range(3, 11)
#: Rows that tokens may share there; any of them with any merges.
ROWS = (69, 49, 33, 17)


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
    layout = Layout(stages=(0,) * depth, tokens=197, protected=1, class_rows=1)
    return Architecture(model=name, body=(stem, *encoders, head), layout=layout)


def best_s(run: Callable[[], object]) -> float:
    """CPU seconds of the shortest of a few runs; the others shared the caches."""
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def distinct_layers() -> None:
    """(a): layers of random shapes, all at once and one by one."""
    random = np.random.default_rng(0)
    shapes = random.integers(1, 4000, (3, LAYERS))
    print(f"{'(a) distinct layers, full accounting':<44} {'layers/s':>12} {'one by one':>11}")
    for name in ("trex_fefet_32nm", "neurosim_sram_22nm"):
        chip = load_chip(name)
        each_s = best_s(partial(price_shapes, chip, shapes)) / LAYERS
        parts = np.split(shapes[:, :SINGLES], SINGLES, axis=1)
        single_s = best_s(lambda c=chip, p=parts: [price_shapes(c, s) for s in p]) / SINGLES
        print(f"    {name:<40} {1 / each_s:>12,.0f} {single_s / each_s:>10,.0f}x")


def price_shapes(chip: Chip, shapes: NDArray[np.int64]) -> None:
    """Price layers given as their vectors, inputs and outputs."""
    vectors, heights, widths = shapes
    price_layers(chip, vectors=vectors, in_features=heights, out_features=widths)


def all_plans() -> None:
    """(b): the table of encoders, then every nearest-producer plan from it, and a few singly."""
    head = f"{'(b) all nearest-producer plans':<44} {'plans':>12}"
    print(f"{head} {'table (ms)':>11} {'plans (ms)':>11} {'one by one':>11}")
    chip = load_chip("trex_fefet_32nm")
    for model in (vit("deit_s", 12, 1536), vit("lvvit_s", 16, 1152)):
        depth = len(model.encoders)
        plans = np.array([(0, *rest) for rest in itertools.product((0, 1), repeat=depth - 1)])
        random = np.random.default_rng(0)
        works = [
            workload(model, Plan.nearest(np.flatnonzero(row).tolist(), transform="block"))
            for row in random.choice(plans, SINGLES)
        ]
        forms = [("output", "block")]
        for accounting, schedules in (("paper", SCHEDULES[:1]), ("full", SCHEDULES)):
            for schedule in schedules:
                build = partial(CostTable, model, chip, accounting, forms, schedule=schedule)
                all_s = best_s(partial(build().price, plans))
                one = partial(price, chip=chip, accounting=accounting, schedule=schedule)
                single_s = best_s(lambda one=one, works=works: list(map(one, works))) / SINGLES
                ratio = single_s * len(plans) / all_s
                label = f"    {model.model}, {accounting}, {schedule}"
                print(
                    f"{label:<44} {len(plans):>12,} {best_s(build) * 1e3:>11.2f} "
                    f"{all_s * 1e3:>11.2f} {ratio:>10,.0f}x"
                )


def merge_schedules() -> None:
    """(b), goes on: every plan of some merge levels, the last encoder of class rows only."""
    head = f"{'    all plans of 5 merge levels, 8 encoders':<44} {'plans':>12}"
    print(f"{head} {'first (ms)':>11} {'plans (ms)':>11} {'plans/s':>11} {'one by one':>11}")
    model, chip = vit("deit_s", 12, 1536), load_chip("trex_fefet_32nm")
    form = ("output", "linear")
    whole = len(model.encoders)
    for label, plans in (
        ("", merging_arrays(whole, ())),
        (", 3 consume", merging_arrays(whole, (5, 7, 9))),
        (", 8 share rows", sharing_arrays(whole)),
    ):
        random = np.random.default_rng(0)
        works = [
            workload(model, plan_of(plans, row))
            for row in random.integers(len(plans), size=SINGLES).tolist()
        ]
        for accounting, schedules in (("paper", SCHEDULES[:1]), ("full", SCHEDULES)):
            for schedule in schedules:
                table = CostTable(model, chip, accounting, [form], schedule=schedule)
                start = time.process_time()
                table.price_plans(plans)  # prices every situation once
                first_s = time.process_time() - start
                all_s = best_s(partial(table.price_plans, plans))
                one = partial(price, chip=chip, accounting=accounting, schedule=schedule)
                single_s = best_s(lambda one=one, works=works: list(map(one, works))) / SINGLES
                print(
                    f"{f'    {accounting}, {schedule}{label}':<44} {len(plans):>12,} "
                    f"{first_s * 1e3:>11.0f} {all_s * 1e3:>11.0f} "
                    f"{len(plans) / all_s:>11,.0f} {single_s * len(plans) / all_s:>10,.0f}x"
                )


def merging_arrays(encoders: int, consumers: tuple[int, ...]) -> PlanArrays:
    """Every choice of pairs; each consumer reuses the encoder before it."""
    count = len(LEVELS) ** len(MERGING)
    pairs = np.zeros((count, encoders), dtype=np.int16)
    choices = np.indices((len(LEVELS),) * len(MERGING)).reshape(len(MERGING), -1)
    pairs[:, MERGING.start : MERGING.stop] = np.array(LEVELS)[choices.T]
    sources, forms = np.tile(np.arange(encoders, dtype=np.int8), (count, 1)), np.zeros_like(pairs)
    sources[:, consumers] = [encoder - 1 for encoder in consumers]
    forms[:, consumers] = 1
    class_rows = np.ones(count, dtype=np.bool_)
    return PlanArrays(forms=forms, sources=sources, pairs=pairs, class_rows=class_rows)


def sharing_arrays(encoders: int) -> PlanArrays:
    """Every choice of pairs, and random rows: some encoders take the groups of the one before."""
    plans = merging_arrays(encoders, ())
    random = np.random.default_rng(0)
    shared, taken = np.zeros_like(plans.pairs), np.zeros(plans.pairs.shape, dtype=np.bool_)
    for encoder in MERGING:
        shared[:, encoder] = random.choice(ROWS, len(plans))
        if encoder > MERGING.start:
            same = (plans.pairs[:, encoder - 1] == 0) & ~taken[:, encoder - 1]
            taken[:, encoder] = same & (random.random(len(plans)) < 0.5)
            shared[taken[:, encoder], encoder] = shared[taken[:, encoder], encoder - 1]
    return replace(plans, shared=shared, taken=taken)


def plan_of(plans: PlanArrays, row: int) -> Plan:
    """One of them."""
    consumers = np.flatnonzero(plans.forms[row]).tolist()
    rows = [Rows(len(plans.pairs[row]) - 1)]
    if plans.shared is not None and plans.taken is not None:
        for encoder in np.flatnonzero(plans.shared[row]).tolist():
            taken = bool(plans.taken[row, encoder])
            shared = 0 if taken else int(plans.shared[row, encoder])
            rows.append(Rows(encoder, shared, encoder - 1 if taken else None))
    return Plan(
        tuple(Reuse(consumer, consumer - 1) for consumer in consumers),
        tuple(Merge(encoder, int(pairs)) for encoder, pairs in enumerate(plans.pairs[row])),
        tuple(rows),
    )


def main() -> None:
    """Measure and print."""
    print(
        f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}, "
        f"one thread, CPU time, best of {REPEATS}\n"
    )
    distinct_layers()
    print()
    all_plans()
    merge_schedules()
    print("\n(c) fast non-ideal forward")
    nonideal_speed.main()


if __name__ == "__main__":
    main()
