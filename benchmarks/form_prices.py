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
from trex.search.feasible import PricedSpace
from trex.search.pareto import hypervolume
from trex.search.predict import Floats, Losses
from trex.search.solve import Solver
from trex.search.space import Choice, SearchSpace

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
        losses = Losses.from_json(json.loads(args.surrogate.read_text()), priced.space)
        print_fronts(args, losses)


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
    own, *forms = of_encoder(priced, 1)
    for form, consumer in zip(priced.space.forms, forms, strict=True):
        shares = consumer / np.maximum(own, 1e-300)
        row = priced.space.row(Plan.nearest(strided, *form))
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


def of_encoder(priced: PricedSpace, encoder: int) -> list[Floats]:
    """What an encoder costs with its own attention, and in every form from the one before it."""
    space = priced.space
    state = space.begin()
    for earlier in range(encoder):
        state = space.follow(earlier, state, np.zeros(1, dtype=np.intp))
    choices = [Choice(), *(Choice(f, encoder - 1) for f in range(1, 1 + len(space.forms)))]
    numbers = np.array([space.choices[encoder].index(choice) for choice in choices])
    states = state.take(np.zeros(len(numbers), dtype=np.intp))
    return [*priced.pricer.encoder(encoder, space.steps(encoder, states, numbers)).T]


def print_fronts(args: argparse.Namespace, losses: Losses) -> None:
    """Least predicted losses by levels of EDAP, of each form alone and of all together."""
    print("least predicted loss at levels of EDAP" + " " * 41 + "hypervolume")
    print(f"{'':<20}" + "".join(f"{level:>7.1f}x" for level in LEVELS))
    parts: dict[str, dict[str, Any]] = {"all, mixed": SPACE}
    for tensor, transform in losses.space.forms:
        parts[f"{tensor} {transform}"] = {"tensors": [tensor], "transforms": [transform]}
    for name, overrides in parts.items():
        priced = priced_space(args, overrides)
        choice = choice_losses(losses, priced.space)
        solver = Solver(priced, replace(losses, space=priced.space, choice=choice))
        found = [least_loss(solver, level) for level in LEVELS]
        volume = hypervolume(np.column_stack([LEVELS, found]), np.array([1.0, HIGHEST_LOSS]))
        row = "".join(f"{loss:>8.3f}" if loss < np.inf else f"{'-':>8}" for loss in found)
        print(f"{name:<20}{row}{volume:>12.3f}")


def choice_losses(losses: Losses, part: SearchSpace) -> Floats:
    """The own losses of a part of the space's choices, in its order."""
    whole = losses.space
    found = np.zeros((part.num_encoders, part.width))
    for encoder, of in enumerate(part.choices):
        for number, choice in enumerate(of):
            form = 1 + whole.forms.index(part.forms[choice.form - 1]) if choice.form else 0
            at = whole.choices[encoder].index(choice._replace(form=form))
            found[encoder, number] = losses.choice[encoder, at]
    return found


def least_loss(solver: Solver, level: float) -> float:
    """That of the best plan; infinite where none fits."""
    try:
        return float(solver.solve(Budget.parse({"edap": f"{level}x"})).losses[0])
    except InfeasibleError:
        return float("inf")


if __name__ == "__main__":
    main()
