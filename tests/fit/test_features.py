"""Losses of models without a head: cosine distances of features, in nats as all losses."""

from __future__ import annotations

import copy
import math
from contextlib import closing
from pathlib import Path

import pytest
import torch
from tiny_models import KINDS, Kind
from torch import Tensor, nn

from trex.errors import ModelError
from trex.fit.calibration import Calibration, FitSettings
from trex.fit.fitter import PlanFitter
from trex.fit.loss import answers, mean_kl, sketch
from trex.fit.neighbours import class_scores, neighbour_scores, rank_correlation
from trex.fit.refine import RefineSettings, refine
from trex.models.answers import answers_of, first_tensor
from trex.models.registry import adapter_of
from trex.plan import Plan
from trex.reuse import apply_plan, apply_reuse
from trex.reuse.route import Route, run_model

HEADLESS = Kind(name="vit_tiny_patch16_224", kwargs={"num_classes": 0})
TOKENS = Kind(name="vit_tiny_patch16_224", kwargs={"num_classes": 0, "global_pool": ""})
ENCODER = Kind(
    name="qwen3_vit_88m_enc",
    kwargs={"img_size": 64, "pos_embed_grid_size": 4, "num_classes": None},
    side=64,
)
DEEPSEEK = Kind(
    name="deepseek_vit_412m_enc",
    kwargs={"img_size": 84, "num_heads": 2, "num_classes": None, "out_features": 40},
    side=84,
)
KINDS_OF_FEATURES = {
    "pooled": HEADLESS, "tokens": TOKENS, "qwen3 encoder": ENCODER, "deepseek encoder": DEEPSEEK,
}  # fmt: skip
every_kind = pytest.mark.parametrize("kind", KINDS_OF_FEATURES.values(), ids=KINDS_OF_FEATURES)


def features(number: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(number, 5, generator=torch.Generator().manual_seed(seed))


def test_the_loss_is_the_cosine_distance_by_hand() -> None:
    own = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    theirs = torch.tensor([[5.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    assert mean_kl(own, theirs, "features") == pytest.approx((0 + 1 + 2) / 3)
    cosine = torch.nn.functional.cosine_similarity(features(), features(seed=1))
    expected = float((1 - cosine).mean())
    assert mean_kl(features(), features(seed=1), "features") == pytest.approx(expected, abs=1e-6)


def test_lengths_do_not_count_and_the_same_loses_nothing() -> None:
    assert mean_kl(7 * features(), features(), "features") == pytest.approx(0, abs=1e-12)


def test_the_square_of_a_sketch_is_the_loss() -> None:
    own, theirs = features(40), features(40) + 0.1 * features(40, 1)
    found = sum(x**2 for x in sketch(own, theirs, 4096, "features"))
    assert found == pytest.approx(mean_kl(own, theirs, "features"), rel=0.1)


def test_what_is_not_finite_points_the_other_way() -> None:
    own, theirs = features(), features()
    own[2, 1] = math.nan
    sound = answers(own, theirs, "features")
    assert mean_kl(sound, theirs, "features") == pytest.approx(2 / 6, abs=1e-6)


def test_neighbours_by_hand() -> None:
    of = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    assert neighbour_scores(of).argmax(dim=1).tolist() == [1, 0, 3, 2]
    scores = class_scores(of, torch.tensor([0, 1, 1, 1]))
    assert scores.argmax(dim=1).tolist() == [1, 0, 1, 1]  # image 0 is alone in its class
    assert rank_correlation(of, 3 * of) == pytest.approx(1.0)
    assert rank_correlation(of, of[[0, 2, 1, 3]]) < 1.0


@every_kind
@torch.no_grad()
def test_models_without_a_head_step_as_they_run(kind: Kind) -> None:
    model, images = kind.build(), kind.images()
    adapter = adapter_of(model)
    assert answers_of(model) == "features"
    expected = first_tensor(model(images))
    _, found = run_model(model, adapter, Route.of(Plan(), adapter.layout(model)), images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    merged = first_tensor(apply_plan(copy.deepcopy(model), "1~2 3<-2")(images))
    assert merged.shape == expected.shape


def test_features_of_tokens_count_alike() -> None:
    rows = first_tensor(torch.tensor([[[3.0, 0.0], [0.0, 0.5]]]))
    assert rows.tolist() == [[1.0, 0.0, 0.0, 1.0]]
    with pytest.raises(ModelError, match="one row of logits or features"):
        first_tensor(torch.zeros(1, 2, 3, 4))


def pairs(original: nn.Module, images: Tensor, *, size: int = 16):
    with torch.no_grad():
        for numbers in torch.arange(len(images)).split(size):
            yield images[numbers], first_tensor(original(images[numbers])), numbers


@pytest.mark.parametrize("kind", [HEADLESS, TOKENS, ENCODER], ids=["pooled", "tokens", "encoder"])
def test_fits_and_refinements_bring_features_back(kind: Kind, tmp_path: Path) -> None:
    model, images = kind.build(), kind.images(48)
    settings = FitSettings(ridge=1e-2, batch_size=16, shrink=1.0)
    batches = list(images.split(16))
    calibration = Calibration(
        model, adapter_of(model), batches[:2], batches[2:], settings=settings, scratch=tmp_path
    )
    with closing(calibration):
        original = calibration.logits[32:]
        plans = [Plan.parse(f"2<-1:output/{form}") for form in ("none", "linear_own")]
        plain, fitted = (
            calibration.loss(of.logits, original) for of in PlanFitter(calibration).fit(plans)
        )
    assert 0 < fitted < plain < 2
    variant = apply_reuse(copy.deepcopy(model), "2<-1 4<-3", "linear")
    with torch.no_grad():
        before = mean_kl(first_tensor(variant(images)), first_tensor(model(images)), "features")
        rounds = refine(
            variant, adapter_of(model), lambda: pairs(model, images),
            settings=RefineSettings(), scratch=tmp_path,
        )  # fmt: skip
        after = mean_kl(first_tensor(variant(images)), first_tensor(model(images)), "features")
    assert rounds
    assert after < 0.9 * before


def test_a_classifier_answers_with_classes() -> None:
    assert answers_of(KINDS["vit"].build()) == "classes"
