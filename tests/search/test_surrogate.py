from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from trex.plan import Plan
from trex.search.space import SearchSpace
from trex.search.surrogate import REACH, Surrogate, build, probes

FORM = ("output", "linear")
NEAREST = SearchSpace(
    name="nearest",
    forms=(FORM,),
    may_reuse=(False, True, True, False, True, True, True, True, True),
    stages=(0,) * 9,
    max_run=9,
    max_reuse=9,
)
ANY = replace(
    NEAREST,
    name="any",
    source="any",
    mixed=True,
    forms=(("output", "none"), FORM, ("map", "linear")),
)
SPACES = pytest.mark.parametrize("space", [NEAREST, ANY], ids=lambda space: space.name)


def measured(space: SearchSpace) -> dict[str, float]:
    """A made-up loss for every probe; most lose more than their parts."""
    rng = np.random.default_rng(0)
    return {c.key: float(rng.random()) * c.n_reuse**3 for c in probes(space)}


def row(space: SearchSpace, plan: str | Plan) -> np.ndarray:
    parsed = Plan.parse(plan) if isinstance(plan, str) else plan
    return space.choices().row(parsed)[None]


def nearest(*consumers: int) -> Plan:
    return Plan.nearest(consumers)


def test_probes_are_singles_near_pairs_and_near_triples() -> None:
    found = {candidate.consumers for candidate in probes(NEAREST)}
    free = (1, 2, 4, 5, 6, 7, 8)
    sets = [of for size in (1, 2, 3) for of in itertools.combinations(free, size)]
    assert found == {of for of in sets if of[-1] - of[0] <= REACH}
    assert {(1,), (2, 6), (4, 6, 8), (4, 5, 6)} < found
    assert found.isdisjoint({(2, 7), (1, 4, 6), (4, 5, 6, 7)})
    assert len(probes(NEAREST)) == len(found)
    assert all(c == nearest(*c.consumers) for c in probes(NEAREST))


def test_other_forms_and_sources_are_probed_alone() -> None:
    more = {c.key: c for c in probes(ANY)}.keys() - {c.key for c in probes(NEAREST)}
    others = [c for c in probes(ANY) if c.key in more]
    assert {c.n_reuse for c in others} == {1}
    assert len(others) == len(more) == 2 * 7 + sum(i - 1 for i in (2, 4, 5, 6, 7, 8))


@SPACES
def test_probes_stay_within_the_space(space: SearchSpace) -> None:
    assert all(c.n_reuse == 1 for c in probes(replace(space, max_reuse=1)))
    assert probes(replace(space, max_reuse=0)) == []
    apart = probes(replace(space, max_run=1))
    assert {(1, 2), (4, 5)}.isdisjoint(c.consumers for c in apart)
    assert (4, 6) in {c.consumers for c in apart}
    for candidate in probes(space):
        space.choices().row(candidate)


@SPACES
def test_what_was_measured_is_predicted_exactly(space: SearchSpace) -> None:
    losses = measured(space)
    surrogate = build(space, losses)
    for candidate in probes(space):
        predicted = surrogate.predict(space.choices().row(candidate)[None])
        if candidate.n_reuse < 3:
            assert predicted == pytest.approx(losses[candidate.key])
        else:  # three may lose more than their pairs say, not less
            assert predicted >= losses[candidate.key] - 1e-9
    assert surrogate.predict(np.zeros((1, 9), dtype=int)) == [0.0]


def test_larger_plans_add_what_near_pairs_lose_beyond_their_singles() -> None:
    losses = {c.key: float(c.n_reuse**2) for c in probes(NEAREST)}
    surrogate = build(NEAREST, losses)
    # 1 and 8 are out of each other's reach: what they do together is not known
    assert surrogate.predict(row(NEAREST, nearest(1, 4, 8))) == pytest.approx(3 * 1 + 2 * 2)


def test_an_error_is_corrected_only_once() -> None:
    losses = {c.key: {1: 1.0, 2: 1.5, 3: 2.0}[c.n_reuse] for c in probes(NEAREST)}
    surrogate = build(NEAREST, losses)
    assert surrogate.predict(row(NEAREST, nearest(2, 4, 6))) == pytest.approx(3 - 2 * 0.5)


def test_a_choice_loses_what_its_form_and_its_source_add() -> None:
    losses = measured(ANY)
    surrogate = build(ANY, losses)
    of_form, of_source, alone = (
        losses[Plan.parse(plan).key] for plan in ("4<-3:map", "4<-1", "4<-3")
    )
    predicted = surrogate.predict(row(ANY, "4<-1:map"))
    assert predicted == pytest.approx(of_form + of_source - alone)


def test_sources_do_not_matter_where_all_are_the_nearest() -> None:
    losses = measured(NEAREST)
    surrogate = build(NEAREST, losses)
    assert surrogate.predict(row(NEAREST, nearest(4, 5))) == pytest.approx(
        losses[nearest(4, 5).key]
    )


@SPACES
def test_it_survives_json_to_the_last_bit(space: SearchSpace) -> None:
    surrogate = build(space, measured(space))
    again = Surrogate.from_json(json.loads(json.dumps(surrogate.as_json())))
    assert again.form == surrogate.form
    for name in ("single", "added", "corrected", "triples"):
        assert (getattr(again.terms, name) == getattr(surrogate.terms, name)).all()
    assert (again.alone == surrogate.alone).all()
