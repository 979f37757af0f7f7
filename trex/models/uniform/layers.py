"""UniForm's convolutional parts. Every tensor is B×C×H×W: images, channels, rows, columns."""

from __future__ import annotations

from collections import OrderedDict

import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


class ConvBN(nn.Sequential):
    """A convolution without bias, then batch normalisation; the size is kept at stride 1.

    Args:
        in_chans: channels in.
        out_chans: channels out.
        kernel: side of the odd kernel.
        stride: step between outputs.
        groups: `in_chans` for a depth-wise convolution.
        bn_weight: the normalisation's first weight; 0 lets a residual branch start as nothing.
    """

    conv: nn.Conv2d
    bn: nn.BatchNorm2d

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        bn_weight: float = 1.0,
    ) -> None:
        conv = nn.Conv2d(
            in_chans, out_chans, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        bn = nn.BatchNorm2d(out_chans)
        nn.init.constant_(bn.weight, bn_weight)
        super().__init__(OrderedDict(conv=conv, bn=bn))

    def fuse(self) -> nn.Conv2d:
        """One convolution with bias that computes what this does in evaluation."""
        return fuse_conv_bn_eval(self.conv, self.bn)


class Residual(nn.Module):
    """Adds what `m` computes of its input to it."""

    def __init__(self, m: nn.Module) -> None:
        super().__init__()
        self.m = m

    def forward(self, x: Tensor) -> Tensor:
        """`x + m(x)`."""
        y: Tensor = x + self.m(x)
        return y


class Ffn(nn.Module):
    """Two 1×1 convolutions with a ReLU between, twice as wide inside."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.pw1 = ConvBN(dim, 2 * dim)
        self.act = nn.ReLU()
        self.pw2 = ConvBN(2 * dim, dim, bn_weight=0.0)

    def forward(self, x: Tensor) -> Tensor:
        """A tensor of the input's shape."""
        y: Tensor = self.pw2(self.act(self.pw1(x)))
        return y


def depthwise(dim: int, bn_weight: float = 1.0) -> Residual:
    """A residual depth-wise 3×3 convolution."""
    return Residual(ConvBN(dim, dim, kernel=3, groups=dim, bn_weight=bn_weight))


class Stem(nn.Sequential):
    """Four 3×3 convolutions of stride 2 from an image to `dim` channels at a sixteenth of it."""

    def __init__(self, in_chans: int, dim: int) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i, width in enumerate((dim // 8, dim // 4, dim // 2, dim), start=1):
            layers[f"conv{i}"] = ConvBN(in_chans, width, kernel=3, stride=2)
            if i < 4:
                layers[f"relu{i}"] = nn.ReLU()
            in_chans = width
        super().__init__(layers)


class SqueezeExcite(nn.Module):
    """Scales every channel by a gate computed from all channels' means (arXiv 1709.01507)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        # the extra level gives the published names, conv1.conv and conv2.conv
        self.conv1 = nn.Sequential(
            OrderedDict(conv=nn.Conv2d(dim, dim // 4, 1), activate=nn.ReLU())
        )
        self.conv2 = nn.Sequential(
            OrderedDict(conv=nn.Conv2d(dim // 4, dim, 1), activate=nn.Sigmoid())
        )

    def forward(self, x: Tensor) -> Tensor:
        """A tensor of the input's shape."""
        y: Tensor = x * self.conv2(self.conv1(x.mean((2, 3), keepdim=True)))
        return y


class PatchMerging(nn.Module):
    """Halves rows and columns: out to 4·`dim`, depth-wise stride 2, gate, in to `out_dim`."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        hidden = 4 * dim
        self.conv1 = ConvBN(dim, hidden)
        self.conv2 = ConvBN(hidden, hidden, kernel=3, stride=2, groups=hidden)
        self.act = nn.ReLU()
        self.se = SqueezeExcite(hidden)
        self.conv3 = ConvBN(hidden, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """From (B, `dim`, H, W) to (B, `out_dim`, ⌈H/2⌉, ⌈W/2⌉)."""
        x = self.act(self.conv1(x))
        x = self.act(self.conv2(x))
        x = self.conv3(self.se(x))
        return x


class Head(nn.Module):
    """Batch normalisation, dropout and a linear layer on pooled features (B, C)."""

    def __init__(self, dim: int, num_classes: int, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.bn: nn.Module = nn.BatchNorm1d(dim)
        self.drop = nn.Dropout(drop_rate)
        self.linear = nn.Linear(dim, num_classes)
        trunc_normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, classes)."""
        logits: Tensor = self.linear(self.drop(self.bn(features)))
        return logits

    @torch.no_grad()
    def fuse(self) -> Head:
        """Fold the normalisation into the linear layer, in place."""
        if isinstance(self.bn, nn.BatchNorm1d):
            mean, variance = self.bn.running_mean, self.bn.running_var
            assert mean is not None
            assert variance is not None
            scale = self.bn.weight / (variance + self.bn.eps).sqrt()
            self.linear.bias.add_(self.linear.weight @ (self.bn.bias - mean * scale))
            self.linear.weight.mul_(scale)
            self.bn = nn.Identity()
        return self
