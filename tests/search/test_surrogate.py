from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from trex.search.space import SearchSpace
from trex.search.surrogate import Surrogate, build, probes

FORM = ("output", "linear")
SPACE = SearchSpace(
    name="tiny",
    forms=(FORM,),
    may_reuse=(False, True, True, False, True, True),
    stages=(0,) * 6,
    max_run=6,
    max_reuse=6,
)


def mask(*consumers: int) -> np.ndarray:
    row = np.zeros((1, 6), dtype=bool)
    row[0, list(consumers)] = True
    return row


def measured(space: SearchSpace = SPACE) -> dict[tuple[int, ...], float]:
    losses = np.random.default_rng(0).random(100)
    return {consumers: losses[i] for i, (consumers, _) in enumerate(probes(space, FORM))}


def test_probes_are_every_consumer_and_every_pair() -> None:
    free = (1, 2, 4, 5)
    found = dict(probes(SPACE, FORM))
    assert list(found) == [(i,) for i in free] + list(itertools.combinations(free, 2))
    for consumers, candidate in found.items():
        assert candidate.plan.consumers == consumers
        assert set(candidate.transforms.values()) == {"linear"}


def test_probes_stay_within_the_space() -> None:
    alone = replace(SPACE, max_reuse=1)
    assert all(len(consumers) == 1 for consumers, _ in probes(alone, FORM))
    assert list(probes(replace(SPACE, max_reuse=0), FORM)) == []
    apart = replace(SPACE, max_run=1)
    assert {(1, 2), (4, 5)} == set(dict(probes(SPACE, FORM))) - set(dict(probes(apart, FORM)))


def test_what_was_measured_is_predicted_exactly() -> None:
    losses = measured()
    surrogate = build(SPACE, FORM, losses)
    for consumers, loss in losses.items():
        assert surrogate.predict(mask(*consumers)) == pytest.approx(loss)
    assert surrogate.predict(mask()) == [0.0]


def test_larger_plans_add_what_pairs_lose_beyond_their_singles() -> None:
    losses = measured()
    surrogate = build(SPACE, FORM, losses)
    singles = sum(losses[(i,)] for i in (1, 4, 5))
    pairs = sum(
        losses[pair] - losses[pair[:1]] - losses[pair[1:]] for pair in ((1, 4), (1, 5), (4, 5))
    )
    assert surrogate.predict(mask(1, 4, 5)) == pytest.approx(singles + pairs)
    together = np.concatenate([mask(1, 4, 5), mask(2), mask()])
    assert surrogate.predict(together).tolist() == pytest.approx(
        [float(surrogate.predict(row[None])[0]) for row in together]
    )


def test_it_survives_json_to_the_last_bit() -> None:
    surrogate = build(SPACE, FORM, measured())
    again = Surrogate.from_json(json.loads(json.dumps(surrogate.as_json())))
    assert again.form == surrogate.form
    assert (again.single == surrogate.single).all()
    assert (again.interaction == surrogate.interaction).all()
