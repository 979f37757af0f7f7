from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trex.errors import PlanError
from trex.plan import Plan, Reuse
from trex.search.terms import Choices, LossTerms

FORMS = (("output", "linear"), ("map", "linear_own"))


def choices(num_encoders: int) -> Choices:
    """Any earlier source, two forms."""
    return Choices(
        of=tuple(
            (None, *(Reuse(i, s, *form) for s in reversed(range(i)) for form in FORMS))
            for i in range(num_encoders)
        ),
        forms=FORMS,
    )


def triples_of(table: np.ndarray) -> np.ndarray:
    """The table with zeros wherever i < j < k does not hold."""
    i, j, k = np.indices(table.shape)
    return np.where((i < j) & (j < k), table, 0.0)


def terms(num_encoders: int, width: int, seed: int = 0) -> LossTerms:
    rng = np.random.default_rng(seed)
    square = (num_encoders, num_encoders)
    single = rng.normal(size=(num_encoders, width))
    single[:, 0] = 0.0
    return LossTerms(
        single=single,
        added=np.triu(rng.random(square), 1),
        corrected=np.triu(rng.random(square), 1),
        triples=triples_of(rng.random((num_encoders,) * 3)),
    )


def test_rows_and_plans_are_one_to_one() -> None:
    found = choices(4)
    seen = set()
    for row in itertools.product(*(range(len(of)) for of in found.of)):
        picked = [found.of[i][n] for i, n in enumerate(row)]
        if any(c is not None and picked[c.source] is not None for c in picked):
            with pytest.raises(PlanError, match="itself a consumer"):
                found.plan(row)
            continue
        plan = found.plan(row)
        assert found.row(plan).tolist() == list(row)
        seen.add(plan.key)
    # by hand, a consumer after p producers having 2p choices: of the plans of three encoders
    # 4 have one producer, 6 two, 1 three
    assert len(seen) == 4 * (1 + 2) + 6 * (1 + 4) + 1 * (1 + 6)


def test_rows_as_form_numbers() -> None:
    found = choices(3)
    rows = np.array([[0, 0, 0], [0, 1, 0], [0, 2, 4], [0, 0, 1]])
    assert found.row_forms(rows).tolist() == [[0, 0, 0], [0, 1, 0], [0, 2, 2], [0, 0, 1]]
    assert found.sources()[2].tolist() == [-1, 1, 1, 0, 0]


def test_what_is_not_in_the_space_has_no_row() -> None:
    found = choices(3)
    for plan in ("2<-1:map/linear", "2<-0:output/linear_own", "3<-2", "1~4", "2=class"):
        with pytest.raises(PlanError, match=f'"{plan}" is not in the search space'):
            found.row(Plan.parse(plan))


@given(st.lists(st.integers(0, 6), min_size=6, max_size=6), st.integers(0, 5))
def test_a_prediction_is_the_sum_of_its_terms(row: list[int], seed: int) -> None:
    of = terms(6, 7, seed)
    row[0] = 0
    expected = 0.0
    for i, number in enumerate(row):
        expected += of.single[i, number]
        if number:
            later = [j for j in range(i + 1, 6) if row[j]]
            expected += sum(of.added[i, j] for j in later)
            expected -= max((of.corrected[i, j] for j in later), default=0.0)
            expected += sum(of.triples[i, j, k] for j, k in itertools.combinations(later, 2))
    together = of.predict(np.array([row, [0] * 6]))
    assert together == pytest.approx([expected, 0.0])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("single", np.ones((3, 2))),
        ("single", np.full((3, 2), np.nan)),
        ("added", np.ones((3, 3))),
        ("added", np.triu(-np.ones((3, 3)), 1)),
        ("corrected", np.triu(-np.ones((3, 3)), 1)),
        ("corrected", np.zeros((2, 2))),
        ("triples", np.ones((3, 3, 3))),
        ("triples", np.eye(9)[5].reshape(3, 3, 1) * [0, 0, -1]),
        ("triples", np.zeros((3, 3))),
    ],
)
def test_tables_that_are_not_terms_are_refused(field: str, value: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"zero|negative|unequal"):
        replace(terms(3, 2), **{field: value})
