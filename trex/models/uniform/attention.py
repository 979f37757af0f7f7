"""UniForm's Reuse Attention: one attention map a layer, shared by all heads (arXiv 2412.02344).

Letters in tensor names: B windows, C channels, R rows and columns of a window, n = R·R tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trex.errors import ModelError
from trex.models.uniform.layers import ConvBN

#: Scores are scaled by `KEY_DIM ** -0.5` at every width: the public code's `key_dim`.
KEY_DIM: Final = 16


class SharedMapAttention(nn.Module):
    """Attention of one window, in steps that a reusing encoder can leave out.

    `project(context(values(x), attention_map(x)))` is the whole; `scores` are the map before
    its softmax. What each step uses:

    - `scores`: `query_key` (`qkvs` and `dws`) makes one query and one key of C/4 channels;
      `attention_biases` holds a bias for every distance in rows and columns, of which row 0
      alone is used (the others belong to the published parameters).
    - `values`: `mix`, one depth-wise convolution a head on its share of the channels.
    - `project`: `proj`, a ReLU and a 1×1 convolution over all heads.

    Args:
        dim: channels in and out.
        num_heads: shares of the channels, each with its own kernel.
        window: rows and columns of a window.
        kernels: side of each head's value kernel; the queries' is the largest.

    Raises:
        ModelError: the channels cannot be shared out, or heads outnumber the kernels.
    """

    bias_index: Tensor

    def __init__(self, dim: int, num_heads: int, window: int, kernels: Sequence[int]) -> None:
        super().__init__()
        if dim % 4 or dim % num_heads or num_heads > len(kernels):
            raise ModelError(
                f"attention of {num_heads} heads on {dim} channels, kernels {tuple(kernels)}, "
                "cannot be built",
                hint="give channels that 4 and the heads divide, and a kernel for every head",
            )
        self.dim = dim
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.window = window
        self.scale = KEY_DIM**-0.5
        query = max(kernels)
        self.qkvs = ConvBN(dim, dim // 2)
        self.dws = ConvBN(dim // 4, dim // 4, kernel=query, groups=dim // 4)
        self.mix = nn.ModuleList(
            nn.Conv2d(self.head_dim, self.head_dim, k, padding=k // 2, groups=self.head_dim)
            for k in kernels[:num_heads]
        )
        self.proj = nn.Sequential(nn.ReLU(), ConvBN(dim, dim, bn_weight=0.0))
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, window * window))
        self.register_buffer("bias_index", _distances(window), persistent=False)

    def query_key(self, x_BCRR: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled queries and keys, (B, n, C/4) each."""
        query, key = self.qkvs(x_BCRR).chunk(2, dim=1)
        return self.dws(query).flatten(2).mT * self.scale, key.flatten(2).mT

    def biases(self) -> Tensor:
        """What is added to the scores, (n, n), a row for every query."""
        return self.attention_biases[0][self.bias_index]

    def scores(self, x_BCRR: Tensor) -> Tensor:
        """Scaled and biased scores (B, n, n), a row for every query."""
        query, key = self.query_key(x_BCRR)
        return query @ key.mT + self.biases()

    def attention_map(self, x_BCRR: Tensor) -> Tensor:
        """The map (B, n, n) all heads share; rows sum to 1. What `map` reuse hands on."""
        return self.scores(x_BCRR).softmax(dim=-1)

    def values(self, x_BCRR: Tensor) -> Tensor:
        """The heads' values, concatenated (B, C, n)."""
        return head_values(self.mix, x_BCRR)

    def context(self, values_BCn: Tensor, map_Bnn: Tensor) -> Tensor:
        """The heads' outputs, concatenated (B, C, R, R). What `output` reuse hands on.

        One product for all heads, since they share the map.
        """
        side = self.window
        return (values_BCn @ map_Bnn.mT).reshape(-1, self.dim, side, side)

    def project(self, context_BCRR: Tensor) -> Tensor:
        """The layer's output (B, C, R, R)."""
        y: Tensor = self.proj(context_BCRR)
        return y

    def forward(self, x_BCRR: Tensor) -> Tensor:
        """Attention within each window, (B, C, R, R) in and out."""
        return self.project(self.context(self.values(x_BCRR), self.attention_map(x_BCRR)))


class WindowAttention(nn.Module):
    """`attn` on square windows of a feature map, filled up with zeros to whole windows."""

    def __init__(self, attn: SharedMapAttention) -> None:
        super().__init__()
        self.attn = attn

    def partition(self, x_BCHW: Tensor) -> Tensor:
        """From feature maps to their windows, (B·windows, C, R, R), those of an image together."""
        return to_windows(x_BCHW, self.attn.window)

    def merge(self, windows_BCRR: Tensor, height: int, width: int) -> Tensor:
        """Back from windows to feature maps of `height` rows and `width` columns."""
        return from_windows(windows_BCRR, height, width)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Feature maps (B, C, H, W) in and out."""
        height, width = x_BCHW.shape[-2:]
        return self.merge(self.attn(self.partition(x_BCHW)), height, width)


def head_values(mix: nn.ModuleList, x_BCRR: Tensor) -> Tensor:
    """Every head's convolution on its share of the channels, concatenated (B, C, n)."""
    shares = x_BCRR.chunk(len(mix), dim=1)
    heads = [conv(share) for conv, share in zip(mix, shares, strict=True)]
    return torch.cat(heads, dim=1).flatten(2)


def to_windows(x_BCHW: Tensor, side: int) -> Tensor:
    """Windows of `side` rows and columns (B·windows, C, side, side), those of an image together.

    What is missing to whole windows is filled up with zeros.
    """
    height, width = x_BCHW.shape[-2:]
    if height % side or width % side:
        x_BCHW = F.pad(x_BCHW, (0, -width % side, 0, -height % side))
    batch, channels, height, width = x_BCHW.shape
    x = x_BCHW.reshape(batch, channels, height // side, side, width // side, side)
    return x.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


def from_windows(windows_BCRR: Tensor, height: int, width: int) -> Tensor:
    """Back from windows to feature maps of `height` rows and `width` columns."""
    side = windows_BCRR.shape[-1]
    rows, columns = -(-height // side), -(-width // side)
    x = windows_BCRR.reshape(-1, rows, columns, windows_BCRR.shape[1], side, side)
    x = x.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
    return x[:, :, :height, :width]


def _distances(window: int) -> Tensor:
    """For every pair of a window's tokens, where their distance stands in the bias table.

    The distance of r rows and c columns, whatever their signs, stands at `r·window + c` (LeViT,
    arXiv 2104.01136).
    """
    place = torch.arange(window)
    apart = (place[:, None] - place[None, :]).abs()
    index = apart[:, None, :, None] * window + apart[None, :, None, :]
    return index.reshape(window * window, window * window)
