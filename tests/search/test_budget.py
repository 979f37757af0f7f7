from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trex.errors import BudgetError
from trex.search.budget import QUANTITIES, Budget, Limit, format_cost, values
from trex.search.costs import VariantCosts


def costs(*latencies_s: float, energy_j: float = 2e-3, area_m2: float = 5e-4) -> VariantCosts:
    latency = np.array(latencies_s)
    return VariantCosts(
        latency_s=latency,
        energy_j=np.full_like(latency, energy_j),
        area_m2=np.full_like(latency, area_m2),
        interval_s=latency,
        parameters=np.full_like(latency, 4e6),
        macs=1e11 * latency,
    )


ORIGINAL = costs(0.010)


@pytest.mark.parametrize(
    ("quantity", "text", "value", "relative"),
    [
        ("latency", "9ms", 0.009, False),
        ("latency", " 9 ms ", 0.009, False),
        ("latency", "0.6x", 0.6, True),
        ("latency", ".6 x", 0.6, True),
        ("latency", "2x", 2.0, True),
        ("energy", "0.1mJ", 1e-4, False),
        ("area", "600mm2", 6e-4, False),
        ("edap", "484mJ*ms*mm2", 4.84e-10, False),
        ("edap", "0.5x", 0.5, True),
        ("params", "4M", 4e6, False),
        ("params", "4200000", 4.2e6, False),
        ("macs", "800 M", 8e8, False),
        ("macs", "1.1G", 1.1e9, False),
        ("macs", "0.9x", 0.9, True),
    ],
)
def test_limits_by_hand(quantity, text: str, value: float, relative: bool) -> None:
    limit = Limit.parse(quantity, text)
    assert limit.value == pytest.approx(value)
    assert limit.relative is relative
    assert limit.absolute(10.0) == pytest.approx(10 * value if relative else value)
    assert Limit.parse(quantity, str(limit)).value == pytest.approx(value)


@pytest.mark.parametrize(
    ("quantity", "text", "message"),
    [
        ("latency", "9", "--max-latency '9' has no unit"),
        ("latency", "9mJ", "--max-latency '9mJ' has the unknown unit 'mJ'"),
        ("energy", "9ms", "--max-energy '9ms' has the unknown unit 'ms'"),
        ("latency", "0.6X", "--max-latency '0.6X' has the unknown unit 'X'"),
        ("latency", "60%", "--max-latency '60%' has the unknown unit '%'"),
        ("latency", "fast", "--max-latency 'fast' is not a number"),
        ("latency", "", "--max-latency '' is not a number"),
        ("latency", "nan", "is not a number"),
        ("latency", "x", "is not a number"),
        ("area", "-0.6x", "unknown unit 'x'"),
        ("latency", "0ms", "--max-latency 0ms is not above zero"),
        ("latency", "-9ms", "--max-latency -9ms is not above zero"),
        ("edap", "0x", "--max-edap 0x is not above zero"),
        ("params", "4ms", "--max-params '4ms' has the unknown unit 'ms'"),
        ("macs", "0", "--max-macs 0 is not above zero"),
    ],
)
def test_bad_limits_name_their_flag(quantity, text: str, message: str) -> None:
    with pytest.raises(BudgetError) as caught:
        Limit.parse(quantity, text)
    assert message in caught.value.message
    assert caught.value.hint


def test_a_budget_needs_a_limit() -> None:
    with pytest.raises(BudgetError, match="no budget was given"):
        Budget.parse(dict.fromkeys(QUANTITIES))


@given(st.lists(st.floats(1e-4, 0.02), min_size=1), st.floats(0.01, 2.0))
def test_relative_is_absolute_of_the_original(latencies: list[float], share: float) -> None:
    plans = costs(*latencies)
    relative = Budget.parse({"latency": f"{share!r}x"}).feasible(plans, ORIGINAL)
    absolute = Budget.parse({"latency": f"{share * 0.010!r}s"}).feasible(plans, ORIGINAL)
    assert relative.tolist() == absolute.tolist()


@given(st.lists(st.floats(1e-4, 0.02), min_size=1), st.floats(1e-3, 0.02))
def test_every_limit_must_hold(latencies: list[float], limit: float) -> None:
    plans = costs(*latencies)
    alone = Budget.parse({"latency": f"{limit!r}s"})
    assert alone.feasible(plans, ORIGINAL).tolist() == [
        latency <= limit * (1 + 1e-9) for latency in latencies
    ]
    assert (
        Budget.parse({"latency": f"{limit!r}s", "energy": "2mJ"})
        .feasible(plans, ORIGINAL)
        .tolist()
        == alone.feasible(plans, ORIGINAL).tolist()
    )
    assert (
        not Budget.parse({"latency": f"{limit!r}s", "energy": "1.9mJ"})
        .feasible(plans, ORIGINAL)
        .any()
    )


def test_a_plan_at_its_limit_is_within_it() -> None:
    rounded = costs(0.009 * (1 + 1e-12), 0.009 * (1 + 1e-6))
    assert Budget.parse({"latency": "9ms"}).feasible(rounded, ORIGINAL).tolist() == [True, False]
    assert Budget.parse({"latency": "1x"}).feasible(ORIGINAL, ORIGINAL).all()


def test_parameters_and_products_are_limits_like_the_others() -> None:
    plans = costs(0.010, 0.005)
    for budget, expected in (
        ({"params": "4M"}, [True, True]),
        ({"params": "3.9M"}, [False, False]),
        ({"macs": "0.5x"}, [False, True]),
        ({"macs": "1G", "latency": "5ms", "params": "1x"}, [False, True]),
    ):
        assert Budget.parse(budget).feasible(plans, ORIGINAL).tolist() == expected


def test_nothing_fits_names_the_nearest_plan_and_its_gap() -> None:
    budget = Budget.parse({"latency": "4ms", "energy": "1x", "params": "3M"})
    error = budget.nothing_fits("1<-0", costs(0.005), ORIGINAL, 1234)
    assert error.exit_code == 3
    assert 'none of 1,234 plans fits the budget; the nearest is "1<-0"' in error.message
    assert "latency 5 ms (allowed 4 ms, +25.0%)" in error.message
    assert "energy 2 mJ (allowed 2 mJ, +0.0%)" in error.message
    assert "params 4 M (allowed 3 M, +33.3%)" in error.message
    assert error.hint


def test_a_plan_overruns_by_its_worst_limit() -> None:
    plans = VariantCosts(
        latency_s=np.array([0.004, 0.006]),
        energy_j=np.array([4e-3, 2.4e-3]),
        area_m2=np.array([5e-4, 5e-4]),
        interval_s=np.array([0.004, 0.006]),
        parameters=np.full(2, 4e6),
        macs=np.full(2, 1e9),
    )
    budget = Budget.parse({"latency": "4ms", "energy": "2mJ"})
    assert budget.overrun(plans, ORIGINAL) == pytest.approx([2.0, 1.5])


def test_edap_is_the_product() -> None:
    plans = costs(0.010, 0.005)
    assert values(plans, "edap") == pytest.approx(
        values(plans, "energy") * values(plans, "latency") * values(plans, "area")
    )
    assert format_cost("edap", float(values(plans, "edap")[0])) == "10000 mJ*ms*mm2"


def test_a_budget_in_words() -> None:
    budget = Budget.parse({"latency": "0.6x", "energy": None, "area": "600mm2"})
    assert str(budget) == "latency <= 0.6x, area <= 600 mm²"
