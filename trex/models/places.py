"""What tokens' places add to their scores, also of tokens that were merged or share a row.

One rule for all: **a merged token has the mean score of its parts' places.** Its content is one;
only what places add differs between its parts, and that is averaged, of queries and keys, weighted
by how many of the model's tokens each stands for. Of rotary positions (RoFormer, arXiv 2104.09864)
the score qᵀR_iᵀR_jk is linear in each rotation, so the mean over parts is exactly that of the mean
rotations: sines and cosines are averaged. The mean of unlike rotations shortens what it turns: a
token that is spread over the image has no place at that frequency. Of a bias table it is the mean
over the pairs of parts. Tokens that share a row have the mean of their places in its query.

Letters: B images, N tokens, H heads, E width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from timm.layers import apply_rot_embed_cat
from torch import Tensor

from trex.models.adapter import Groups, Tokens

#: of queries: the first so many tokens', those of shared rows, or all
Rows = int | Groups | None


class Place:
    """What the places of an attention's tokens add; nothing, unless a subclass says so."""

    def turn(self, vectors_BHNE: Tensor, rows: Rows = None) -> Tensor:
        """Queries of some rows, or keys, as their places turn them."""
        return vectors_BHNE

    def bias(self, rows: Rows) -> Tensor | None:
        """What is added to the scores of some rows, (B or 1, H, rows, N)."""
        return None


@dataclass(frozen=True, slots=True)
class Rotation(Place):
    """Rotary positions.

    Attributes:
        table: (B or 1, H or 1, N, 2·E), sines and cosines of every token now.
        half: whether the two halves of a vector are turned, not neighbours.
    """

    table: Tensor
    half: bool

    @classmethod
    def of(cls, table: Tensor, tokens: Tokens, prefix: int, *, half: bool) -> Rotation:
        """Of the tokens as they are now.

        Args:
            table: (patches, 2·E) or (H, patches, 2·E), of the model's first patches.
            tokens: as they are now.
            prefix: class and register tokens, which are not turned.
            half: as in the class.
        """
        table = table[None] if table.ndim == 2 else table
        heads, width = table.shape[0], table.shape[-1]
        still = table.new_zeros(heads, prefix, width)
        still[..., width // 2 :] = 1.0
        whole = torch.cat((still, table), dim=1)
        rows = tokens.tokens_of(whole.transpose(0, 1).flatten(1)[None])
        return cls(rows.view(*rows.shape[:2], heads, width).transpose(1, 2), half)

    def turn(self, vectors_BHNE: Tensor, rows: Rows = None) -> Tensor:
        """By the mean rotation of each token."""
        table = self.table
        if isinstance(rows, int):
            table = table[:, :, :rows]
        elif rows is not None:
            heads = table.shape[1]
            flat = table.transpose(1, 2).flatten(2)
            flat = rows.mean(flat.expand(vectors_BHNE.shape[0], -1, -1))
            table = flat.view(*flat.shape[:2], heads, -1).transpose(1, 2)
        turned: Tensor = apply_rot_embed_cat(vectors_BHNE, table, half=self.half)
        return turned


@dataclass(frozen=True, slots=True)
class ScoreBias(Place):
    """A table of relative positions.

    Attributes:
        table: (B or 1, H, N, N), of every pair of tokens now.
        given: the same as the model hands it over, where no token was merged: products of another
            shape may round differently.
    """

    table: Tensor
    given: Tensor | None = None

    @classmethod
    def of(cls, table: Tensor, tokens: Tokens) -> ScoreBias:
        """Of the tokens as they are now, from a table (1, H, N0, N0) or (H, N0, N0)."""
        whole = table if table.ndim == 4 else table[None]
        if tokens.sizes is None:
            return cls(whole, table)
        for _ in range(2):  # means of rows, then of columns
            heads, columns = whole.shape[1], whole.shape[3]
            rows = tokens.tokens_of(whole.transpose(1, 2).flatten(2))
            whole = rows.view(*rows.shape[:2], heads, columns).permute(0, 2, 3, 1)
        return cls(whole)

    def bias(self, rows: Rows) -> Tensor:
        """The rows' means."""
        table = self.table
        if rows is None:
            return table if self.given is None else self.given
        if isinstance(rows, int):
            return table[:, :, :rows]
        heads = table.shape[1]
        flat = rows.mean(table.transpose(1, 2).flatten(2).expand(rows.target.shape[0], -1, -1))
        return flat.view(*flat.shape[:2], heads, -1).transpose(1, 2)


#: of tokens whose places add nothing
NO_PLACE: Final = Place()
