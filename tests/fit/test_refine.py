"""The refinement solves what it says, and makes a variant answer more like its original."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_models import KINDS
from torch import Tensor, nn

from trex.fit.loss import mean_kl
from trex.fit.refine import Batch, RefineSettings, _Equations, _groups, _left_out_square, refine
from trex.models.registry import adapter_of
from trex.reuse import apply_plan, apply_reuse


@pytest.fixture
def original() -> nn.Module:
    return KINDS["vit"].build()


def answers(original: nn.Module, images: Tensor) -> Iterator[Batch]:
    with torch.no_grad():
        for numbers in torch.arange(len(images)).split(16):
            yield images[numbers], original(images[numbers]), numbers


def refined(original: nn.Module, variant: nn.Module, folder: Path, **settings: object) -> list:
    return refine(
        variant,
        adapter_of(original),
        lambda: answers(original, KINDS["vit"].images(48)),
        settings=RefineSettings(**settings),  # type: ignore[arg-type]
        scratch=folder,
    )


@pytest.mark.parametrize("transform", ["linear", "block", "linear_own"])
def test_a_refined_variant_answers_more_like_its_original(
    original: nn.Module, tmp_path: Path, transform: str
) -> None:
    variant = apply_reuse(copy.deepcopy(original), "2<-1 4<-3:map", transform)
    images = KINDS["vit"].images(48)
    with torch.no_grad():
        before = mean_kl(variant(images), original(images))
        rounds = refined(original, variant, tmp_path)
        after = mean_kl(variant(images), original(images))
    assert rounds
    assert all(done.predicted < done.before for done in rounds)
    assert after < 0.8 * before
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "plan", ["2~2", "1=3 3=@1", "2<-1:map/mixed 3:map/average 0~1 2=class 4=3", "0~2 5=class"]
)
def test_merged_tokens_and_shared_rows_are_made_up_for(
    original: nn.Module, tmp_path: Path, plan: str
) -> None:
    """Nothing of a plan has to be fitted for its projections to answer more like the original."""
    variant = apply_plan(copy.deepcopy(original), plan)
    images = KINDS["vit"].images(48)
    with torch.no_grad():
        before = mean_kl(variant(images), original(images))
        assert refined(original, variant, tmp_path)
        after = mean_kl(variant(images), original(images))
    assert after < 0.95 * before


def test_class_rows_alone_leave_nothing_to_refine(original: nn.Module, tmp_path: Path) -> None:
    variant = apply_plan(copy.deepcopy(original), "5=class")
    assert refined(original, variant, tmp_path) == []


def test_the_same_images_and_seed_give_the_same_weights(
    original: nn.Module, tmp_path: Path
) -> None:
    states = []
    for _ in range(2):
        variant = apply_reuse(copy.deepcopy(original), "2<-1")
        refined(original, variant, tmp_path, rounds=1)
        states.append(variant.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_only_projections_from_the_first_fitted_consumer_on_change(
    original: nn.Module, tmp_path: Path
) -> None:
    variant = apply_reuse(copy.deepcopy(original), "2<-1 4<-3", {2: "none", 4: "linear"})
    before = copy.deepcopy(variant.state_dict())
    assert refined(original, variant, tmp_path)
    changed = {k for k, v in variant.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {
        f"blocks.{i}.attn.proj.{part}" for i in (4, 5) for part in ("weight", "bias")
    }


def test_nothing_is_refined_where_nothing_was_fitted(original: nn.Module, tmp_path: Path) -> None:
    plain = copy.deepcopy(original)
    assert refined(original, plain, tmp_path) == []
    identity = apply_reuse(copy.deepcopy(original), "2<-1", "none")
    assert refined(original, identity, tmp_path) == []


def test_images_beyond_the_limits_are_left_out(original: nn.Module, tmp_path: Path) -> None:
    variant = apply_reuse(copy.deepcopy(original), "2<-1")
    (done,) = refined(original, variant, tmp_path, rounds=1, draws=2, most_equations=20)
    assert done.equations == 20
    parameters = 4 * 48 * 49  # the projections of encoders 2 to 5
    variant = apply_reuse(copy.deepcopy(original), "2<-1")
    (done,) = refined(
        original, variant, tmp_path, rounds=1, draws=1, most_scratch_bytes=2 * parameters * 30
    )
    assert done.equations == 30


def test_the_left_out_error_is_that_of_solving_without_each_picture() -> None:
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(12, 30, generator=generator, dtype=torch.float64)
    residuals = torch.randn(12, generator=generator, dtype=torch.float64)
    pictures = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 0, 5, 5, 7])
    penalty = 2.5 * torch.eye(12, dtype=torch.float64)
    inverse = torch.linalg.inv(gradients @ gradients.T + penalty)
    groups = _groups(pictures)
    assert sorted(map(sorted, (g.tolist() for g in groups))) == [
        [0, 4, 8], [1, 5], [2, 6], [3, 7], [9, 10], [11],
    ]  # fmt: skip
    by_hand = 0.0
    for picture in pictures.unique():
        kept = pictures != picture
        gram = gradients[kept].T @ gradients[kept] + 2.5 * torch.eye(30, dtype=torch.float64)
        change = torch.linalg.solve(gram, gradients[kept].T @ residuals[kept])
        by_hand += float((residuals[~kept] - gradients[~kept] @ change).square().sum())
    ours = _left_out_square(inverse, inverse @ residuals, groups)
    assert ours == pytest.approx(by_hand / 12, rel=1e-9)


def test_the_solution_is_that_of_ridge_regression_whatever_the_parts(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    gradients = torch.randn(10, 24, generator=generator).bfloat16().float()
    residuals = torch.randn(10, generator=generator)
    equations = _Equations(2, tmp_path)
    for rows in torch.arange(10).split(4):
        equations.add((gradients[rows, :9], gradients[rows, 9:]), residuals[rows], rows)
    change, done = equations.solve((0.7,))
    equations.close()
    penalty = 0.7 * float((gradients @ gradients.T).diagonal().mean())
    expected = torch.linalg.solve(
        (gradients.T @ gradients).double() + penalty * torch.eye(24, dtype=torch.float64),
        (gradients.T @ residuals).double(),
    )
    assert torch.allclose(torch.cat(change).double(), expected, atol=1e-5)
    assert done.damping == 0.7
    assert done.before == pytest.approx(float(residuals.square().mean()), rel=1e-6)


def test_where_nothing_changes_the_output_nothing_changes(tmp_path: Path) -> None:
    equations = _Equations(1, tmp_path)
    equations.add((torch.zeros(4, 3),), torch.ones(4), torch.arange(4))
    (change,), done = equations.solve((3.0, 10.0))
    equations.close()
    assert torch.equal(change, torch.zeros(3))
    assert done.predicted >= done.before == 1.0
