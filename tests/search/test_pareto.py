from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trex.search.pareto import pareto_front

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
