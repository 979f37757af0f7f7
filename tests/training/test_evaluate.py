"""Accuracy and paired comparisons against answers worked by hand, and on real images."""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from trex.errors import DataError
from trex.models.weights import load_weights
from trex.training.data import Batch, batches, open_dataset
from trex.training.evaluate import accuracy, compare_paired, predict, predict_paired
from trex.training.transforms import DataConfig, eval_transform


def batched(images: Tensor, labels: Tensor, size: int) -> list[Batch]:
    numbers = torch.arange(len(images))
    return [
        Batch(*parts)
        for parts in zip(*(t.split(size) for t in (images, labels, numbers)), strict=True)
    ]


def guesses(*classes: int, of: int = 10) -> Tensor:
    """Logits whose first guess is given, and whose others fall from class 0 on."""
    logits = -torch.arange(float(of)).repeat(len(classes), 1)
    logits[torch.arange(len(classes)), torch.tensor(classes)] = 1.0
    return logits


def test_accuracy_by_hand() -> None:
    # the first five guesses are the given class and the four (or five) lowest others
    logits, labels = guesses(0, 1, 9, 9), torch.tensor([0, 2, 3, 4])
    result = accuracy(logits, labels)
    assert (result.top1, result.top5, result.n) == (0.25, 0.75, 4)


def test_fewer_than_five_classes() -> None:
    assert accuracy(guesses(0, 1, 2, of=3), torch.tensor([0, 0, 0])).top5 == 1.0


@pytest.mark.parametrize("wrong", [-1, 10])
def test_labels_that_are_no_class_are_refused(wrong: int) -> None:
    labels = torch.tensor([0, wrong])
    with pytest.raises(DataError, match="1 of 2 images have no label from 0 to 9"):
        accuracy(guesses(0, 0), labels)
    with pytest.raises(DataError, match="no label"):
        compare_paired(guesses(0, 0), guesses(0, 0), labels)


def test_a_comparison_by_hand() -> None:
    labels = torch.zeros(10, dtype=torch.long)
    ours = guesses(0, 0, 0, 0, 0, 0, 1, 1, 1, 2)
    theirs = guesses(0, 0, 0, 0, 0, 1, 0, 0, 0, 1)
    result = compare_paired(ours, theirs, labels)
    assert (result.top1, result.baseline_top1, result.n) == (0.6, 0.8, 10)
    assert result.difference == pytest.approx(-0.2)
    assert (result.top5, result.baseline_top5) == (1.0, 1.0)
    assert result.agreement == 0.5
    # 1 gained and 3 lost: the chance of at most one of four tosses, on either side: 2 · 5/16
    assert result.p_value == pytest.approx(10 / 16)
    low, high = result.ci95
    assert -1 <= low < result.difference < high <= 1
    assert compare_paired(ours, theirs, labels) == result


def test_divergence_by_hand() -> None:
    ours = torch.tensor([[0.0, 0.0]])
    theirs = torch.tensor([[math.log(3.0), 0.0]])
    # 3/4 log(3/4 : 1/2) + 1/4 log(1/4 : 1/2)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    result = compare_paired(ours, theirs, torch.tensor([0]))
    assert result.mean_kl == pytest.approx(expected)


def test_a_model_equals_itself() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(50, 10), torch.randint(10, (50,))
    result = compare_paired(logits, logits, labels)
    assert result.difference == 0.0
    assert result.ci95 == (0.0, 0.0)
    assert (result.p_value, result.agreement) == (1.0, 1.0)
    assert result.mean_kl == pytest.approx(0.0, abs=1e-12)


def test_exchanging_the_models_turns_the_signs() -> None:
    torch.manual_seed(0)
    a, b, labels = torch.randn(200, 10), torch.randn(200, 10), torch.randint(10, (200,))
    forth, back = compare_paired(a, b, labels), compare_paired(b, a, labels)
    assert forth.difference == -back.difference
    assert (forth.p_value, forth.agreement) == (back.p_value, back.agreement)
    assert forth.ci95 == pytest.approx((-back.ci95[1], -back.ci95[0]), abs=0.01)


def test_the_interval_is_the_normal_one_for_many_images() -> None:
    n, gained, lost = 20_000, 900, 1500
    labels = torch.zeros(n, dtype=torch.long)
    ours, theirs = guesses(*[0] * n), guesses(*[0] * n)
    theirs[:gained], ours[gained : gained + lost] = guesses(1), guesses(1)
    result = compare_paired(ours, theirs, labels)
    mean = (gained - lost) / n
    error = math.sqrt(((gained + lost) / n - mean**2) / n)
    assert result.ci95 == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=2e-4)


