"""What a variant loses: how far its answers are from the original's.

Answers are logits of classes, or features where a model has no head. Of features the loss is the
mean cosine distance. It is a divergence too, so all losses are in nats: features of length one,
each the mean of a normal distribution of unit variance, differ by KL = |u − v|² / 2 = 1 − cos.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from trex.models.answers import Answers

#: images whose logits are in memory at a time, in double: 33 MB of a thousand classes
ROWS: Final = 4096


def answers(logits: Tensor, original: Tensor, of: Answers = "classes") -> Tensor:
    """A variant's logits or features, (images, width), for comparison with the original's.

    Where one is not finite, the variant answers nothing: it then counts as having ruled out the
    original's first guess, and knowing no more; or as pointing the other way.
    """
    sound = logits.isfinite().all(dim=1, keepdim=True)
    if bool(sound.all()):
        return logits
    if of == "features":
        return torch.where(sound, logits, -original.to(logits))
    wrong = torch.zeros_like(original).scatter_(1, original.argmax(1, keepdim=True), -1.0)
    return torch.where(sound, logits, wrong.to(logits))


def mean_kl(logits: Tensor, original: Tensor, of: Answers = "classes") -> float:
    """KL divergence of a variant's answers from the original's, in nats an image.

    Of features, the cosine distance: see above.
    """
    total = 0.0
    for own, wanted in zip(torch.split(logits, ROWS), torch.split(original, ROWS), strict=True):
        if of == "features":
            total += float((unit(own) - unit(wanted)).square().sum() / 2)
            continue
        total += float(
            F.kl_div(
                own.double().log_softmax(-1),
                wanted.double().log_softmax(-1),
                reduction="sum",
                log_target=True,
            )
        )
    return total / len(logits)


def unit(features: Tensor) -> Tensor:
    """Features divided by their length, in double; zeros stay zeros."""
    return F.normalize(features.double(), dim=-1)


def sketch(logits: Tensor, original: Tensor, size: int, of: Answers = "classes") -> list[float]:
    """An error in so many numbers: inner products of sketches approximate those of errors.

    An error is what the answers differ by, in the metric of the original's output (Fisher's), so
    its square is the divergence to second order, in nats an image. Each of its numbers is added to
    one of the sketch's, with a sign, both drawn at random and the same for all errors (count
    sketch: Charikar et al. 2002).

    Args:
        logits: (images, classes).
        original: the original's, of the same images.
        size: of the sketch.
        of: what they are of.
    """
    if of == "features":
        difference = unit(logits) - unit(original)
    else:
        probabilities = original.double().softmax(1)
        difference = (logits - original).double()
        difference -= (probabilities * difference).sum(1, keepdim=True)
        difference *= probabilities.sqrt()
    error = difference.flatten() / (2 * len(logits)) ** 0.5
    generator = torch.Generator().manual_seed(0)
    place = torch.randint(size, error.shape, generator=generator)
    sign = 1.0 - 2.0 * torch.randint(2, error.shape, generator=generator)
    return torch.zeros(size, dtype=torch.double).index_add_(0, place, sign * error).tolist()
