"""What LV-ViT puts out in training, and mixing tokens between images (arXiv 2104.10858, §3.2)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class TokenBox(NamedTuple):
    """Rows `top` to `bottom` and columns `left` to `right` of the patch grid, ends excluded."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def area(self) -> int:
        """How many patches are inside."""
        return (self.bottom - self.top) * (self.right - self.left)


class TokenOutputs(NamedTuple):
    """What LV-ViT puts out in training: logits of the image and of every patch."""

    class_logits_BC: Tensor
    #: in the places of the image itself: what was mixed in is put back into the image it is from
    patch_logits_BNC: Tensor
    #: what of the patches came from the image in the mirrored place of the batch
    mixed: TokenBox


def random_box(height: int, width: int) -> TokenBox:
    """A box for mixing tokens: the share of the grid outside it is drawn from U(0, 1).

    CutMix's box (arXiv 1905.04899) with Beta(1, 1) on the patch grid: the grid's aspect, the
    centre anywhere, cut off at the border.
    """
    share, row, column = torch.rand(3).tolist()
    side = (1.0 - share) ** 0.5
    middle_row, middle_column = int(row * height), int(column * width)
    half_rows, half_columns = int(height * side) // 2, int(width * side) // 2
    return TokenBox(
        top=max(middle_row - half_rows, 0),
        left=max(middle_column - half_columns, 0),
        bottom=min(middle_row + half_rows, height),
        right=min(middle_column + half_columns, width),
    )


def mix_tokens(grid_BHWD: Tensor, box: TokenBox) -> Tensor:
    """Swap what is inside `box` between the images in mirrored places of the batch.

    Doing it twice gives the first tensor back.
    """
    mixed = grid_BHWD.clone()
    rows, columns = slice(box.top, box.bottom), slice(box.left, box.right)
    mixed[:, rows, columns] = grid_BHWD.flip(0)[:, rows, columns]
    return mixed
