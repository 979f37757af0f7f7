"""Merging tokens: ToMe's bipartite matching (arXiv 2210.09461, section 3), as an assignment.

Tokens are divided in turn into two sets; every token of the first finds the one of the second it
is most like, and the likest pairs become one token each. Nothing is left out: a merged token
stands for all its parts, so attention, pooling and fits weigh it by its size.

The number of pairs is fixed, so all shapes are static. An image's assignment depends on that image
alone, so results do not depend on the batch.

Letters: B images, N tokens before, M after, D width, E width of what is compared, H heads.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

#: below any cosine: merged only where nothing else is left
_LAST_RESORT: Final = -2.0
#: keeps the mean of nothing (padding) at nothing
_LEAST_SIZE: Final = 1e-6


class Assignment(NamedTuple):
    """Which token every token becomes part of.

    Attributes:
        target: (B, N), of whole numbers below M.
        share: (B, N): a token's size as a share of its target's; of one target they add up to 1.
        sizes: (B, M): what the tokens stand for afterwards, in tokens of the model's input.
    """

    target: Tensor
    share: Tensor
    sizes: Tensor

    def mean(self, rows_BND: Tensor) -> Tensor:
        """Tokens by tokens, (B, M, D): means of what becomes one, weighted by size."""
        return _sum(rows_BND * self.share.to(rows_BND.dtype)[..., None], self.target, self._after)

    def mean_map(self, map_BHNN: Tensor) -> Tensor:
        """Attention probabilities, (B, H, M, M): means of rows, sums of columns."""
        heads = map_BHNN.shape[1]
        target = self.target.repeat_interleave(heads, dim=0)
        share = self.share.to(map_BHNN.dtype).repeat_interleave(heads, dim=0)
        means = _sum(map_BHNN.flatten(0, 1) * share[..., None], target, self._after)
        return _sum(means.mT, target, self._after).mT.reshape(
            *map_BHNN.shape[:2], self._after, self._after
        )

    def follow(self, groups: Tensor | None) -> Tensor:
        """(B, N0): where each of the model's first tokens is now, from where it was before."""
        return self.target if groups is None else self.target.gather(1, groups)

    @property
    def _after(self) -> int:
        return self.sizes.shape[1]


def match(keys_BNE: Tensor, pairs: int, *, protected: int, sizes_BN: Tensor | None) -> Assignment:
    """Who merges with whom.

    What is left of the first set comes first, then the second set, each in order; the first
    `protected` tokens stay where they are. A token of size 0 (padding) takes no token's place:
    it is merged with another of them, and never counts.

    Args:
        keys_BNE: what tokens are compared by: directions only.
        pairs: at most half of the tokens that are not protected.
        protected: the first so many tokens do not merge.
        sizes_BN: what the tokens stand for; None for one each.
    """
    with torch.no_grad():
        batch, tokens = keys_BNE.shape[:2]
        unit = F.normalize(keys_BNE.detach(), dim=-1)
        likeness = unit[:, ::2] @ unit[:, 1::2].mT
        if sizes_BN is not None:
            empty = sizes_BN == 0
            apart = empty[:, ::2, None] != empty[:, None, 1::2]
            likeness = likeness.masked_fill(apart, _LAST_RESORT)
        first_kept, second_kept = (protected + 1) // 2, protected // 2
        likeness = likeness[:, first_kept:, second_kept:]
        best, partner = likeness.max(dim=-1)
        merged = best.topk(pairs, dim=1).indices
        gone = torch.zeros_like(best, dtype=torch.int64).scatter(1, merged, 1)
        left = likeness.shape[1] - pairs
        place_first = protected + (1 - gone).cumsum(dim=1) - 1
        place_second = protected + left + partner
        place_first = torch.where(gone > 0, place_second, place_first)
        target = keys_BNE.new_empty(batch, tokens, dtype=torch.int64)
        target[:, :protected] = torch.arange(protected, device=target.device)
        target[:, 2 * first_kept :: 2] = place_first
        target[:, 2 * second_kept + 1 :: 2] = (
            protected + left + torch.arange(likeness.shape[2], device=target.device)
        )
        if sizes_BN is None:
            sizes_BN = torch.ones(batch, tokens, device=target.device)
        sizes = _sum(sizes_BN[..., None], target, tokens - pairs).squeeze(-1)
        share = sizes_BN / sizes.gather(1, target).clamp_min(_LEAST_SIZE)
    return Assignment(target, share, sizes)


def mean_of_groups(rows_BND: Tensor, groups: Tensor, tokens: int) -> Tensor:
    """Rows of the model's first tokens as means of the tokens they are in now, (B, M, D)."""
    ones = torch.ones_like(rows_BND[..., :1])
    count = _sum(ones, groups, tokens).clamp_min(1.0)
    return _sum(rows_BND, groups, tokens) / count


def copies_of_groups(rows_BMD: Tensor, groups: Tensor) -> Tensor:
    """Every token copied back to all places that it stands for, (B, N0, D).

    A mean, a maximum or an attention over these is one over the tokens, weighted by size.
    """
    return rows_BMD.gather(1, groups[..., None].expand(-1, -1, rows_BMD.shape[-1]))


def _sum(rows_BND: Tensor, target_BN: Tensor, after: int) -> Tensor:
    """Sums of the rows with one target, (B, M, D)."""
    batch, _, width = rows_BND.shape
    # one flat list of rows: torch adds these several times faster than an expanded index
    offset = torch.arange(batch, device=target_BN.device)[:, None] * after
    flat = rows_BND.new_zeros(batch * after, width)
    flat = flat.index_add(0, (target_BN + offset).flatten(), rows_BND.flatten(0, 1))
    return flat.view(batch, after, width)
