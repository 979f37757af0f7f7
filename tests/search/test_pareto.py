from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trex.search.pareto import hypervolume, knee, pareto_front

# few values, so that ties and equal rows are common
objectives = st.integers(1, 3).flatmap(
    lambda columns: arrays(
        np.float64, st.tuples(st.integers(0, 12), st.just(columns)), elements=st.integers(0, 4)
    )
)


def beats(one: np.ndarray, other: np.ndarray) -> bool:
    return bool((one <= other).all() and (one < other).any())


@given(objectives)
def test_nothing_kept_is_beaten(rows: np.ndarray) -> None:
    kept = pareto_front(rows)
    assert not any(beats(row, rows[k]) for k in kept for row in rows)


@given(objectives)
def test_everything_dropped_is_beaten_or_equal_to_an_earlier_row(rows: np.ndarray) -> None:
    kept = pareto_front(rows).tolist()
    for dropped in set(range(len(rows))) - set(kept):
        assert any(
            beats(rows[k], rows[dropped]) or (k < dropped and (rows[k] == rows[dropped]).all())
            for k in kept
        )


@given(objectives)
def test_rows_are_kept_once_and_in_order_of_the_first_column(rows: np.ndarray) -> None:
    kept = pareto_front(rows)
    assert len(np.unique(rows[kept], axis=0)) == len(kept)
    assert (np.diff(rows[kept, 0]) >= 0).all()
    assert bool(len(kept)) == bool(len(rows))


def test_by_hand() -> None:
    rows = np.array([[3.0, 1.0], [1.0, 3.0], [2.0, 2.0], [2.0, 2.0], [3.0, 3.0], [1.0, 4.0]])
    assert pareto_front(rows).tolist() == [1, 2, 0]


@given(objectives, st.integers(1, 5))
def test_the_hypervolume_counts_what_is_beaten(rows: np.ndarray, reference: int) -> None:
    columns = rows.shape[1]
    cells = np.array(list(itertools.product(range(reference), repeat=columns)))
    # a unit cell is beaten as a whole or not at all: results lie on its corners
    beaten = (rows[:, None] <= cells).all(axis=2).any(axis=0)
    found = hypervolume(rows, np.full(columns, float(reference)))
    assert found == pytest.approx(beaten.sum())


@given(arrays(np.float64, (7, 4), elements=st.integers(0, 3)))
def test_the_hypervolume_of_four_objectives(rows: np.ndarray) -> None:
    cells = np.array(list(itertools.product(range(4), repeat=4)))
    beaten = (rows[:, None] <= cells).all(axis=2).any(axis=0)
    assert hypervolume(rows, np.full(4, 4.0)) == pytest.approx(beaten.sum())


def test_only_what_is_below_the_reference_counts() -> None:
    reference = np.array([2.0, 2.0])
    assert hypervolume(np.array([[1.0, 1.0], [0.5, 3.0], [2.0, 0.0]]), reference) == 1.0
    assert hypervolume(np.array([[2.0, 0.0]]), reference) == 0.0
    assert hypervolume(np.empty((0, 2)), reference) == 0.0


def test_the_knee_by_hand() -> None:
    front = np.array([[1.0, 100.0], [2.0, 30.0], [3.0, 20.0], [5.0, 0.0]])
    # scaled: (0, 1), (0.25, 0.3), (0.5, 0.2), (1, 0)
    assert knee(front) == 1
    assert knee(front * [7.0, 0.01]) == 1  # units do not matter
    assert knee(front[:2]) is None
    assert knee(np.array([[0.0, 2.0], [1.0, 1.0], [2.0, 0.0]])) is None  # straight
    assert knee(np.array([[0.0, 2.0], [1.0, 1.9], [2.0, 0.0]])) is None  # bulging
    assert knee(np.array([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]])) is None


@given(arrays(np.float64, (40, 2), elements=st.integers(0, 30)))
def test_nothing_lies_further_below_the_chord_than_the_knee(rows: np.ndarray) -> None:
    front = rows[pareto_front(rows)]
    at = knee(front)
    if at is None:
        return
    low, high = front.min(axis=0), front.max(axis=0)
    height = ((front - low) / (high - low)).sum(axis=1)
    assert height[at] == height.min() < 1
