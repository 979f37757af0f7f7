"""How often a variant agrees with its original, with Wilson's interval."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from trex.search.agreement import Agreement
from trex.store.record import Measured


def measured(agreement: float, n: int) -> Measured:
    return Measured(
        loss=1.0, agreement=agreement, soft_agreement=0.5, top1=None, baseline_top1=None, n=n
    )


@pytest.mark.parametrize(("agreeing", "n"), [(0, 6), (1, 7), (45, 50), (397, 400), (400, 400)])
def test_the_interval_is_wilsons(agreeing: int, n: int) -> None:
    found = Agreement.of(measured(agreeing / n, n))
    expected = binomtest(agreeing, n).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert 0 <= found.low <= found.share <= found.high <= 1


def test_below_nine_in_ten_it_is_far() -> None:
    assert Agreement.of(measured(0.8999, 100)).far
    assert not Agreement.of(measured(0.9, 10)).far


def test_in_words() -> None:
    assert str(Agreement.of(measured(0.9, 400))) == ("90.0 % (95 % interval 86.7 to 92.6)")
