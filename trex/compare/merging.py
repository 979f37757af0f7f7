"""ToMe's bipartite soft matching (arXiv 2210.09461, section 3).

Tokens are divided in turn into two sets; every token of the first finds the one of the second it
is most like, and the `r` likest pairs become one token each. The class token, the first of the
first set, is never merged away.

Letters: B images, N tokens, D width, E width of the metric, P and Q tokens of the two sets.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def merge_pairs(
    stream_BND: Tensor, sizes_BN: Tensor, metric_BNE: Tensor, r: int
) -> tuple[Tensor, Tensor]:
    """The tokens and what they stand for after `r` pairs are merged, at most half of them.

    A merged token is the mean of its parts, weighted by their sizes. What is left of the first
    set comes first, in order, so the class token stays where it is.
    """
    tokens = stream_BND.shape[1]
    r = min(r, (tokens - 1) // 2)
    if r <= 0:
        return stream_BND, sizes_BN
    unit = F.normalize(metric_BNE, dim=-1)
    likeness_BPQ = unit[:, ::2] @ unit[:, 1::2].transpose(1, 2)
    likeness_BPQ[:, 0] = -torch.inf
    best_BP, partner_BP = likeness_BPQ.max(dim=-1)
    order_BP = best_BP.argsort(dim=1, descending=True)
    merged_BR = order_BP[:, :r]
    left = order_BP[:, r:].sort(dim=1).values
    partner_BR = partner_BP.gather(1, merged_BR)

    mass_BND = stream_BND * sizes_BN[..., None]
    first, second = mass_BND[:, ::2], mass_BND[:, 1::2]
    sizes_first, sizes_second = sizes_BN[:, ::2], sizes_BN[:, 1::2]
    width = stream_BND.shape[-1]

    def rows(indices: Tensor) -> Tensor:
        return indices[..., None].expand(-1, -1, width)

    second = second.scatter_add(1, rows(partner_BR), first.gather(1, rows(merged_BR)))
    sizes_second = sizes_second.scatter_add(1, partner_BR, sizes_first.gather(1, merged_BR))
    mass = torch.cat((first.gather(1, rows(left)), second), dim=1)
    sizes = torch.cat((sizes_first.gather(1, left), sizes_second), dim=1)
    return mass / sizes[..., None], sizes
