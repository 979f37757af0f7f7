"""What fine-tuning minimises.

Letters in tensor names: B images, N tokens, D width, C classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trex.errors import DataError
from trex.models.adapter import Adapter
from trex.reuse.route import State
from trex.training.finetune.network import Outputs
from trex.training.finetune.recipe import LossWeights
from trex.training.token_labels import TokenLabels, token_label_loss


class Loss:
    """The weighted sum of a recipe's losses.

    Args:
        weights: of each.
        model: the variant.
        adapter: of its family.
    """

    def __init__(self, weights: LossWeights, model: nn.Module, adapter: Adapter) -> None:
        self._weights = weights
        self._model = model
        self._adapter = adapter

    def __call__(
        self, student: Outputs, teacher: Outputs | None, targets: Tensor
    ) -> dict[str, Tensor]:
        """Each loss by name, already weighted: their sum is what is minimised.

        Args:
            student: outputs of the variant.
            teacher: outputs of the original on the same images; None where no loss reads them.
            targets: classes (B,), -1 for none, or probabilities (B, C) of mixed images.

        Raises:
            DataError: a label is needed and missing.
        """
        weights, parts = self._weights, {}
        if weights.labels != "none":
            _check_labels(targets)
        if weights.ce:
            parts["ce"] = weights.ce * F.cross_entropy(
                student.logits_BC.float(), targets, label_smoothing=weights.label_smoothing
            )
        if teacher is None:
            return parts
        if weights.kl:
            parts["kl"] = weights.kl * soft_label_loss(
                student.logits_BC, teacher.logits_BC, weights.temperature
            )
        if weights.class_kl:
            parts["class_kl"] = weights.class_kl * soft_label_loss(
                self._class_tokens(student.stream), self._class_tokens(teacher.stream)
            )
        if weights.tokens:
            parts["tokens"] = weights.tokens * self.token_loss(student.state, teacher.stream)
        if weights.encoders and student.encoders:
            each = [
                self.token_loss(state, teacher.encoders[index].stream)
                for index, state in student.encoders.items()
            ]
            parts["encoders"] = weights.encoders * torch.stack(each).mean()
        if weights.dense:
            parts["dense"] = self._dense_loss(student, teacher, targets)
        return parts

    def token_loss(self, student: State, teacher: Tensor) -> Tensor:
        """Weighted mean square difference of normalised tokens.

        The teacher's tokens are averaged as the student's have merged, and those of rows that
        the student leaves out are too. A token weighs as much as what it stands for.

        Args:
            student: behind one of the variant's encoders.
            teacher: the stream behind the original's same encoder, (B, N, D).
        """
        expected = self._normalised(student.tokens_of(teacher))
        error_BN = (self._normalised(student.stream) - expected).square().mean(-1)
        weights_BN = self._adapter.token_weights(
            self._model, student.stream, self._weights.class_weight
        )
        if student.sizes is not None:
            weights_BN = weights_BN * student.sizes[:, : weights_BN.shape[1]]
        return (weights_BN * error_BN).sum() / weights_BN.sum()

    def _class_tokens(self, stream: Tensor) -> Tensor:
        """The class tokens (…, D), or the patches' mean where no head reads any."""
        tokens_BND = self._normalised(stream)
        number = self._adapter.class_tokens(self._model)
        if number:
            return tokens_BND[:, :number].flatten(0, 1)
        return tokens_BND.flatten(1, -2).mean(1)

    def _normalised(self, stream: Tensor) -> Tensor:
        """Every token with mean 0 and variance 1, so that no encoder's scale counts more."""
        vectors = self._adapter.vectors(stream).float()
        return F.layer_norm(vectors, vectors.shape[-1:])

    def _dense_loss(self, student: Outputs, teacher: Outputs, targets: Tensor) -> Tensor:
        assert student.tokens is not None
        assert teacher.tokens is not None
        logits = student.tokens.class_logits_BC
        smoothing = self._weights.label_smoothing
        classes_BC = F.one_hot(targets, logits.shape[-1]).to(logits.dtype)
        labels = TokenLabels(
            classes_BC * (1 - smoothing) + smoothing / logits.shape[-1],
            teacher.tokens.patch_logits_BNC.softmax(-1),
        )
        return token_label_loss(student.tokens, labels, self._weights.dense)


def soft_label_loss(student_BC: Tensor, teacher_BC: Tensor, temperature: float = 1.0) -> Tensor:
    """KL divergence of softened probabilities from the teacher's, times the temperature squared.

    Hinton, Vinyals and Dean, arXiv 1503.02531; its gradient is that of the cross-entropy with the
    teacher's soft labels.
    """
    log_q, log_p = ((of.float() / temperature).log_softmax(-1) for of in (student_BC, teacher_BC))
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True) * temperature**2


def _check_labels(targets: Tensor) -> None:
    if targets.ndim == 1 and bool((targets < 0).any()):
        raise DataError(
            "an image has no label", hint="give class folders, or train with --labels none"
        )
