"""LV-ViT's stem and encoder."""

from __future__ import annotations

from typing import Final

import torch
from timm.layers import Attention, DropPath, Mlp, to_2tuple
from torch import Tensor, nn

from trex.errors import ModelError


class ConvStem(nn.Module):
    """Four convolutions from an image to a grid of patch embeddings, 16×16 pixels a patch.

    Raises:
        ModelError: `img_size` is not made of whole patches.
    """

    patch_size: Final = (16, 16)

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        embed_dim: int = 384,
        width: int = 64,
    ) -> None:
        super().__init__()
        self.img_size: tuple[int, int] = tuple(to_2tuple(img_size))
        if any(side < 16 or side % 16 for side in self.img_size):
            raise ModelError(
                f"LV-ViT cannot cut an image of {_size(self.img_size)} pixels into patches",
                hint="give an img_size whose sides are multiples of 16",
            )
        self.grid_size = (self.img_size[0] // 16, self.img_size[1] // 16)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        self.conv1 = nn.Conv2d(in_chans, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.act = nn.ReLU(inplace=True)
        self.proj = nn.Conv2d(width, embed_dim, 8, stride=8)

    def forward(self, images: Tensor) -> Tensor:
        """From images (B, channels, height, width) to patches (B, H, W, D).

        Raises:
            ModelError: the images are not of the size the model was built for.
        """
        if tuple(images.shape[-2:]) != self.img_size:
            raise ModelError(
                f"the model takes images of {_size(self.img_size)} pixels, "
                f"not {_size(images.shape[-2:])}",
                hint="resize the images, or build the model with another img_size",
            )
        x = self.act(self.bn1(self.conv1(images)))
        x = self.act(self.bn2(self.conv2(x)))
        x = self.act(self.bn3(self.conv3(x)))
        patches: Tensor = self.proj(x).permute(0, 2, 3, 1)
        return patches


class LVBlock(nn.Module):
    """A pre-norm encoder whose two branches are divided by `skip_lam` before they are added."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        skip_lam: float,
        proj_drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.skip_lam = skip_lam
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(
            dim, num_heads, qkv_bias=False, attn_drop=attn_drop, proj_drop=proj_drop
        )
        self.drop_path1 = DropPath(drop_path) if drop_path else nn.Identity()
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop=proj_drop)
        self.drop_path2 = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x_BND: Tensor) -> Tensor:
        """The next encoder's input, of the same shape."""
        x_BND = x_BND + self.drop_path1(self.attn(self.norm1(x_BND))) / self.skip_lam
        x_BND = x_BND + self.drop_path2(self.mlp(self.norm2(x_BND))) / self.skip_lam
        return x_BND


def _size(size: tuple[int, ...] | torch.Size) -> str:
    return "×".join(map(str, size))
