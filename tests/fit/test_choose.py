"""Ways of fitting are chosen on the fitted images themselves."""

from __future__ import annotations

import math
from contextlib import closing
from pathlib import Path

import pytest
import torch
from tiny_models import KINDS

from trex.fit.calibration import Calibration, FitSettings
from trex.fit.choose import Trial, choose_settings, steps_to_choose
from trex.fit.fitter import PlanFitter
from trex.fit.loss import mean_kl
from trex.models.registry import adapter_of
from trex.plan import Plan


@pytest.fixture(scope="module")
def trials_of(tmp_path_factory: pytest.TempPathFactory):
    kind = KINDS["vit"]
    model, images = kind.build(), kind.images(60)

    def choose(plan: str) -> tuple[list[Trial], Calibration, int]:
        done: list[int] = []
        calibration = Calibration(
            model, adapter_of(model), list(images[:50].split(25)), [images[50:]],
            settings=FitSettings(batch_size=25), scratch=tmp_path_factory.mktemp("scratch"),
            maps={r.consumer for r in Plan.parse(plan).reuses},
        )  # fmt: skip
        return (
            choose_settings(calibration, Plan.parse(plan), progress=done.append),
            calibration,
            sum(done),
        )

    return choose


@pytest.mark.parametrize("plan", ["2<-1 4<-3", "2<-1:map/mixed 4:map/average", "2<-1 0~1"])
def test_the_best_tried_way_is_chosen(trials_of, plan: str) -> None:
    trials, calibration, steps = trials_of(plan)
    losses = [trial.loss for trial in trials]
    assert losses == sorted(losses)
    assert len({trial.settings for trial in trials}) == len(trials) == 13
    assert {trial.settings.shrink for trial in trials} == {0.0, 0.2, 0.4, 0.7, 1.0}
    assert {trial.settings.drift for trial in trials} == {0.0, 0.5, 1.0}
    assert {trial.settings.producers for trial in trials} == {None, 0.5, 1.0}
    assert steps <= steps_to_choose(calibration)
    with closing(calibration):
        # the loss is that of a fit on the first 30 images, measured on the last 20 of them
        fitter = PlanFitter(
            calibration, settings=trials[0].settings, fit_rows=range(30),
            measure_rows=range(30, 50),
        )  # fmt: skip
        (fitted,) = fitter.fit([Plan.parse(plan)])
        expected = mean_kl(fitted.logits, calibration.logits[30:50])
    assert trials[0].loss == pytest.approx(expected)


@pytest.mark.parametrize("plan", ["", "0~1 5=class", "2<-1:output/none"])
def test_nothing_to_fit_is_nothing_to_choose(trials_of, plan: str) -> None:
    trials, calibration, steps = trials_of(plan)
    calibration.close()
    assert steps == 0
    assert len(trials) == 1
    assert math.isnan(trials[0].loss)
    assert trials[0].tried.loss is None


def test_a_share_of_nothing_keeps_the_start(tmp_path: Path) -> None:
    """Of mixed maps that is the original's projection, of outputs an attention left out."""
    kind = KINDS["vit"]
    model, images = kind.build(), kind.images(20)
    plan = Plan.parse("2<-1 4<-3:map/mixed")
    with closing(
        Calibration(
            model, adapter_of(model), [images], settings=FitSettings(shrink=0.0),
            scratch=tmp_path, maps={4},
        )
    ) as calibration:  # fmt: skip
        (fitted,) = PlanFitter(calibration).fit([plan])
    assert not fitted.state["blocks.2.attn.proj.weight"].any()
    torch.testing.assert_close(
        fitted.state["blocks.4.attn.proj.weight"], model.blocks[4].attn.proj.weight.detach()
    )
