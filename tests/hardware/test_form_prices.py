"""What each form of reuse costs and saves, operation by operation."""

from __future__ import annotations

import numpy as np
import pytest
from hardware_models import DEIT_S, FORMS

from trex.hardware import SCHEDULES, CostTable, load_chip, price, workload
from trex.plan import REUSED_TENSORS, Plan

CHIP = load_chip("trex_fefet_32nm")


def shares(plan: str, transform: str, accounting: str = "full") -> dict[tuple[str, str], tuple]:
    """(energy, latency, area) of encoder 3 by operation and component, nothings left out.

    So is leakage, which grows with everybody's latency.
    """
    cost = price(workload(DEIT_S, Plan.parse(plan, transform)), CHIP, accounting)
    found: dict[tuple[str, str], list[float]] = {}
    for share in cost.shares:
        if share.layer.startswith("blocks.3.") and share.component != "leakage":
            sums = found.setdefault((share.layer[9:], share.component), [0.0, 0.0, 0.0])
            for i, value in enumerate((share.energy_j, share.latency_s, share.area_m2)):
                sums[i] += value
    return {key: tuple(sums) for key, sums in found.items() if any(sums)}


def test_a_map_consumer_still_computes_and_writes_its_values() -> None:
    own, reused = shares("", "none", "paper"), shares("3<-2:map", "linear", "paper")
    gone = {layer for layer, _ in own.keys() - reused.keys()}
    assert gone == {"attn.q", "attn.k", "attn.scores", "attn.softmax"}
    assert all(own[key] == pytest.approx(reused[key]) for key in reused)
    writes = {layer for (layer, component) in reused if component == "array_write"}
    assert writes == {"attn.context"}


@pytest.mark.parametrize("tensor", REUSED_TENSORS)
def test_an_own_linear_term_is_one_more_square_matrix(tensor: str) -> None:
    plain, own = shares(f"3<-2:{tensor}", "linear"), shares(f"3<-2:{tensor}", "linear_own")
    assert all(own[key] == pytest.approx(plain[key]) for key in plain)
    added = {layer for layer, _ in own.keys() - plain.keys()}
    norm = {"norm1"} if tensor == "output" else set()  # what reuses the map has it anyway
    assert added == {"transform.linear", "transform.residual", *norm}
    for component in {c for layer, c in own if layer == "transform.linear"}:
        # d × d, as the projection
        assert own["transform.linear", component] == pytest.approx(own["attn.proj", component])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_encoders_prices_add_up_to_the_plans(schedule: str) -> None:
    table = CostTable(DEIT_S, CHIP, "full", FORMS, schedule=schedule)
    random = np.random.default_rng(0)
    rows = random.integers(0, len(FORMS) + 1, (50, 12))
    costs, none = table.price(rows), np.zeros(50, dtype=np.intp)
    parts = [table.encoder(i, rows[:, i], none, none, none, none) for i in range(12)]
    energy_j, area_m2, leakage_w, latency_s, macs = sum(parts) + table.outside(
        np.full(50, DEIT_S.layout.tokens)
    )
    assert table.whole_latency == (schedule != "pipelined")
    assert area_m2 == pytest.approx(costs.area_m2)
    assert energy_j + leakage_w * costs.latency_s == pytest.approx(costs.energy_j)
    assert macs == pytest.approx(costs.macs)
    if table.whole_latency:
        assert latency_s == pytest.approx(costs.latency_s)
    else:
        assert (latency_s < costs.latency_s).all()
