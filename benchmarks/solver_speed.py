"""How fast the exact solver proves its optimum, and that its two large methods agree.

    python benchmarks/solver_speed.py [--encoders 12 16 24] [--count 32] [--milp]
        [--surrogate RUN/surrogate.json] [--space any]

The space is, by default, the largest there is: any earlier source, output or map, every transform,
by consumer. Predicted losses are random but like measured ones (a consumer's own loss grows with
the distance of its source, near pairs and triples lose more than their parts), or those a search
in this space measured. Encoders have DeiT-Tiny's shape. Seconds are processor time on one thread,
everything included: bounds of all sets of consumers, the best plans and the proof. With --milp the
best plan is also found, and proved, as a mixed-integer programme, which takes much longer.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from trex.architecture import Architecture, vit_encoder
from trex.hardware import load_chip
from trex.models.registry import create
from trex.reuse.sizes import ParameterTable, parameter_table
from trex.search.budget import Budget
from trex.search.exact import solve
from trex.search.feasible import PricedSpace
from trex.search.space import SearchSpace
from trex.search.surrogate import Surrogate
from trex.search.terms import LossTerms

BUDGETS = (
    {"latency": "0.63x"},
    {"edap": "0.5x"},
    {"energy": "0.85x", "area": "0.9x", "params": "0.92x"},
)
#: the most seconds the solver is meant to take, by encoders
TARGETS_S = {12: 1, 16: 5, 24: 60}


def main() -> None:
    """Solve and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoders", type=int, nargs="+", default=[12, 16, 24])
    parser.add_argument("--count", type=int, default=32, help="best plans wanted")
    parser.add_argument("--surrogate", type=Path, help="measured losses, for as many encoders")
    parser.add_argument("--space", default="any", help="what the surrogate's search was in")
    parser.add_argument("--milp", action="store_true", help="the best plan by both methods")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print(
        f"{'encoders':>8} {'plans':>9}  {'budget':<45} {'seconds':>8} {'target':>6} proved  best"
    )
    for encoders in args.encoders:
        for budget in BUDGETS:
            priced = priced_space(encoders, budget, args.space)
            terms = terms_of(priced, args)
            start = time.process_time()
            found = solve(priced, terms, args.count, method="consumer sets")
            seconds = time.process_time() - start
            print(
                f"{encoders:>8} {priced.space.size:>9.1e}  {priced.budget!s:<45} {seconds:>8.2f} "
                f"{TARGETS_S.get(encoders, ''):>6} {found.proved!s:<6} {found.losses[0]:.6f}"
            )
            if args.milp:
                start = time.process_time()
                other = solve(priced, terms, 1, method="milp")
                seconds = time.process_time() - start
                print(
                    f"{'':>18}  {'the best as a programme':<45} {seconds:>8.2f} {'':>6} "
                    f"{other.proved!s:<6} {other.losses[0]:.6f}"
                )
                assert abs(other.losses[0] - found.losses[0]) < 1e-5 or not other.proved


def priced_space(encoders: int, budget: dict[str, str], name: str) -> PricedSpace:
    """A shipped space for DeiT-Tiny of so many encoders, on a shipped chip."""
    model = Architecture(
        model=f"deit_tiny of {encoders} encoders",
        body=tuple(
            vit_encoder(i, tokens=197, dim=192, heads=3, mlp_hidden=768) for i in range(encoders)
        ),
    )
    space = SearchSpace.load(name, model)
    counted = parameter_table(create("deit_tiny_patch16_224", device="meta"), space.forms)
    parameters = ParameterTable(
        fixed=counted.fixed, by_form=np.repeat(counted.by_form[:1], encoders, axis=0)
    )
    chip = load_chip("trex_fefet_32nm")
    return PricedSpace.of(model, chip, "full", space, Budget.parse(budget), parameters)


def terms_of(priced: PricedSpace, args: argparse.Namespace) -> LossTerms:
    """Measured losses, or random ones."""
    if args.surrogate:
        terms = Surrogate.from_json(json.loads(args.surrogate.read_text())).terms
        if len(terms.single) != priced.space.num_encoders:
            raise SystemExit(f"{args.surrogate} is of {len(terms.single)} encoders")
        return terms
    return random_terms(priced, args.seed)


def random_terms(priced: PricedSpace, seed: int) -> LossTerms:
    """Losses in the ranges measured on DeiT-Tiny (docs/search.md)."""
    rng, encoders = np.random.default_rng(seed), priced.space.num_encoders
    tensors = {"output": 1.0, "map": 0.55}
    transforms = {"none": 3.0, "linear": 1.0, "block": 1.1, "linear_own": 0.9}
    single = np.zeros((encoders, priced.choices.width))
    for encoder, of in enumerate(priced.choices.of):
        alone = rng.lognormal(-2, 0.7) * (3 if encoder < 3 else 1)
        for number, choice in enumerate(of):
            if choice is not None:
                far = 1 + 0.4 * (encoder - choice.source - 1)
                form = tensors[choice.tensor] * transforms[choice.transform]
                single[encoder, number] = alone * far * form * rng.lognormal(0, 0.15)
    added, corrected = np.zeros((2, encoders, encoders))
    triples = np.zeros((encoders,) * 3)
    for pair in itertools.combinations(range(encoders), 2):
        apart = pair[1] - pair[0]
        if rng.random() < 0.6:
            added[pair] = rng.exponential(0.2) / apart
        else:
            corrected[pair] = rng.exponential(0.05) / apart
    for triple in itertools.combinations(range(encoders), 3):
        if triple[2] - triple[0] <= 4 and rng.random() < 0.5:
            triples[triple] = rng.exponential(0.1)
    return LossTerms(single=single, added=added, corrected=corrected, triples=triples)


if __name__ == "__main__":
    main()
