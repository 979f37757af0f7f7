"""How well predicted losses rank plans before they are fitted.

    python benchmarks/rank.py --calib IMAGES [--weights FILE] [--class-map FILE]
        --store losses.jsonl [--bf16] [--plans 64] [--mixed 36] [--surrogate FILE]

Fits and measures the probes of the space `default`, and random plans of 3, 5 and 7 consumers that
are no probes, and prints Spearman's correlation between predicted and measured losses, of the
shipped prediction and of simpler ones. Then the same for plans that mix forms and sources. Losses
are kept in --store; run again, it measures what is missing. With --surrogate it also measures the
probes of the space `any` and writes what is predicted from them, for `form_prices.py`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
from collections.abc import Callable, Container, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from measured import Measured, add_arguments
from rank_correlation import rank_correlation

from trex.models.registry import architecture_of
from trex.plan import Plan
from trex.search.predict import Floats, Losses, build, probes
from trex.search.space import SearchSpace

COUNTS = (3, 5, 7)
#: the forms that mixed plans choose from
MIXTURE = {"tensors": ["output", "map"], "transforms": ["linear", "linear_own"]}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--fit-images", type=int, default=120)
    parser.add_argument("--select-images", type=int, default=80)
    parser.add_argument("--plans", type=int, default=64, help="random ones of each count")
    parser.add_argument("--mixed", type=int, default=36, help="random plans that mix forms")
    parser.add_argument("--surrogate", type=Path, metavar="FILE", help="of every form; written")
    args = parser.parse_args()
    measured = Measured(args, args.fit_images, args.select_images)
    nearest = space_of(measured, "default")
    known = {probe.key for probe in probes(nearest)}
    targets = {n: random_plans(nearest.num_encoders, n, args.plans, known) for n in COUNTS}
    measured.measure([*probes(nearest), *itertools.chain(*targets.values())])
    print(f"{measured.describe()}; {len(known)} probes, plans of each count:", end="")
    print(*(f" {n}: {len(of)}" for n, of in targets.items()), sep=",")
    losses = predicted(measured, nearest)
    print(f"{'Spearman, nearest output, linear':<34}", *(f"{n:>14}" for n in COUNTS))
    for name, predict in predictions(losses).items():
        ranks = [correlation(measured, targets[n], predict) for n in COUNTS]
        print(f"{name:<34}", *(f"{rank:>14}" for rank in ranks))
    if args.mixed:
        mixed(measured, args.mixed)
    if args.surrogate:
        every = space_of(measured, "any")
        measured.measure(probes(every))
        args.surrogate.write_text(json.dumps(predicted(measured, every).as_json()))


def predicted(measured: Measured, space: SearchSpace) -> Losses:
    """What a space's plans are predicted to lose, from its measured probes."""
    return build(space, {plan.key: measured.loss(plan) for plan in probes(space)})


def mixed(measured: Measured, count: int) -> None:
    """The same for plans of any source, whose consumers differ in form."""
    space = space_of(measured, "any", MIXTURE)
    each, rng = count // len(COUNTS), np.random.default_rng(0)
    targets = {}
    for n in COUNTS:
        draws = space_of(measured, "any", {**MIXTURE, "max_reuse": n}).draw(rng, 100 * each)
        of_n = np.unique(draws[(draws > 0).sum(axis=1) == n], axis=0)
        targets[n] = [space.plan(row) for row in rng.permutation(of_n)[:each]]
    measured.measure([*probes(space), *itertools.chain(*targets.values())])
    losses = predicted(measured, space)
    print(f"{'Spearman, any source, mixed forms':<34}", *(f"{n:>14}" for n in (*COUNTS, "all")))
    every = [*itertools.chain(*targets.values())]
    for name, predict in predictions(losses).items():
        ranks = [correlation(measured, of, predict) for of in (*targets.values(), every)]
        print(f"{name:<34}", *(f"{rank:>14}" for rank in ranks))


def space_of(
    measured: Measured, name: str, overrides: dict[str, Any] | None = None
) -> SearchSpace:
    """A shipped space for the measured model."""
    loaded = measured.loaded
    return SearchSpace.load(name, architecture_of(loaded.model, loaded.name), overrides)


def random_plans(
    num_encoders: int, n_reuse: int, count: int, without: Container[str] = ()
) -> list[Plan]:
    """Different random plans of the nearest source, output, linear; none of the keys `without`."""
    every, rng = [*itertools.combinations(range(1, num_encoders), n_reuse)], random.Random(1)
    drawn = rng.sample(every, min(count, len(every)))
    rest = [consumers for consumers in every if consumers not in drawn]
    rng.shuffle(rest)
    plans = (Plan.nearest(consumers) for consumers in drawn + rest)
    return [*itertools.islice((plan for plan in plans if plan.key not in without), count)]


def predictions(losses: Losses) -> dict[str, Callable[[Sequence[Plan]], Floats]]:
    """The shipped prediction, and what is left of it without its parts."""
    no_pairs, no_triples = np.zeros_like(losses.added), np.zeros_like(losses.triples)
    in_a_row = np.zeros_like(losses.triples)
    i = np.arange(len(in_a_row) - 2)
    in_a_row[i, i + 1, i + 2] = losses.triples[i, i + 1, i + 2]
    simpler = {
        "own losses added": replace(losses, added=no_pairs, triples=no_triples, correlation=0.0),
        "and their correlation": replace(losses, added=no_pairs, triples=no_triples),
        "and pairs": replace(losses, triples=no_triples),
        "and three in a row": replace(losses, triples=in_a_row),
        "and all near triples (shipped)": losses,
    }

    def predicting(by: Losses) -> Callable[[Sequence[Plan]], Floats]:
        return lambda plans: by.predict(np.stack([by.space.row(plan) for plan in plans]))

    return {name: predicting(of) for name, of in simpler.items()}


def correlation(
    measured: Measured,
    plans: Sequence[Plan],
    predict: Callable[[Sequence[Plan]], Floats],
) -> str:
    """Spearman's correlation, with its 95 % interval over plans."""
    losses = np.array([measured.loss(plan) for plan in plans])
    found = rank_correlation(predict(plans), losses)
    return f"{found.rank:.2f} {found.low:.2f}-{found.high:.2f}"


if __name__ == "__main__":
    main()
