from __future__ import annotations

from typing import Any

from made_up_runs import estimate, record

from trex.report.sketch import front_sketch
from trex.store.schemas import Summary


def result(*points: tuple[float, float]) -> Summary:
    """A search whose plans have these EDAP gains and losses; the first is the winner."""

    def short(gain: float, loss: float) -> dict[str, Any]:
        price = {**estimate(1.0), "edap_mj_ms_mm2": 100 / gain}
        return {**record([3], loss), "estimate": price}

    front = [short(*point) for point in points]
    return Summary.model_validate({
        "model": "m", "chip": "c", "accounting": "paper", "budget": "", "strategy": "exact",
        "baseline": {**estimate(1.0), "edap_mj_ms_mm2": 100.0}, "best": front[0],
        "pareto": front, "front": {"points": [], "hypervolume": 0.0, "knee": None},
        "proof": None, "candidates": {"space": 9, "feasible": 9, "evaluated": len(front)},
    })  # fmt: skip


def test_marks_stand_where_the_numbers_say() -> None:
    lines = front_sketch(result((2.0, 0.1), (3.0, 1.0), (4.0, 10.0)))
    assert max(map(len, lines)) <= 100
    top, bottom = lines[1], lines[10]
    assert top == "  10 |" + " " * 59 + "o"
    assert bottom == " 0.1 |*"
    middle = [line for line in lines[2:10] if "o" in line]
    assert [line.index("o") - line.index("|") for line in middle] == [1 + 30]
    assert lines[-2].split() == ["2.00x", "EDAP", "gain", "4.00x"]


def test_too_few_or_equal_points_are_no_front() -> None:
    assert front_sketch(result((2.0, 0.1), (3.0, 1.0))) == []
    assert front_sketch(result((2.0, 0.1), (2.0, 0.1), (2.0, 0.1))) == []
    assert front_sketch(result((2.0, 0.1), (2.0, 0.2), (2.0, 0.3))) == []
    assert front_sketch(result((1.0, 0.0), (2.0, 0.2), (3.0, 0.3))) == []
