"""The token-labelling loss, against answers worked by hand."""

import math

import pytest
import torch

from trex.errors import DataError
from trex.models.lvvit import TokenBox, TokenOutputs
from trex.training.token_labels import (
    LVVIT_DENSE_WEIGHT,
    TREX_DENSE_WEIGHT,
    TokenLabels,
    token_label_loss,
)

NOTHING_MIXED = TokenBox(0, 0, 0, 0)
#: Softmax gives (3/4, 1/4).
SURE = (math.log(3.0), 0.0)


def outputs(mixed: TokenBox = NOTHING_MIXED) -> TokenOutputs:
    """Two images of 2×2 patches and two classes: all sure of class 0, patches undecided."""
    return TokenOutputs(torch.tensor([SURE, SURE]), torch.zeros(2, 4, 2), mixed)


def test_class_indices_by_hand() -> None:
    # image 0: -log 3/4, image 1: -log 1/4; every patch: log 2
    image_loss = (math.log(4 / 3) + math.log(4)) / 2
    loss = token_label_loss(outputs(), torch.tensor([0, 1]))
    assert loss.item() == pytest.approx(image_loss + 0.2 * math.log(2))


@pytest.mark.parametrize("weight", [0.0, TREX_DENSE_WEIGHT, LVVIT_DENSE_WEIGHT])
def test_loss_is_linear_in_the_weight(weight: float) -> None:
    loss = token_label_loss(outputs(), torch.tensor([0, 0]), dense_weight=weight)
    assert loss.item() == pytest.approx(math.log(4 / 3) + weight * math.log(2))


def test_published_weights() -> None:
    assert (TREX_DENSE_WEIGHT, LVVIT_DENSE_WEIGHT) == (0.2, 0.5)


def test_indices_equal_their_one_hot_probabilities() -> None:
    indices = torch.tensor([1, 0])
    one_hot = torch.eye(2)[indices]
    assert torch.equal(token_label_loss(outputs(), indices), token_label_loss(outputs(), one_hot))


def test_mixed_images_mix_their_labels_by_the_boxes_share() -> None:
    # one patch of four came from the other image: labels (3/4, 1/4) and (1/4, 3/4)
    kept = 0.75 * math.log(4 / 3) + 0.25 * math.log(4)
    other = 0.25 * math.log(4 / 3) + 0.75 * math.log(4)
    loss = token_label_loss(outputs(TokenBox(0, 1, 1, 2)), torch.tensor([0, 1]), dense_weight=0)
    assert loss.item() == pytest.approx((kept + other) / 2)


def test_patches_have_their_own_labels() -> None:
    logits = torch.zeros(2, 4, 2)
    logits[0, 2] = torch.tensor(SURE)
    probs = torch.full((2, 4, 2), 0.5)
    probs[0, 2] = torch.tensor([1.0, 0.0])
    labels = TokenLabels(torch.eye(2), probs)
    loss = token_label_loss(
        TokenOutputs(torch.zeros(2, 2), logits, NOTHING_MIXED), labels, dense_weight=1.0
    )
    assert loss.item() == pytest.approx(math.log(2) + (7 * math.log(2) + math.log(4 / 3)) / 8)


@pytest.mark.parametrize(
    ("labels", "what"),
    [
        (torch.tensor([0, 1, 1]), "images"),
        (torch.full((2, 3), 1 / 3), "images"),
        (TokenLabels(torch.eye(2), torch.full((2, 9, 2), 0.5)), "patches"),
    ],
)
def test_labels_for_another_model_are_refused(labels: torch.Tensor, what: str) -> None:
    with pytest.raises(DataError, match=f"labels of {what}"):
        token_label_loss(outputs(), labels)
