"""Token labelling: LV-ViT's training loss on the class token and on every patch.

Letters in tensor names: B images, N patches, C classes.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from trex.errors import DataError
from trex.models.lvvit import TokenOutputs

#: TReX's fine-tuning of LV-ViT-S (arXiv 2408.12742).
TREX_DENSE_WEIGHT: Final = 0.2
#: LV-ViT's training from scratch (arXiv 2104.10858, β in §3.1).
LVVIT_DENSE_WEIGHT: Final = 0.5


class TokenLabels(NamedTuple):
    """Soft labels of images and of their patches, as an annotating network gives them."""

    class_probs_BC: Tensor
    patch_probs_BNC: Tensor


def token_label_loss(
    outputs: TokenOutputs,
    targets: Tensor | TokenLabels,
    dense_weight: float = TREX_DENSE_WEIGHT,
) -> Tensor:
    """Cross-entropy of the images plus `dense_weight` times that of their patches.

    Where a box of patches came from the mirrored image, the image's label is mixed in the box's
    share of the patches; patch labels need no mixing, since `outputs` has put them back.

    Args:
        outputs: what LV-ViT puts out in training.
        targets: class indices (B,) or probabilities (B, C), which every patch then shares, or
            labels of images and patches.
        dense_weight: `TREX_DENSE_WEIGHT`, or `LVVIT_DENSE_WEIGHT` to train from scratch.

    Raises:
        DataError: the labels are for other numbers of images, patches or classes.
    """
    class_logits_BC, patch_logits_BNC, mixed = outputs
    class_probs_BC, patch_probs_BNC = _token_labels(targets, patch_logits_BNC)
    _check(class_probs_BC, class_logits_BC, "images")
    _check(patch_probs_BNC, patch_logits_BNC, "patches")
    share = mixed.area / patch_logits_BNC.shape[1]
    class_probs_BC = (1 - share) * class_probs_BC + share * class_probs_BC.flip(0)
    image_loss = F.cross_entropy(class_logits_BC, class_probs_BC)
    patch_loss = F.cross_entropy(patch_logits_BNC.flatten(0, 1), patch_probs_BNC.flatten(0, 1))
    return image_loss + dense_weight * patch_loss


def _token_labels(targets: Tensor | TokenLabels, patch_logits_BNC: Tensor) -> TokenLabels:
    if isinstance(targets, TokenLabels):
        return targets
    _, patches, classes = patch_logits_BNC.shape
    if targets.ndim == 1:
        targets = F.one_hot(targets, classes).to(patch_logits_BNC.dtype)
    return TokenLabels(targets, targets.unsqueeze(1).expand(-1, patches, -1))


def _check(labels: Tensor, logits: Tensor, what: str) -> None:
    if labels.shape != logits.shape:
        raise DataError(
            f"the labels of {what} have shape {tuple(labels.shape)}, "
            f"but the model puts out {tuple(logits.shape)}",
            hint="label every image of the batch, for the classes and patches of this model",
        )
