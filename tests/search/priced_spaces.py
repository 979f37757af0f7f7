"""Small spaces with prices and predicted losses, for the exact solver's tests."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from trex.architecture import Architecture, vit_encoder
from trex.hardware import Chip, MeasuredDevice, load_chip
from trex.hardware.measured import FEATURES, OUTSIDE, Profile
from trex.plan import Form, Layout
from trex.reuse.sizes import ParameterTable
from trex.search.budget import Budget
from trex.search.feasible import PricedSpace
from trex.search.predict import Losses, measured_pairs
from trex.search.space import SearchSpace

CHIP = load_chip("trex_fefet_32nm")
_INTERVAL = {"median": 1e-3, "low": 0.99e-3, "high": 1.01e-3}
#: a machine as `trex profile` might measure it; of whatever model a test has
MACHINE = MeasuredDevice(
    name="mine",
    forced=True,
    profile=Profile.model_validate({
        "model": "tiny", "architecture_sha256": "0" * 16, "runtime": "eager", "device": "cpu",
        "threads": 1, "dtype": "fp32", "batch": 8, "clock": "cpu", "rounds": 5,
        "coefficients": {
            OUTSIDE: 1e-5,
            **dict(zip(
                FEATURES, (1e-10, 8e-10, 6e-10, 1e-9, 1e-9, 2e-6, 3e-6, 2e-5), strict=True,
            )),
        },
        "original_s": 1e-3, "spread": 0.02, "machine": {}, "versions": {},
        "runs": [{"plan": "", "fitted": True, "latency_s": _INTERVAL, "ratio": _INTERVAL,
                  "predicted_s": 1e-3}],
    }),
)  # fmt: skip
FORMS: tuple[Form, ...] = (("output", "linear"), ("map", "mixed"), ("map", "average"))


@st.composite
def drawn_spaces(draw: Any, most: int = 3) -> SearchSpace:
    """Any space of few encoders and few tokens."""
    encoders, tokens = draw(st.integers(1, most)), draw(st.integers(4, 9))
    split = draw(st.integers(1, encoders))
    stages = tuple(int(i >= split) for i in range(encoders))
    chosen = st.lists(st.booleans(), min_size=encoders, max_size=encoders)
    may, merge, share = draw(chosen), draw(chosen), draw(chosen)
    protected = draw(st.integers(0, 1))
    reads_class = protected if draw(st.booleans()) else 0
    forms = draw(st.permutations(FORMS))[: draw(st.integers(1, 3))]
    merges, shares = draw(st.booleans()), draw(st.booleans())
    return SearchSpace(
        name="drawn",
        layout=Layout(
            stages=stages, tokens=tokens, protected=protected, class_tokens=protected,
            class_rows=reads_class,
        ),
        forms=tuple(forms),
        may_reuse=tuple(may[i] and i > 0 and stages[i] == stages[i - 1] for i in range(encoders)),
        max_run=draw(st.integers(1, 3)),
        max_reuse=draw(st.integers(0, 3)),
        source=draw(st.sampled_from(["nearest", "any"])),
        mixed=draw(st.booleans()),
        pairs=tuple((1, 2, 3) if of else () for of in merge) if merges else (),
        least_tokens=protected + draw(st.integers(1, 3)),
        shares=tuple((0.7, 0.4) if of else () for of in share) if shares else (),
        groups=draw(st.booleans()),
        class_rows=draw(st.booleans()),
    )  # fmt: skip


def priced_space(
    num_encoders: int,
    budget: dict[Any, str | None],
    *,
    space: SearchSpace | str = "any",
    overrides: dict[str, Any] | None = None,
    keep_tokens: bool = False,
    only: Any = None,
    accounting: Any = "full",
    chip: Chip | MeasuredDevice = CHIP,
    seed: int | None = None,
) -> PricedSpace:
    """A space of equal encoders; with a seed their MLPs differ."""
    rng = np.random.default_rng(seed or 0)
    widths = 64 * (rng.integers(1, 5, num_encoders) if seed else np.full(num_encoders, 2))
    layout = Layout(
        stages=(0,) * num_encoders, tokens=17, protected=1, class_tokens=1, class_rows=1
    )
    if isinstance(space, SearchSpace):
        layout = space.layout
    model = Architecture(
        model="tiny",
        body=tuple(
            replace(
                vit_encoder(i, tokens=layout.tokens, dim=64, heads=2, mlp_hidden=int(width)),
                stage=layout.stages[i],
            )
            for i, width in enumerate(widths)
        ),
        layout=layout,
    )
    if not isinstance(space, SearchSpace):
        space = SearchSpace.load(space, model, overrides, only=only, keep_tokens=keep_tokens)
    # Here a consumer may have more parameters than a producer, which the solver must not mind.
    counts = rng.integers(100, 1000, (num_encoders, 1 + len(space.forms)))
    return PricedSpace.of(
        model,
        chip,
        accounting,
        space,
        Budget.parse(budget),
        ParameterTable(fixed=100, by_form=counts, own_class=np.ones_like(counts)),
    )


def near_triples(rng: np.random.Generator, encoders: int) -> np.ndarray:
    """Random losses of three consumers that are at most four encoders apart, a third of them."""
    triples = np.zeros((encoders,) * 3)
    for of in itertools.combinations(range(encoders), 3):
        if of[-1] - of[0] <= 4 and rng.random() < 1 / 3:
            triples[of] = rng.exponential(0.5)
    return triples


def random_losses(priced: PricedSpace, seed: int, digits: int | None = None) -> Losses:
    """Losses like those of real plans; of few digits, so that many plans lose the same."""
    rng, space = np.random.default_rng(seed), priced.space
    encoders = space.num_encoders
    choice = np.zeros((encoders, space.width))
    reference = rng.lognormal(-1, 1, encoders)
    for encoder, of in enumerate(space.choices):
        for number, one in enumerate(of):
            if one.form:
                source = encoder - 1 if one.source < 0 else one.source
                far = 1 + 0.5 * (encoder - source - 1)
                better = 0.6 if space.forms[one.form - 1][0] == "map" else 1.0
                choice[encoder, number] = (
                    reference[encoder] * far * better * rng.lognormal(-0.5, 0.4)
                )
    square = (encoders, encoders)
    pairs = measured_pairs(space)
    shares = max(space.shares, key=len) if space.shares_rows else ()
    tables = {
        "choice": choice,
        "reference": reference,
        "merged": np.cumsum(rng.exponential(0.05, (encoders, len(pairs))), axis=1),
        "shared": np.cumsum(rng.exponential(0.02, (encoders, len(shares))), axis=1),
        "added": np.triu(rng.exponential(0.2, square), 1),
        "triples": near_triples(rng, encoders),
    }
    if digits is not None:
        tables = {name: np.round(table, digits) for name, table in tables.items()}
    return Losses(space=space, pairs=pairs, shares=shares, correlation=(0.2, 0.3, 0.1), **tables)
