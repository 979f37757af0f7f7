"""Controllers and the queue's simulation, by laws and by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from small_dynamic import point

from trex.errors import BudgetError, DataError
from trex.runtime import BudgetController, QueueController
from trex.runtime.simulate import (
    Load,
    Service,
    bursty,
    compare_policies,
    recorded,
    simulate,
    verdict,
)

#: latencies 3.2, 4.8 and 7.2 ms
POINTS = [point(name) for name in ("cheap", "middle", "dear")]


def test_down_at_once_and_up_after_patience() -> None:
    controller = BudgetController(POINTS, margin=0.1, patience=3)
    assert controller.plan == "cheap"
    assert [controller.update(0.010) for _ in range(4)] == ["cheap", "cheap", "dear", "dear"]
    assert controller.update(0.005) == "middle"
    # enough for the dear plan, but not with a tenth to spare
    assert [controller.update(0.0075) for _ in range(4)] == ["middle"] * 4
    assert controller.update(0.001) == "cheap"
    # one low budget among the last three holds it down
    given = (0.010, 0.010, 0.0054, 0.010, 0.010, 0.010)
    assert [controller.update(of) for of in given] == [
        "cheap", "cheap", "middle", "middle", "middle", "dear",
    ]  # fmt: skip
    assert controller.switches == 5


def test_budgets_that_flicker_do_not_make_it_flicker() -> None:
    eager = BudgetController(POINTS, margin=0.0, patience=1)
    calm = BudgetController(POINTS)
    for number in range(100):
        budget = 0.010 if number % 2 else 0.004
        assert eager.update(budget) == ("dear" if number % 2 else "cheap")
        assert calm.update(budget) == "cheap"
    assert eager.switches == 99
    assert calm.switches == 0


def test_a_queue_of_requests_is_a_budget_each() -> None:
    controller = QueueController(POINTS, 0.0288, patience=1)
    assert controller.update(1) == "dear"
    assert controller.update(5) == "middle"
    assert controller.update(9) == "cheap"
    assert controller.update(100) == "cheap"


@pytest.mark.parametrize("wrong", [{"margin": -1.0}, {"patience": 0}])
def test_senseless_controllers_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(BudgetError):
        BudgetController(POINTS, **wrong)  # type: ignore[arg-type]
    with pytest.raises(BudgetError):
        BudgetController([])
    with pytest.raises(BudgetError):
        QueueController(POINTS, 0.0)


SERVICES = {
    "slow": Service(latency_s=2.0, energy_j=3.0, accuracy=0.9),
    "fast": Service(latency_s=1.0, energy_j=1.0, accuracy=0.5),
}


def test_a_queue_worked_by_hand() -> None:
    # 0 runs 0-2; 0.5 runs 2-4, late (its deadline is 3.5); 0.6 is given up at 4; 10 runs 10-12
    load = Load(arrivals_s=(0.0, 0.5, 0.6, 10.0), deadline_s=3.0, origin="hand")
    slow = simulate(load, lambda waiting: "slow", SERVICES, name="slow")
    assert (slow.requests, slow.served, slow.missed, slow.switches) == (4, 2, 2, 0)
    assert slow.energy_j == 9.0
    assert slow.accuracy == pytest.approx(0.9)
    assert slow.right == pytest.approx(0.45)
    fast = simulate(load, lambda waiting: "fast", SERVICES, name="fast")
    assert (fast.served, fast.energy_j) == (4, 4.0)
    # the queue is told how many wait, the next one counted
    asked: list[int] = []

    def policy(waiting: int) -> str:
        asked.append(waiting)
        return "fast" if waiting > 1 else "slow"

    mixed = simulate(load, policy, SERVICES, name="mixed")
    assert asked == [1, 2, 1, 1]
    # 0 runs 0-2, 0.5 runs 2-3, 0.6 runs 3-5: late, 10 runs 10-12
    assert (mixed.served, mixed.switches) == (3, 2)
    assert mixed.shares == {"slow": 0.75, "fast": 0.25}
    assert mixed.accuracy == pytest.approx((0.9 + 0.5 + 0.9) / 3)


def test_the_controller_serves_bursts_that_the_dearest_plan_cannot() -> None:
    load = bursty(POINTS, requests=4000, seed=0)
    assert list(load.arrivals_s) == sorted(load.arrivals_s)
    assert load == bursty(POINTS, requests=4000, seed=0)
    assert load != bursty(POINTS, requests=4000, seed=1)
    services = {
        of.name: Service(
            latency_s=of.cost("latency"), energy_j=of.cost("energy"), accuracy=accuracy
        )
        for of, accuracy in zip(POINTS, (0.6, 0.7, 0.75), strict=True)
    }
    *fixed, controller = compare_policies(load, POINTS, services)
    assert [of.policy for of in fixed] == ["cheap", "middle", "dear"]
    for of in (*fixed, controller):
        assert of.served + of.missed == of.requests == 4000
        assert math.isclose(sum(of.shares.values()), 1.0)
    assert controller.served > fixed[2].served
    assert controller.accuracy > fixed[0].accuracy
    assert f"serves {controller.served} of 4000" in verdict([*fixed, controller])


def test_recorded_arrivals(tmp_path: Path) -> None:
    file = tmp_path / "arrivals.txt"
    file.write_text("0\n0.5\n2\n")
    assert recorded(file, 1.0).arrivals_s == (0.0, 0.5, 2.0)
    for wrong in ("", "1\n0\n", "one\n", "nan\n", "0\ninf\n"):
        file.write_text(wrong)
        with pytest.raises(DataError):
            recorded(file, 1.0)
    with pytest.raises(DataError):
        recorded(tmp_path / "none", 1.0)
