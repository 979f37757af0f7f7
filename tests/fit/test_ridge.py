from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from trex.fit.ridge import RidgeSystem


def samples(n: int = 60, noise: float = 0.5) -> tuple[Tensor, Tensor, Tensor]:
    """Features (n, 5), targets (n, 3) that depend on them, and weights (n,), in double."""
    generator = torch.Generator().manual_seed(0)
    x, true, error = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((n, 5), (5, 3), (n, 3))
    )
    weights = torch.rand(n, generator=generator, dtype=torch.float64) * 10
    return x, x @ true + 2.0 + noise * error, weights


def system_of(x: Tensor, y: Tensor, weights: Tensor) -> RidgeSystem:
    system = RidgeSystem(x.shape[-1], y.shape[-1])
    system.add(x, y, weights)
    return system


def test_without_a_penalty_it_is_weighted_least_squares() -> None:
    x, y, weights = samples()
    root = weights.sqrt()[:, None].numpy()
    design = np.concatenate([x.numpy(), np.ones((len(x), 1))], axis=1)
    expected, *_ = np.linalg.lstsq(design * root, y.numpy() * root, rcond=None)
    weight, bias = system_of(x, y, weights).solve(0.0)
    np.testing.assert_allclose(weight.T.numpy(), expected[:-1], atol=1e-9)
    np.testing.assert_allclose(bias.numpy(), expected[-1], atol=1e-9)


def test_weights_count_as_repetitions() -> None:
    x, y, _ = samples(20)
    counts = torch.arange(20) % 4
    repeated = system_of(
        x.repeat_interleave(counts, 0),
        y.repeat_interleave(counts, 0),
        torch.ones(int(counts.sum())),
    )
    torch.testing.assert_close(system_of(x, y, counts).solve(0.1), repeated.solve(0.1))


def test_pieces_are_the_whole() -> None:
    x, y, weights = samples()
    pieces = RidgeSystem(5, 3)
    for start, stop in ((0, 7), (7, 8), (8, 60)):
        pieces.add(x[start:stop], y[start:stop], weights[start:stop])
    torch.testing.assert_close(pieces.solve(0.1), system_of(x, y, weights).solve(0.1))


def test_leading_dimensions_do_not_matter() -> None:
    x, y, weights = samples()
    shaped = system_of(x.view(4, 15, 5), y.view(4, 15, 3), weights.view(4, 15))
    torch.testing.assert_close(shaped.solve(0.1), system_of(x, y, weights).solve(0.1))


def test_a_penalty_shrinks_the_map() -> None:
    system = system_of(*samples())
    ridges = (0.0, 0.01, 0.1, 1.0, 10.0, 1e6)
    norms = [float(system.solve(ridge)[0].norm()) for ridge in ridges]
    assert norms == sorted(norms, reverse=True)
    assert norms[-1] == pytest.approx(0, abs=1e-4)


def test_the_bias_is_free() -> None:
    x, y, weights = samples()
    weight, bias = system_of(x, y, weights).solve(1e9)
    mean = (weights[:, None] * y).sum(0) / weights.sum()
    torch.testing.assert_close(bias, mean, atol=1e-5, rtol=1e-5)
    moved_weight, moved_bias = system_of(x, y + 100.0, weights).solve(0.3)
    weight, bias = system_of(x, y, weights).solve(0.3)
    torch.testing.assert_close(moved_weight, weight)
    torch.testing.assert_close(moved_bias, bias + 100.0)


def test_the_penalty_is_a_share_of_the_features_size() -> None:
    x, y, weights = samples()
    weight, bias = system_of(x, y, weights).solve(0.3)
    scaled_weight, scaled_bias = system_of(1000 * x, y, weights).solve(0.3)
    torch.testing.assert_close(1000 * scaled_weight, weight)
    torch.testing.assert_close(scaled_bias, bias)
    heavier_weight, _ = system_of(x, y, 1000 * weights).solve(0.3)
    torch.testing.assert_close(heavier_weight, weight)


def test_an_exact_map_is_found() -> None:
    x, y, weights = samples(noise=0.0)
    weight, bias = system_of(x, y, weights).solve(0.0)
    torch.testing.assert_close(x.double() @ weight.T + bias, y.double(), atol=1e-4, rtol=1e-4)


def test_fewer_samples_than_features_still_have_a_solution() -> None:
    x, y, weights = samples(3)
    weight, bias = system_of(x, y, weights).solve(0.1)
    assert weight.isfinite().all()
    assert bias.isfinite().all()


def test_mixed_precision_ends_at_the_sums() -> None:
    x, y, weights = (part.float() for part in samples())
    with torch.autocast("cpu", torch.bfloat16):
        mixed = system_of(x, y, weights).solve(0.1)
    torch.testing.assert_close(mixed, system_of(x, y, weights).solve(0.1))


@pytest.mark.parametrize("ridge", [0.0, 1e-6, 0.1])
def test_features_that_repeat_each_other_or_say_nothing(ridge: float) -> None:
    """The Gram matrix is singular; what is predicted is what the features without them predict."""
    x, y, weights = samples()
    again = torch.cat([x, x[:, :2], torch.zeros(len(x), 1), x[:, 2:3] - x[:, 3:4]], dim=1)
    weight, bias = system_of(again, y, weights).solve(ridge)
    assert weight.isfinite().all()
    root = weights.sqrt()[:, None]
    penalty = ridge * float((weights[:, None] * again.square()).sum(0).mean())
    expected = augmented(again * root, root, y * root, penalty)
    torch.testing.assert_close(again @ weight.T + bias, again @ expected[:-1] + expected[-1])
    assert torch.equal(weight[:, 7], torch.zeros(3, dtype=torch.float64))


def augmented(x: Tensor, ones: Tensor, y: Tensor, penalty: float) -> Tensor:
    """Ridge regression as direct least squares in double: no Gram matrix is formed."""
    count = x.shape[1]
    below = torch.cat([penalty**0.5 * torch.eye(count), torch.zeros(count, 1)], dim=1)
    design = torch.cat([torch.cat([x, ones], dim=1), below.double()])
    wanted = torch.cat([y, torch.zeros(count, y.shape[1], dtype=torch.float64)])
    found, *_ = np.linalg.lstsq(design.numpy(), wanted.numpy(), rcond=None)
    return torch.from_numpy(found)


def test_constant_features_leave_all_to_the_bias() -> None:
    _, y, weights = samples()
    for value in (0.0, 3.0):
        weight, bias = system_of(torch.full((60, 4), value).double(), y, weights).solve(0.1)
        mean = (weights[:, None] * y).sum(0) / weights.sum()
        torch.testing.assert_close(weight @ torch.full((4,), value).double() + bias, mean)


def test_without_features_the_start_stays() -> None:
    _, y, weights = samples()
    towards = torch.arange(12.0).view(3, 4)
    weight, _ = system_of(torch.zeros(60, 4).double(), y, weights).solve(0.1, towards)
    torch.testing.assert_close(weight, towards.double())


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_tiny_and_huge_features_are_solved_alike(scale: float) -> None:
    x, y, weights = samples()
    weight, bias = system_of(x, y, weights).solve(0.3)
    scaled_weight, scaled_bias = system_of(scale * x, y, weights).solve(0.3)
    torch.testing.assert_close(scale * scaled_weight, weight)
    torch.testing.assert_close(scaled_bias, bias)
