"""Switching plans under load: is every answer the separate model's, and what does a switch take?

    python benchmarks/dynamic_switching.py DYNAMIC [--switches 10000] [--threads 4]

DYNAMIC is what `trex dynamic` wrote. The references are separate modules: the original with one
plan applied to a copy of its own, and that plan's tensors loaded into it. Threads then share one
dynamic model. Each draws a plan and an image at random for every call and names the plan in the
call; before it, every thread also switches the active plan, which calls of other threads must not
notice. Answers are compared bit by bit. The last part runs in one thread: it switches with
`set_plan`, calls without a name, and times the switches alone.
"""

from __future__ import annotations

import argparse
import random
import statistics
import threading
import time
from pathlib import Path

import torch
from torch import Tensor, nn

import trex
from trex.runtime.dynamic import DynamicModel

#: random images, each a batch of one
_IMAGES = 16


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dynamic", type=Path)
    parser.add_argument("--switches", type=int, default=10_000, help="in all threads together")
    parser.add_argument("--threads", type=int, default=4)
    args = parser.parse_args()
    torch.set_num_threads(1)
    loaded = trex.load(args.dynamic)
    if not isinstance(loaded, DynamicModel):
        parser.error(f"{args.dynamic} is no dynamic bundle")
    model = loaded.eval()
    shape = (1, *model.base.default_cfg["input_size"])  # type: ignore[index]
    images = [
        torch.randn(shape, generator=torch.Generator().manual_seed(i)) for i in range(_IMAGES)
    ]
    expected = references(args.dynamic, images)
    started = time.monotonic()
    wrong = under_load(model, images, expected, args.switches // args.threads, args.threads)
    seconds = time.monotonic() - started
    calls = args.switches // args.threads * args.threads
    print(f"{len(model.plans)} plans ({', '.join(model.plans)}), torch {torch.__version__}")
    print(f"{calls} random switches and calls from {args.threads} threads in {seconds:.0f} s: "
          f"{wrong} answers differ from the separate models'")  # fmt: skip
    wrong, switches = alone(model, images, expected)
    print(f"{len(switches)} switches of one thread, each followed by a call without a name: "
          f"{wrong} differ; a switch takes {1e6 * statistics.median(switches):.1f} µs (median), "
          f"{1e6 * max(switches):.0f} µs at most")  # fmt: skip


def references(folder: Path, images: list[Tensor]) -> dict[str, list[Tensor]]:
    """Every plan's answers, from modules that share nothing with another plan's."""
    found = {}
    for name in trex.load(folder).plans:  # type: ignore[union-attr]
        again = trex.load(folder)  # nothing of it is shared with another plan's module
        assert isinstance(again, DynamicModel)
        separate: nn.Module = again.eval().variant(name)
        with torch.no_grad():
            found[name] = [separate(image) for image in images]
    return found


def under_load(
    model: DynamicModel,
    images: list[Tensor],
    expected: dict[str, list[Tensor]],
    calls: int,
    threads: int,
) -> int:
    """How many answers differ, of `calls` a thread."""
    wrong = [0] * threads

    def work(number: int) -> None:
        rng = random.Random(number)
        with torch.no_grad():
            for _ in range(calls):
                name, at = rng.choice(model.plans), rng.randrange(len(images))
                model.set_plan(rng.choice(model.plans))
                answer = model(images[at], plan=name)
                wrong[number] += not torch.equal(answer, expected[name][at])

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(wrong)


def alone(
    model: DynamicModel, images: list[Tensor], expected: dict[str, list[Tensor]]
) -> tuple[int, list[float]]:
    """How many answers of the active plan differ, and the seconds of every switch."""
    rng, wrong, seconds = random.Random(0), 0, []
    with torch.no_grad():
        for _ in range(500):
            name, at = rng.choice(model.plans), rng.randrange(len(images))
            started = time.perf_counter()
            model.set_plan(name)
            seconds.append(time.perf_counter() - started)
            wrong += not torch.equal(model(images[at]), expected[name][at])
    return wrong, seconds


if __name__ == "__main__":
    main()
