"""Cascades and early exits: the same answers as the plans they are made of, and their prices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_dynamic import BASELINE, images, write_bundle
from tiny_models import KINDS, logits_of

from trex.errors import BundleError, InfeasibleError, ModelError, PlanError
from trex.runtime import Cascade, DynamicModel, EarlyExits, Point, load_adaptive, load_dynamic
from trex.runtime.adaptive import ExitHead, confidence, shared_encoders, traced_classes
from trex.runtime.choose import choose, fit_exits, observe
from trex.runtime.ways import load_ways, save_ways
from trex.training.data import Batch

FREE = {"latency": 0.0, "energy": 0.0}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "dynamic")


@pytest.fixture(scope="module")
def model(bundle: Path) -> DynamicModel:
    return load_dynamic(bundle)


def batch_of(pixels: torch.Tensor) -> Batch:
    count = len(pixels)
    return Batch(images=pixels, labels=torch.zeros(count, dtype=torch.long),
                 indices=torch.arange(count))  # fmt: skip


def test_confidence_worked_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0], [0.75, 0.25]]).clamp_min(1e-9).log()
    assert confidence(logits, "margin").tolist() == pytest.approx([0.0, 0.5])
    entropy = 1 - (-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)) / np.log(2))
    assert confidence(logits, "entropy").tolist() == pytest.approx([0.0, entropy], abs=1e-6)


@pytest.mark.parametrize("measure", ["margin", "entropy"])
@pytest.mark.parametrize(("first", "second"), [("cheap", "dear"), ("middle", "cheap")])
def test_a_cascade_answers_like_one_plan_or_the_other(
    model: DynamicModel, first: str, second: str, measure: str
) -> None:
    pixels = images(9)
    own, other = (logits_of(model.variant(name), pixels) for name in (first, second))
    sure = confidence(own, measure)  # type: ignore[arg-type]
    ordered = sure.sort().values
    threshold = float(ordered[3:5].mean())
    cascade = Cascade(model, first, second, measure=measure, threshold=threshold)  # type: ignore[arg-type]
    with torch.no_grad():
        answer = cascade.answer(pixels)
    on = sure < threshold
    assert answer.way.tolist() == on.long().tolist()
    assert 0 < int(on.sum()) < 9
    expected = torch.where(on[:, None], other, own)
    assert torch.allclose(answer.logits, expected, atol=1e-5)
    for edge, way in ((-1.0, own), (2.0, other)):
        cascade = Cascade(model, first, second, measure=measure, threshold=edge)  # type: ignore[arg-type]
        assert torch.allclose(logits_of(cascade, pixels), way, atol=1e-5)


def test_what_both_plans_have_in_common_runs_and_is_paid_once(model: DynamicModel) -> None:
    # "cheap" reuses from encoder 2 on, "dear" merges in encoder 4; "middle" shares rows in 0
    assert shared_encoders(model, "cheap", "dear") == 2
    assert shared_encoders(model, "middle", "dear") == 0
    assert shared_encoders(model, "dear", "dear") == 6
    cascade = Cascade(model, "cheap", "dear", measure="margin", threshold=0.5)
    stay, go = cascade.costs("latency")
    dear = 0.9 * BASELINE["latency_s"]
    assert stay == pytest.approx(0.4 * BASELINE["latency_s"])
    assert go == pytest.approx(stay + dear * (1 - 1 / 20 - 2 * 0.9 / 6))
    with pytest.raises(PlanError, match="and itself"):
        Cascade(model, "dear", "dear", measure="margin", threshold=0.5)


@torch.no_grad()
def test_exits_solve_for_the_final_class_tokens(model: DynamicModel) -> None:
    pixels = images(160, seed=3)
    heads = fit_exits(model, (3, 4), [batch_of(pixels[:99]), batch_of(pixels[99:])], ridge=1e-9)
    assert set(heads) == set(model.plans)
    seen, final, logits = traced_classes(model, "cheap", (3, 4), pixels)
    assert torch.allclose(logits, logits_of(model.variant("cheap"), pixels), atol=1e-5)
    features = torch.cat([seen[3], torch.ones(160, 1)], 1).double()
    solved = torch.linalg.lstsq(features, final.double()).solution
    guess = torch.nn.functional.linear(seen[3], heads["cheap"][3].weight, heads["cheap"][3].bias)
    error = (guess - final).square().mean()
    assert error <= (features @ solved - final).square().mean() * 1.05 + 1e-6
    assert error < (final - final.mean(0)).square().mean()


@pytest.mark.parametrize("plan", ["cheap", "middle"])
@torch.no_grad()
def test_images_leave_where_they_are_sure(model: DynamicModel, plan: str) -> None:
    pixels = images(12, seed=5)
    heads = fit_exits(model, (2, 4), [batch_of(images(64, seed=3))])[plan]
    early = EarlyExits(
        model, plan, heads, exit_cost={"latency": 1e-4, "energy": 0.0}, measure="margin",
        threshold=0.3,
    )  # fmt: skip
    seen, _, whole = traced_classes(model, plan, (2, 4), pixels)
    guesses = [
        model.adapter.head(
            model.variant(plan),
            torch.nn.functional.linear(seen[e], heads[e].weight, heads[e].bias)[:, None],
        )
        for e in (2, 4)
    ]
    with torch.no_grad():
        answer = early.answer(pixels)
    for number in range(12):
        ways = [float(confidence(g[number : number + 1], "margin")) >= 0.3 for g in guesses]
        way = ways.index(True) if True in ways else 2
        assert int(answer.way[number]) == way
        expected = [*guesses, whole][way][number]
        assert torch.allclose(answer.logits[number], expected, atol=1e-5)
    part = model.point(plan).parts["latency_s"]
    asked = 1e-4 + part[-1]
    assert early.costs("latency") == pytest.approx(
        (sum(part[:4]) + asked, sum(part[:6]) + 2 * asked, sum(part) + 2 * asked)
    )


def test_all_leave_or_none(model: DynamicModel) -> None:
    pixels = images(5)
    heads = fit_exits(model, (3,), [batch_of(images(64, seed=3))])["dear"]
    for threshold, way in ((-1.0, 0), (2.0, 1)):
        early = EarlyExits(
            model, "dear", heads, exit_cost=FREE, measure="entropy", threshold=threshold
        )
        with torch.no_grad():
            assert early.answer(pixels).way.tolist() == [way] * 5
    assert torch.allclose(
        logits_of(early, pixels), logits_of(model.variant("dear"), pixels), atol=1e-5
    )


def test_what_is_chosen_keeps_the_mean_cost_and_comes_back_from_its_files(
    bundle: Path, model: DynamicModel
) -> None:
    heads = fit_exits(model, (2, 3, 4), [batch_of(images(64, seed=3))])
    pixels = images(40, seed=7)
    seen = observe(model, heads, [batch_of(pixels[:25]), batch_of(pixels[25:])])
    limit = 0.65 * BASELINE["latency_s"]
    found = choose(model, seen, limit, quantity="latency", exit_cost=FREE)
    assert set(found) == {"plan", "cascade", "exits"}
    assert found["plan"].plans in (("cheap",), ("middle",))
    save_ways(
        bundle, found, heads,
        entries={"quantity": "latency", "limit": limit, "calibration": "noise", "exit_cost": FREE},
    )  # fmt: skip
    for kind in ("cascade", "exits"):
        way = load_adaptive(bundle, kind)  # type: ignore[arg-type]
        with torch.no_grad():
            answer = way.answer(pixels)
        costs = np.array(way.costs("latency"))
        assert costs[answer.way.numpy()].mean() == pytest.approx(found[kind].cost, rel=1e-6)
        assert found[kind].cost <= limit * (1 + 1e-9)
        shares = [float((answer.way == n).double().mean()) for n in range(len(costs))]
        assert shares == pytest.approx(list(found[kind].shares))
        original = logits_of(model.base, pixels)
        agrees = (answer.logits.argmax(1) == original.argmax(1)).double().mean()
        assert float(agrees) == pytest.approx(found[kind].agreement)
    assert found["cascade"].title.startswith("cascade ")
    (bundle / "exits.safetensors").unlink()
    with pytest.raises(BundleError, match="missing"):
        load_adaptive(bundle, "exits")
    content = (bundle / "adaptive.json").read_text()
    (bundle / "adaptive.json").write_text(content.replace("cascade", "waterfall"))
    with pytest.raises(BundleError, match=r"ways\.1\.kind"):
        load_ways(bundle)
    (bundle / "adaptive.json").unlink()
    with pytest.raises(BundleError, match="no cascade and no exits yet"):
        load_adaptive(bundle, "cascade")


def test_nothing_fits_a_limit_below_all(model: DynamicModel) -> None:
    seen = observe(model, {}, [batch_of(images(4))])
    with pytest.raises(InfeasibleError, match="mean latency"):
        choose(model, seen, 1e-6, quantity="latency", exit_cost=FREE)


def test_models_whose_head_reads_patches_have_no_exits() -> None:
    kind = KINDS["registers, averaged"]
    parts = {"latency_s": [0.1, *[0.1] * 6, 0.1], "energy_j": [0.1, *[0.1] * 6, 0.1]}
    points = [
        Point(name=name, plan=plan, parts=parts,
              estimate={"latency_s": cost, "energy_j": cost, "area_m2": 1.0})
        for name, plan, cost in (("a", "3~1", 0.5), ("b", "", 1.0))
    ]  # fmt: skip
    model = DynamicModel(kind.build(), points, {}, {"latency_s": 1.0, "energy_j": 1.0})
    with pytest.raises(ModelError, match="early exits read class tokens"):
        EarlyExits(model, "a", {2: ExitHead(torch.eye(48), torch.zeros(48))}, exit_cost=FREE,
                   measure="margin", threshold=0.5)  # fmt: skip
    pixels = kind.images(3)
    cascade = Cascade(model, "a", "b", measure="margin", threshold=2.0)
    assert torch.allclose(
        logits_of(cascade, pixels), logits_of(model.variant("b"), pixels), atol=1e-5
    )
