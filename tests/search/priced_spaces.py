"""Small spaces with prices and predicted losses, for the exact solver's tests."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from trex.architecture import Architecture, vit_encoder
from trex.hardware import Chip, load_chip
from trex.plan import Layout
from trex.reuse.sizes import ParameterTable
from trex.search.budget import Budget
from trex.search.feasible import PricedSpace
from trex.search.space import SearchSpace
from trex.search.terms import LossTerms

CHIP = load_chip("trex_fefet_32nm")


def priced_space(
    num_encoders: int,
    budget: dict[Any, str | None],
    *,
    space: SearchSpace | None = None,
    accounting: Any = "full",
    chip: Chip = CHIP,
    seed: int | None = None,
) -> PricedSpace:
    """A space, `any` if none is given, of equal encoders; with a seed their MLPs differ."""
    rng = np.random.default_rng(seed or 0)
    widths = 64 * (rng.integers(1, 5, num_encoders) if seed else np.full(num_encoders, 2))
    model = Architecture(
        model="tiny",
        body=tuple(
            vit_encoder(i, tokens=17, dim=64, heads=2, mlp_hidden=int(width))
            for i, width in enumerate(widths)
        ),
        layout=Layout(stages=(0,) * num_encoders, tokens=17, protected=1, class_rows=1),
    )
    space = space or SearchSpace.load("any", model)
    # Here a consumer may have more parameters than a producer, which the solver must not mind.
    counts = rng.integers(100, 1000, (num_encoders, 1 + len(space.forms)))
    return PricedSpace.of(
        model,
        chip,
        accounting,
        space,
        Budget.parse(budget),
        ParameterTable(fixed=100, by_form=counts),
    )


def near_triples(rng: np.random.Generator, encoders: int) -> np.ndarray:
    """Random losses of three consumers that are at most four encoders apart, a third of them."""
    triples = np.zeros((encoders,) * 3)
    for of in itertools.combinations(range(encoders), 3):
        if of[-1] - of[0] <= 4 and rng.random() < 1 / 3:
            triples[of] = rng.exponential(0.5)
    return triples


def random_terms(priced: PricedSpace, seed: int, digits: int | None = None) -> LossTerms:
    """Losses like those of real consumers; of few digits, so that many plans lose the same."""
    rng, choices = np.random.default_rng(seed), priced.choices
    encoders = choices.num_encoders
    single = np.zeros((encoders, choices.width))
    for encoder, of in enumerate(choices.of):
        base = rng.lognormal(-1, 1)
        for number, choice in enumerate(of):
            if choice is not None:
                far = 1 + 0.5 * (encoder - choice.source - 1)
                better = 0.6 if choice.tensor == "map" else 1.0
                single[encoder, number] = base * far * better * rng.lognormal(-0.5, 0.4) - 0.05
    square = (encoders, encoders)
    tables = {
        "single": single,
        "added": np.triu(rng.exponential(0.2, square), 1),
        "corrected": np.triu(rng.exponential(0.1, square) * (rng.random(square) < 0.5), 1),
        "triples": near_triples(rng, encoders),
    }
    if digits is not None:
        tables = {name: np.round(table, digits) for name, table in tables.items()}
    return LossTerms(**tables)
