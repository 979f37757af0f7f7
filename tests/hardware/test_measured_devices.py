"""Measured devices: what is fitted, what is priced by it, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trex.architecture import Architecture, vit_encoder
from trex.bench.designs import designed_plans, random_plans
from trex.errors import BudgetError, ChipError
from trex.hardware import CostTable, MeasuredDevice, is_measured, load_chip, load_device, workload
from trex.hardware.measured import (
    FEATURES,
    OUTSIDE,
    Profile,
    architecture_hash,
    features_of,
    fit_coefficients,
    write_device,
)
from trex.plan import Layout, Plan

LAYOUT = Layout(stages=(0,) * 12, tokens=197, protected=1, class_tokens=1, class_rows=1)
MODEL = Architecture(
    model="deit_like",
    body=tuple(
        vit_encoder(index, tokens=197, dim=192, heads=3, mlp_hidden=768) for index in range(12)
    ),
    layout=LAYOUT,
)
#: seconds a unit of every feature, as a machine might have them
TRUTH = {
    OUTSIDE: 2e-3, "linear": 9e-12, "attention": 2e-11, "map": 3e-11, "mixing": 1e-10,
    "matching": 2e-11, "rounds": 1e-4, "shared": 2e-4, "own": 1e-4,
}  # fmt: skip


def seconds(plan: Plan) -> float:
    found = features_of(workload(MODEL, plan))
    return TRUTH[OUTSIDE] + sum(TRUTH[name] * found[name] for name in FEATURES)


def profile(batch: int = 8, **changes: Any) -> Profile:
    interval = {"median": 1e-2, "low": 0.9e-2, "high": 1.1e-2}
    run = {
        "plan": "3~40", "fitted": True, "latency_s": interval, "ratio": interval,
        "predicted_s": 1e-2,
    }  # fmt: skip
    return Profile.model_validate({
        "model": MODEL.model, "architecture_sha256": architecture_hash(MODEL),
        "runtime": "eager", "device": "cpu", "threads": 1, "dtype": "fp32", "batch": batch,
        "clock": "cpu", "rounds": 5, "coefficients": TRUTH, "original_s": 1e-2, "spread": 0.02,
        "runs": [run], "machine": {"processor": "any", "system": "Linux"}, "versions": {},
        **changes,
    })  # fmt: skip


DEVICE = MeasuredDevice(name="mine", profile=profile())


def test_designed_plans_tell_every_coefficient_apart() -> None:
    designed = designed_plans(LAYOUT)
    assert designed[0] == Plan()
    assert len(designed) == len(set(designed)) > 20
    fitted = fit_coefficients(MODEL, {plan: seconds(plan) for plan in designed})
    assert fitted == pytest.approx(TRUTH, rel=1e-6)


def test_noise_moves_predictions_of_other_plans_little() -> None:
    rng = np.random.default_rng(0)
    noisy = {plan: seconds(plan) * rng.normal(1, 0.03) for plan in designed_plans(LAYOUT)}
    device = MeasuredDevice(
        name="noisy", profile=profile(coefficients=fit_coefficients(MODEL, noisy))
    )
    tests = random_plans(LAYOUT, 20, seed=1)
    assert len(set(tests)) == 20
    errors = [abs(device.latency_s(workload(MODEL, p)) / seconds(p) - 1) for p in tests]
    assert float(np.median(errors)) < 0.02
    assert max(errors) < 0.08


def test_models_in_stages_have_designs_too() -> None:
    staged = Layout(
        stages=(0, 0, 0, 1, 1, 2), tokens=49, no_merging="a grid", no_class_rows="no class token",
        no_map_rows="one map", windows=(49,) * 6,
    )  # fmt: skip
    designed = designed_plans(staged)
    assert len(designed) > 3
    for plan in (*designed, *random_plans(staged, 3)):
        plan.validate(staged)
        assert not plan.merges


def test_a_table_prices_plans_like_the_device() -> None:
    forms = (("output", "linear"), ("map", "linear"), ("map", "mixed"))
    table = CostTable(MODEL, DEVICE, forms=forms)  # type: ignore[arg-type]
    plans = [p for p in designed_plans(LAYOUT) if all(r.form in forms for r in p.reuses)]
    assert len(plans) > 20
    found = table.price_plans(table.arrays_of(plans))
    expected = [DEVICE.latency_s(workload(MODEL, plan)) for plan in plans]
    np.testing.assert_allclose(found.latency_s, expected, rtol=1e-9)
    np.testing.assert_allclose(expected, [seconds(plan) for plan in plans], rtol=1e-9)
    assert [int(macs) for macs in found.macs] == [workload(MODEL, plan).macs for plan in plans]
    # nothing that nobody measured looks like a number
    assert np.isnan(found.energy_j).all()
    assert np.isnan(found.area_m2).all()
    assert np.isnan(found.edap_j_s_m2).all()


def test_additive_costs_add_up_to_the_devices() -> None:
    table = CostTable(MODEL, DEVICE, forms=(("output", "linear"),))
    assert table.whole_latency
    nothing = np.zeros(1, dtype=np.intp)
    latency = table.outside(np.array([LAYOUT.tokens]))[3, 0]
    for encoder in range(len(LAYOUT.stages)):
        costs = table.encoder(encoder, nothing, nothing, nothing, nothing, nothing)
        latency += costs[3, 0]
    assert latency == pytest.approx(DEVICE.latency_s(workload(MODEL)))


def test_what_nobody_measured_is_refused_by_name() -> None:
    DEVICE.refuse(["latency", "params", "macs"])
    for quantity in ("energy", "area", "edap"):
        with pytest.raises(BudgetError, match=f"its {quantity} is not") as caught:
            DEVICE.refuse(["latency", quantity])
        assert f"--max-{quantity}" in caught.value.hint


def test_close_latencies_are_not_told_apart() -> None:
    assert DEVICE.tells_apart(1.0, 1.03)
    assert not DEVICE.tells_apart(1.0, 1.01)


def test_another_model_is_refused() -> None:
    other = Architecture(model="other", body=MODEL.body[:-1], layout=LAYOUT)
    with pytest.raises(ChipError, match="was measured with deit_like, not with other"):
        CostTable(other, DEVICE)


def test_where_a_chip_is_needed_a_machine_is_refused_as_such(tmp_path: Path) -> None:
    write_device(tmp_path, [profile()])
    with pytest.raises(ChipError, match="is a measured machine") as caught:
        load_chip(tmp_path)
    assert "--hw" in caught.value.hint


def test_devices_are_written_and_read(tmp_path: Path) -> None:
    folder = tmp_path / "my_cpu"
    folder.mkdir()
    write_device(folder, [profile()])
    device = load_device(folder)
    assert is_measured(device)
    assert (device.name, device.basis, device.profile) == ("my_cpu", "measured", profile())
    assert device.fingerprint == MeasuredDevice(name="x", profile=profile()).fingerprint
    assert device.fingerprint != DEVICE.__class__(name="x", profile=profile(9)).fingerprint
    chip = load_device("trex_fefet_32nm")
    assert (is_measured(chip), chip.basis) == (False, "estimate")
    with pytest.raises(ChipError, match="no value of it can be set"):
        load_device(folder, {"softmax.units": 12})


def test_a_batch_size_is_named_where_there_are_several(tmp_path: Path) -> None:
    write_device(tmp_path, [profile(1), profile(8)])
    assert load_device(f"{tmp_path}@8").profile.batch == 8
    for name in (str(tmp_path), f"{tmp_path}@4"):
        with pytest.raises(ChipError, match="measured with batches of 1, 8") as caught:
            load_device(name)
        assert f"{tmp_path}@1" in caught.value.hint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: "{", "is damaged"),
        (lambda d: [], "is damaged"),
        (lambda d: {**d, "schema": 9}, "is of schema 9"),
        (lambda d: {**d, "kind": "chip"}, "kind"),
        (lambda d: {**d, "profiles": []}, "profiles"),
        (lambda d: {**d, "profiles": [{**d["profiles"][0], "spread": -1}]}, "spread"),
        (lambda d: {**d, "profiles": [{**d["profiles"][0], "spread": math.inf}]}, "spread"),
    ],
)
def test_damaged_devices_are_refused(change: Any, message: str, tmp_path: Path) -> None:
    write_device(tmp_path, [profile()])
    file = tmp_path / "device.json"
    changed = change(json.loads(file.read_text()))
    file.write_text(changed if isinstance(changed, str) else json.dumps(changed))
    with pytest.raises(ChipError, match=message) as caught:
        load_device(tmp_path)
    assert "trex profile" in caught.value.hint
