"""Observing changes nothing; losses by hand."""

import math
from copy import deepcopy

import finetune_cases as cases
import pytest
import torch
import torch.nn.functional as F
from tiny_models import KINDS, STAGED_KINDS, VIT_KINDS, Kind

from trex.errors import DataError
from trex.models.answers import first_tensor
from trex.models.registry import LoadedModel, adapter_of
from trex.reuse import apply_reuse
from trex.reuse.route import State
from trex.training.finetune.losses import Loss, soft_label_loss
from trex.training.finetune.network import Observed, Outputs, training_mode
from trex.training.finetune.recipe import LossWeights


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_an_observed_model_answers_the_same(kind: Kind) -> None:
    model, images = kind.build(), kind.images()
    adapter = adapter_of(model)
    for plan in ("", "2<-1 4<-3"):
        apply_reuse(model, plan)
        with torch.no_grad():
            seen = Observed(model, adapter, encoders=frozenset({1, 4})).eval()(images)
            assert torch.equal(seen.logits_BC, first_tensor(model(images)))
        assert sorted(seen.encoders) == [1, 4]
        assert seen.tokens is None


@pytest.mark.parametrize("kind", STAGED_KINDS.values(), ids=STAGED_KINDS)
def test_batch_norms_keep_their_statistics(kind: Kind) -> None:
    model = kind.build()
    adapter = adapter_of(model)
    observed = training_mode(Observed(apply_reuse(model, "2<-1"), adapter))
    before = {name: value.clone() for name, value in model.named_buffers()}
    observed(kind.images()).logits_BC.sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    assert all(p.grad is not None for p in model.parameters())


def test_checkpointing_gives_the_same_gradients(loaded: LoadedModel) -> None:
    gradients = []
    images = torch.rand(2, 3, 24, 24)
    for checkpointing in (False, True):
        model = cases.variant_of(loaded).train()
        observed = Observed(
            model, loaded.adapter, encoders=frozenset({4}), checkpointing=checkpointing
        ).train()
        outputs = observed(images)
        (outputs.logits_BC.square().sum() + outputs.encoders[4].stream.square().sum()).backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(*gradients, strict=True))


def outputs_of(loaded: LoadedModel, images: torch.Tensor) -> Outputs:
    with torch.no_grad():
        return Observed(loaded.model, loaded.adapter, encoders=frozenset({4}))(images)


def test_a_student_that_is_its_teacher_loses_nothing(loaded: LoadedModel) -> None:
    weights = LossWeights(kl=1.0, class_kl=1.0, tokens=1.0, encoders=1.0, temperature=2.0)
    same = outputs_of(loaded, torch.rand(3, 3, 24, 24))
    parts = Loss(weights, loaded.model, loaded.adapter)(same, same, torch.full((3,), -1))
    assert list(parts) == ["kl", "class_kl", "tokens", "encoders"]
    assert all(value.item() == pytest.approx(0.0, abs=1e-6) for value in parts.values())


def test_divergence_by_hand() -> None:
    ours, theirs = torch.zeros(1, 2), torch.tensor([[2 * math.log(3.0), 0.0]])
    # softened by 2, the teacher says 3/4 and 1/4, the student a half each
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert soft_label_loss(ours, theirs, 2.0).item() == pytest.approx(4 * expected)


def test_soft_labels_have_the_gradient_of_their_cross_entropy() -> None:
    theirs = torch.randn(4, 5).softmax(-1)
    gradients = []
    for loss in (lambda x: soft_label_loss(x, theirs.log()), lambda x: F.cross_entropy(x, theirs)):
        logits = torch.arange(20.0).reshape(4, 5).requires_grad_()
        loss(logits).backward()
        gradients.append(logits.grad)
    assert torch.allclose(*gradients, atol=1e-6)


def test_the_class_token_counts_as_often_as_the_recipe_says(loaded: LoadedModel) -> None:
    theirs = torch.randn(2, 37, 48)
    in_class, in_patch = theirs.clone(), theirs.clone()
    in_class[:, 0] *= -1
    in_patch[:, 1] = -in_patch[:, 1]
    loss = Loss(LossWeights(tokens=1.0, class_weight=100.0), loaded.model, loaded.adapter)
    # a mirrored normalised token differs by 2 in every place: a mean square of 4
    assert loss.token_loss(State(in_class), theirs).item() == pytest.approx(
        4 * 100 / 136, rel=1e-3
    )
    assert loss.token_loss(State(in_patch), theirs).item() == pytest.approx(4 / 136, rel=1e-3)


def test_labels(loaded: LoadedModel) -> None:
    outputs = outputs_of(loaded, torch.rand(2, 3, 24, 24))
    loss = Loss(LossWeights(ce=2.0, label_smoothing=0.1), loaded.model, loaded.adapter)
    labels = torch.tensor([3, 1])
    (part,) = loss(outputs, None, labels).values()
    expected = 2.0 * F.cross_entropy(outputs.logits_BC, labels, label_smoothing=0.1)
    assert part.item() == pytest.approx(expected.item())
    with pytest.raises(DataError, match="has no label"):
        loss(outputs, None, torch.tensor([3, -1]))


def test_token_labels_of_a_perfect_student_are_the_teachers_entropy() -> None:
    kind = VIT_KINDS["lvvit"]
    model, images, labels = kind.build(), kind.images(), torch.tensor([0, 6])
    adapter, student = adapter_of(model), deepcopy(model)
    with torch.no_grad():
        theirs = Observed(model, adapter, dense=True)(images)
        ours = Observed(student, adapter, dense=True)(images)
    parts = Loss(LossWeights(dense=0.2), student, adapter)(ours, theirs, labels)
    patches = theirs.tokens.patch_logits_BNC
    entropy = -(patches.softmax(-1) * patches.log_softmax(-1)).sum(-1).mean()
    images_loss = F.cross_entropy(theirs.tokens.class_logits_BC, labels)
    assert parts["dense"].item() == pytest.approx((images_loss + 0.2 * entropy).item(), rel=1e-5)
