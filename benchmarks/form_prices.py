"""What each form of reuse costs, and which is worth its crossbars.

    python benchmarks/form_prices.py [--model NAME] [--hw CHIP] [--accounting full]
        [--surrogate RUN/surrogate.json]

Prints what one consumer of each form costs, as a share of an encoder that computes its own
attention, and what five strided consumers save of the whole model. With the surrogate of a search
in the space `any`, also the least predicted loss (nats an image) that plans of one form alone, and
plans that mix them, reach at levels of EDAP, and the hypervolume of each front.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from trex.errors import InfeasibleError
from trex.hardware import load_chip
from trex.models.registry import architecture_of, create
from trex.plan import Plan
from trex.reuse.sizes import parameter_table
from trex.search.budget import Budget, values
from trex.search.costs import AREA, ENERGY, LATENCY, MACS, PARAMETERS
from trex.search.exact import solve
from trex.search.feasible import PricedSpace
from trex.search.pareto import hypervolume
from trex.search.space import SearchSpace
from trex.search.surrogate import Surrogate
from trex.search.terms import Choices, Floats, LossTerms

SUMS = {"latency": LATENCY, "energy": ENERGY, "area": AREA, "params": PARAMETERS, "MACs": MACS}
LEVELS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
#: of the hypervolume's reference, in nats an image
HIGHEST_LOSS = 5.0
#: everything that the space `any` holds
SPACE: dict[str, Any] = {}


def main() -> None:
    """Price and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="deit_tiny_patch16_224")
    parser.add_argument("--hw", default="trex_fefet_32nm")
    parser.add_argument("--accounting", default="full")
    parser.add_argument("--surrogate", type=Path)
    args = parser.parse_args()
    priced = priced_space(args, SPACE)
    print(f"{args.model} on {args.hw}, {args.accounting} accounting")
    print_prices(priced)
    if args.surrogate:
        terms = Surrogate.from_json(json.loads(args.surrogate.read_text())).terms
        print_fronts(args, terms, priced.choices)


def priced_space(args: argparse.Namespace, overrides: dict[str, Any]) -> PricedSpace:
    """The space `any` with some fields replaced, with prices."""
    model = create(args.model, device="meta")
    architecture = architecture_of(model, args.model)
    space = SearchSpace.load("any", architecture, overrides)
    return PricedSpace.of(
        architecture, load_chip(args.hw), args.accounting, space, Budget.parse({"edap": "1x"}),
        parameter_table(model, space.forms),
    )  # fmt: skip


def print_prices(priced: PricedSpace) -> None:
    """One consumer beside its producer, and five of them in the whole model."""
    strided = range(priced.space.num_encoders - 1, 0, -2)[:5]
    print("one consumer, of an encoder with its own attention" + " " * 12 + "five strided, of all")
    print(f"{'':<20}" + "".join(f"{name:>9}" for name in SUMS) + f"{'latency':>11}{'EDAP':>8}")
    for form in priced.space.forms:
        number = priced.space.forms.index(form) + 1
        shares = priced.pricer.by_form[:, 1, number] / np.maximum(
            priced.pricer.by_form[:, 1, 0], 1e-300
        )
        row = priced.choices.row(Plan.nearest(strided, *form))
        costs = priced.price(row[None])
        whole = [
            (values(costs, name) / values(priced.baseline, name))[0]
            for name in ("latency", "edap")
        ]
        print(
            f"{' '.join(form):<20}"
            + "".join(f"{shares[row]:>8.1%} " for row in SUMS.values())
            + f"{whole[0]:>9.1%}{whole[1]:>9.1%}"
        )


def print_fronts(args: argparse.Namespace, terms: LossTerms, choices: Choices) -> None:
    """Least predicted losses by levels of EDAP, of each form alone and of all together."""
    print("least predicted loss at levels of EDAP" + " " * 41 + "hypervolume")
    print(f"{'':<20}" + "".join(f"{level:>7.1f}x" for level in LEVELS))
    parts: dict[str, dict[str, Any]] = {"all, mixed": SPACE}
    for tensor, transform in choices.forms:
        parts[f"{tensor} {transform}"] = {"tensors": [tensor], "transforms": [transform]}
    for name, overrides in parts.items():
        priced = priced_space(args, overrides)
        own = replace(terms, single=singles(terms, choices, priced.choices))
        losses = [least_loss(priced, own, level) for level in LEVELS]
        volume = hypervolume(np.column_stack([LEVELS, losses]), np.array([1.0, HIGHEST_LOSS]))
        row = "".join(f"{loss:>8.3f}" if loss < np.inf else f"{'-':>8}" for loss in losses)
        print(f"{name:<20}{row}{volume:>12.3f}")


def singles(terms: LossTerms, choices: Choices, part: Choices) -> Floats:
    """The own losses of a part of the choices, in its order."""
    single = np.zeros((part.num_encoders, part.width))
    for encoder, of in enumerate(part.of):
        for number, choice in enumerate(of):
            single[encoder, number] = terms.single[encoder, choices.of[encoder].index(choice)]
    return single


def least_loss(priced: PricedSpace, terms: LossTerms, level: float) -> float:
    """That of the best plan; infinite where none fits."""
    try:
        limited = replace(priced, budget=Budget.parse({"edap": f"{level}x"}))
        return float(solve(limited, terms).losses[0])
    except InfeasibleError:
        return float("inf")


if __name__ == "__main__":
    main()
