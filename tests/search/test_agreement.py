"""How often a variant agrees with its original, with Wilson's interval."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from trex.search.agreement import Agreement


@pytest.mark.parametrize(("agreeing", "n"), [(0, 6), (1, 7), (45, 50), (397, 400), (400, 400)])
def test_the_interval_is_wilsons(agreeing: int, n: int) -> None:
    found = Agreement.of({"agreement": agreeing / n, "n": n})
    expected = binomtest(agreeing, n).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert 0 <= found.low <= found.share <= found.high <= 1


def test_below_nine_in_ten_it_is_far() -> None:
    assert Agreement.of({"agreement": 0.8999, "n": 100}).far
    assert not Agreement.of({"agreement": 0.9, "n": 10}).far


def test_the_best_plan_is_as_it_was_measured_last() -> None:
    fitted, refined = {"agreement": 0.8, "n": 10}, {"agreement": 0.9, "n": 10}
    assert Agreement.of_best({"selection": fitted}).share == 0.8
    assert Agreement.of_best({"selection": fitted, "refined": refined}).share == 0.9


def test_in_words() -> None:
    assert str(Agreement.of({"agreement": 0.9, "n": 400})) == (
        "90.0 % (95 % interval 86.7 to 92.6)"
    )
