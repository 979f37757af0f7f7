"""Merging tokens: ToMe's bipartite matching (arXiv 2210.09461, section 3), as an assignment.

Tokens are divided in turn into two sets; every token of the first finds the one of the second it
is most like, and the likest pairs become one token each. Nothing is left out: a merged token
stands for all its parts, so attention, pooling and fits weigh it by its size.

The number of pairs is fixed, so all shapes are static. An image's assignment depends on that image
alone, so results do not depend on the batch.

Letters: B images, N tokens before, M after, D width, E width of what is compared, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from trex.errors import PlanError
from trex.plan import most_pairs

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

    def copies(self, rows_BMD: Tensor) -> Tensor:
        """Every row copied back to all tokens that it stands for, (B, N, D)."""
        return copies_of_groups(rows_BMD, self.target)

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
        return _assigned(target, tokens - pairs, sizes_BN)


@dataclass(frozen=True, slots=True)
class Sharing:
    """How tokens share rows of attention; the tokens stay.

    Attributes:
        encoder: whose, for messages.
        rows: how many are left.
        protected: the first so many tokens keep rows of their own.
        sizes: (B, N), what the tokens stand for; None for one each.
        target: (B, N), or (B, windows, N): which row every token has; None where they are matched.
    """

    encoder: int
    rows: int
    protected: int
    sizes: Tensor | None
    target: Tensor | None = None

    def groups(self, keys_BNE: Tensor) -> Assignment:
        """Who shares a row, by keys: pairs become one, and again, until so many rows are left.

        Raises:
            PlanError: there are fewer tokens than rows.
        """
        tokens = keys_BNE.shape[1]
        if tokens < self.rows:
            raise PlanError(
                f"encoder {self.encoder} shares {self.rows} rows among {tokens} tokens",
                hint="give larger images, or a plan of fewer rows",
            )
        with torch.no_grad():
            known = self.target
            return self.assigned(self._matched(keys_BNE.detach()) if known is None else known)

    def assigned(self, target: Tensor) -> Assignment:
        """Groups by the row that every token has, (B, N) or (B, windows, N)."""
        return _assigned(target.flatten(0, -2), self.rows, self.sizes)

    def _matched(self, keys: Tensor) -> Tensor:
        target = torch.arange(keys.shape[1], device=keys.device).expand(keys.shape[:2])
        sizes = self.sizes
        while keys.shape[1] > self.rows:
            tokens = keys.shape[1]
            pairs = min(tokens - self.rows, most_pairs(tokens, self.protected))
            step = match(keys, pairs, protected=self.protected, sizes_BN=sizes)
            keys, sizes, target = step.mean(keys), step.sizes, step.follow(target)
        return target


def mean_of_groups(rows_BND: Tensor, groups: Tensor, tokens: int) -> Tensor:
    """Rows of the model's first tokens as means of the tokens they are in now, (B, M, D)."""
    ones = torch.ones_like(rows_BND[..., :1])
    count = _sum(ones, groups, tokens).clamp_min(1.0)
    return _sum(rows_BND, groups, tokens) / count


def copies_of_groups(rows_BMD: Tensor, groups: Tensor) -> Tensor:
    """Every token copied back to all places that it stands for, (B, N0, D).

    A mean, a maximum or an attention over these is one over the tokens, weighted by size.
    """
    batch, after, width = rows_BMD.shape
    flat = rows_BMD.reshape(batch * after, width).index_select(0, _flat(groups, after))
    return flat.view(batch, groups.shape[1], width)


def _sum(rows_BND: Tensor, target_BN: Tensor, after: int) -> Tensor:
    """Sums of the rows with one target, (B, M, D)."""
    batch, _, width = rows_BND.shape
    flat = rows_BND.new_zeros(batch * after, width)
    flat = flat.index_add(0, _flat(target_BN, after), rows_BND.flatten(0, 1))
    return flat.view(batch, after, width)


def _flat(target_BN: Tensor, after: int) -> Tensor:
    """Places in one list of all images' rows: torch is several times faster on these."""
    offset = torch.arange(target_BN.shape[0], device=target_BN.device)[:, None] * after
    return (target_BN + offset).flatten()


def _assigned(target_BN: Tensor, after: int, sizes_BN: Tensor | None) -> Assignment:
    if sizes_BN is None:
        sizes_BN = torch.ones(target_BN.shape, device=target_BN.device)
    sizes = _sum(sizes_BN[..., None], target_BN, after).squeeze(-1)
    share = sizes_BN / sizes.gather(1, target_BN).clamp_min(_LEAST_SIZE)
    return Assignment(target_BN, share, sizes)