def test_of_several_outputs_the_first_is_the_logits() -> None:
    class Several(nn.Module):
        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            return images[:, :3], images

    images = torch.randn(5, 4)
    assert torch.equal(
        predict(Several(), batched(images, torch.zeros(5), 2)).logits, images[:, :3]
    )


class Clock:
    """Stands for the time: it moves only when told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Classifier(nn.Module):
    """A linear layer with dropout that tells `log` its runs and moves a clock on."""

    def __init__(self, name: str = "", log: list[str] | None = None, **clock: Any) -> None:
        super().__init__()
        self.name, self.log, self.clock = name, [] if log is None else log, clock
        self.dropout = nn.Dropout(0.5)
        self.linear = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        self.log.append(self.name)
        if self.clock:
            self.clock["clock"].now += self.clock["seconds"]
        logits: Tensor = self.linear(self.dropout(images))
        return logits


def test_predictions_are_those_of_evaluation_mode_and_leave_the_model_as_it_was() -> None:
    torch.manual_seed(0)
    model, images, labels = Classifier(), torch.randn(10, 4), torch.arange(10) % 3
    model.train()
    model.linear.eval()
    answers = predict(model, batched(images, labels, 4))
    assert torch.equal(answers.logits, model.linear(images))
    assert torch.equal(answers.labels, labels)
    assert answers.indices.tolist() == list(range(10))
    assert not answers.logits.requires_grad
    assert len(model.log) == 3
    assert [m.training for m in (model, model.dropout, model.linear)] == [True, True, False]
    # usable as the target of a training
    nn.functional.mse_loss(model(images), answers.logits).backward()


def test_mixed_precision_gives_fp32_logits_close_to_the_full_ones() -> None:
    torch.manual_seed(0)
    model, stream = Classifier(), batched(torch.randn(6, 4), torch.zeros(6, dtype=torch.long), 4)
    full, mixed = predict(model, stream).logits, predict(model, stream, amp=True).logits
    assert mixed.dtype == torch.float32
    assert not torch.equal(full, mixed)
    torch.testing.assert_close(full, mixed, atol=0.05, rtol=0.05)


def test_nothing_to_run_on_is_an_error() -> None:
    with pytest.raises(DataError, match="no images"):
        predict(Classifier(), [])


def test_pairs_run_in_turn_and_loading_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, log = Clock(), list[str]()
    fast = Classifier("fast", log, clock=clock, seconds=0.25)
    slow = Classifier("slow", log, clock=clock, seconds=1.0)
    monkeypatch.setattr(time, "perf_counter", clock)
    images, labels = torch.randn(11, 4), torch.zeros(11, dtype=torch.long)

    def loading() -> Iterator[Batch]:
        for batch in batched(images, labels, 3):
            clock.now += 60.0
            yield batch

    ours, theirs, speed = predict_paired(fast, slow, loading())
    warm_up = ["fast", "slow"]
    assert log == warm_up + 2 * ["fast", "slow", "slow", "fast"]
    assert speed.images_per_second == pytest.approx(11 / (4 * 0.25))
    assert speed.baseline_images_per_second == pytest.approx(11 / (4 * 1.0))
    assert speed.speedup == pytest.approx(4.0)
    assert torch.equal(ours.logits, predict(fast, batched(images, labels, 3)).logits)
    assert torch.equal(theirs.logits, predict(slow, batched(images, labels, 3)).logits)


def test_real_images_and_weights(shared_data: Path) -> None:
    name = "deit_tiny_patch16_224"
    model = timm.create_model(name)
    load_weights(model, shared_data / "weights" / f"{name}.safetensors", model_name=name)
    images = open_dataset(
        str(shared_data / "imagenet_dev"),
        transform=eval_transform(DataConfig.of_model(model)),
        class_map=shared_data / "imagenet_synsets.txt",
        num_classes=1000,
    ).subset(64, seed=0)
    answers = predict(model, batches(images, 16))
    result = accuracy(answers.logits, answers.labels)
    # 85 to 87 % of all 1000: three standard errors of 64 images are 13 points
    assert 0.72 < result.top1 < 0.99
    assert result.top5 > 0.88
    assert answers.indices.tolist() == list(range(64))
