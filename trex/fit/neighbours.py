"""What features of images say without a classifier: which images are alike.

Letters: B images, D width of the features, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch
from scipy.stats import spearmanr
from torch import Tensor

from trex.fit.loss import unit

#: Similarities are divided by this where a margin between them is weighed as one of logits is.
#: assumption: contrastive models of images learn about as much (CLIP, arXiv 2103.00020, ends at
#: 0.01; SimCLR, arXiv 2002.05709, is best at 0.1)
TEMPERATURE: Final = 0.05
#: images whose similarities are ranked; ranks of all pairs of more say no more
MOST_RANKED: Final = 1000
#: of a class that no other image has; similarities are at least -1
_NONE: Final = -2.0
#: of similarities in memory at a time
_ROWS: Final = 512


def neighbour_scores(features_BD: Tensor) -> Tensor:
    """How like every other image is, (B, B): cosines over the temperature, none to itself."""
    return torch.cat(list(_scores(features_BD)))


def _scores(features_BD: Tensor) -> Iterator[Tensor]:
    """The same, so many rows at a time."""
    features = unit(features_BD)
    for start in range(0, len(features), _ROWS):
        scores = features[start : start + _ROWS] @ features.T / TEMPERATURE
        own = torch.arange(len(scores))
        scores[own, start + own] = _NONE / TEMPERATURE
        yield scores


def class_scores(features_BD: Tensor, labels_B: Tensor) -> Tensor:
    """For every image and class, the likeness of the most like other image of that class, (B, C).

    The first guess is then the label of the nearest neighbour: classification without a head,
    every image left out in its turn.
    """
    classes, parts = int(labels_B.max()) + 1, []
    for scores in _scores(features_BD):
        found = scores.new_full((len(scores), classes), _NONE / TEMPERATURE)
        columns = labels_B.expand(len(scores), -1)
        parts.append(found.scatter_reduce(1, columns, scores, reduce="amax").float())
    return torch.cat(parts)


def rank_correlation(features_BD: Tensor, original_BD: Tensor) -> float:
    """Spearman's correlation of all pairs' similarities, of a variant's and the original's.

    One where a variant calls the same images alike; not a number below three images.
    """
    count = min(len(features_BD), MOST_RANKED)
    rows, columns = torch.triu_indices(count, count, offset=1)
    own, theirs = (
        (unit(of[:count]) @ unit(of[:count]).T)[rows, columns].numpy()
        for of in (features_BD, original_BD)
    )
    return float(spearmanr(own, theirs).statistic)
