"""Prices of plans beside their workloads': on the chip, in parameters, in products."""

from __future__ import annotations

import numpy as np
import pytest
from priced_spaces import priced_space

from trex.architecture import Architecture, vit_encoder
from trex.errors import PlanError
from trex.hardware import load_chip, price, workload
from trex.plan import Layout, Plan
from trex.reuse.sizes import ParameterTable
from trex.search.costs import AREA, ENERGY, LATENCY, LEAKAGE, MACS, PARAMETERS, PlanPricer

CHIP = load_chip("trex_fefet_32nm")
FORMS = [("output", "linear"), ("output", "block"), ("map", "linear")]
MODEL = Architecture(
    model="tiny",
    body=tuple(vit_encoder(i, tokens=17, dim=64, heads=2, mlp_hidden=128) for i in range(5)),
    layout=Layout(stages=(0,) * 5, tokens=17, protected=1, class_rows=1),
)
SIZES = ParameterTable(fixed=7, by_form=np.arange(20).reshape(5, 4))
PLANS = ["", "2<-1", "1~4 3~2", "2<-1:map 1~4 4=class", "3<-0:output/block 0~8 4=class"]


@pytest.fixture(scope="module")
def pricer() -> PlanPricer:
    return PlanPricer(MODEL, CHIP, "full", FORMS, SIZES)


def test_given_plans_cost_what_their_workloads_cost(pricer: PlanPricer) -> None:
    plans = [Plan.parse(text) for text in PLANS]
    costs = pricer.price_plans(plans)
    for row, plan in enumerate(plans):
        work = workload(MODEL, plan)
        alone = price(work, CHIP, "full")
        assert costs.macs[row] == work.macs
        for field in ("latency_s", "energy_j", "area_m2", "edap_mj_ms_mm2"):
            assert getattr(costs, field)[row] == pytest.approx(getattr(alone, field), rel=1e-12)


def test_merging_and_class_rows_leave_every_parameter(pricer: PlanPricer) -> None:
    plans = [Plan.parse(text) for text in PLANS]
    reusing = [Plan(plan.reuses) for plan in plans]
    counts = pricer.price_plans(plans).parameters
    assert list(counts) == list(pricer.price_plans(reusing).parameters)
    producers = SIZES.by_form[:, 0].sum() + 7
    assert counts[0] == producers == pricer.baseline.parameters[0]
    assert counts[1] == producers + 1  # form 1 of encoder 2 has one more than form 0


def test_what_adds_up_over_encoders_is_the_whole_price() -> None:
    priced = priced_space(
        3, {"latency": "1x"}, space="joint", seed=4,
        overrides={"merging.step": 0.25, "merging.most": 0.5, "rows.shares": [0.5]},
    )  # fmt: skip
    rows = priced.space.draw(np.random.default_rng(0), 200)
    costs = priced.price(rows)
    walked = list(priced.space.walk(rows))
    steps = [step for _, step in walked]
    sums = sum(priced.pricer.encoder(e, step) for e, step in enumerate(steps))
    left = np.full(200, priced.space.layout.class_rows)  # no other row leaves the last encoder
    sums = sums + priced.pricer.outside(left)
    assert priced.pricer.whole_latency
    assert sums[LATENCY] == pytest.approx(costs.latency_s, rel=1e-12)
    assert sums[AREA] == pytest.approx(costs.area_m2, rel=1e-12)
    assert sums[ENERGY] + sums[LEAKAGE] * sums[LATENCY] == pytest.approx(costs.energy_j, rel=1e-12)
    assert (sums[MACS] == costs.macs).all()
    assert (sums[PARAMETERS] == costs.parameters).all()
    # and it is that of the plans themselves
    alone = priced.pricer.price_plans([priced.space.plan(row) for row in rows])
    for field in ("latency_s", "energy_j", "area_m2", "parameters", "macs"):
        assert getattr(costs, field) == pytest.approx(getattr(alone, field), rel=1e-12)


def test_what_the_pricer_does_not_know_is_refused(pricer: PlanPricer) -> None:
    with pytest.raises(PlanError, match=r"encoder 2 uses the form \('map', 'none'\)"):
        pricer.price_plans([Plan.parse("2<-1:map/none")])
    with pytest.raises(PlanError, match="encoder 3 merges 9 pairs of 17 tokens; at most 8"):
        pricer.price_plans([Plan.parse("3~9")])
    other = ParameterTable(fixed=7, by_form=SIZES.by_form[:4])
    with pytest.raises(ValueError, match="another model"):
        PlanPricer(MODEL, CHIP, "full", FORMS, other)
