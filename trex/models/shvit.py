"""Reuse on timm's SHViT (arXiv 2401.16456): single-head attention on a part of the channels.

Letters: B images, C channels, P of them that attend, H rows, W columns, n = H·W tokens.
"""

from __future__ import annotations

from typing import Any, Final, cast

import timm.data
import torch
from timm.layers import GroupNorm1
from timm.models.shvit import FFN, SHSA, BasicBlock, Conv2dNorm, Residual, SHViT
from torch import Tensor, nn

from trex.errors import ModelError
from trex.models.adapter import (
    AttentionRows,
    Consumer,
    ConsumerForm,
    Tokens,
    Wanted,
    image_channels,
)
from trex.models.staged import ConvolutionalAdapter, Parts, StagedConsumer, conv_and_norm
from trex.models.vit import check_children

_CHILDREN: Final[dict[str, dict[str, tuple[type[nn.Module], ...]]]] = {
    "": dict.fromkeys(("conv", "mixer", "ffn"), (Residual,)),
    "conv": {"m": (Conv2dNorm,)},
    "mixer": {"m": (SHSA,)},
    "mixer.m": {"pre_norm": (GroupNorm1,), "qkv": (Conv2dNorm,), "proj": (nn.Sequential,)},
    "mixer.m.proj": {"0": (nn.ReLU,), "1": (Conv2dNorm,)},
    "ffn": {"m": (FFN,)},
}


class ShvitConsumer(StagedConsumer):
    """An SHViT encoder that reuses.

    The channels beside the attention stay its own. With the `map` it keeps the first norm and
    the values' rows of `qkv`, as `v`.
    """

    def __init__(self, block: Any, form: ConsumerForm) -> None:
        attention = block.mixer.m
        super().__init__(attention.proj, form)
        self.widths: list[int] = [attention.pdim, attention.dim - attention.pdim]
        self.conv = block.conv
        if form.tensor == "map" or form.own_input:
            self.pre_norm = attention.pre_norm
        if form.tensor == "map":
            self.v = _last_outputs(attention.qkv, attention.pdim)
        self.ffn = block.ffn

    def before(self, stream: Tensor) -> Tensor:
        """The depth-wise convolution."""
        return cast(Tensor, self.conv(stream))

    def context(self, stream: Tensor, reused: Tensor) -> Tensor:
        """The reused output (B, P, H, W), or the reused map (B, n, n) on the own values.

        The own other channels stand behind it.
        """
        attending, others = torch.split(stream, self.widths, dim=1)
        if self.tensor == "map":
            reused = _context(self.v(self.pre_norm(attending)), reused)
        return torch.cat((reused, others), dim=1)

    def own(self, stream: Tensor) -> Tensor:
        """The stream, the channels that attend normalised."""
        attending, others = torch.split(stream, self.widths, dim=1)
        return torch.cat((self.pre_norm(attending), others), dim=1)

    def after(self, stream: Tensor) -> Tensor:
        """The FFN."""
        return cast(Tensor, self.ffn(stream))


class ShvitAdapter(ConvolutionalAdapter):
    """SHViT s1 to s4; stages without attention hold no encoders.

    A map is (B, n, n). What others reuse as `output` is the attention's own, (B, P, H, W); the
    projection reads the other channels behind it.
    """

    family = "timm's SHViT (shvit_s1 to shvit_s4)"

    def owns(self, model: nn.Module) -> bool:
        """Exactly timm's class."""
        return type(model) is SHViT

    def check(self, model: nn.Module, name: str) -> None:
        """Some stage attends, and every block of those that do has the children listed above."""
        attending = self._attending(model)
        if not attending:
            raise ModelError(f"{name} has no attention", hint="choose another variant")
        for i in attending:
            for j, block in enumerate(cast(Any, model).stages[i].blocks):
                where = f"{name}.stages.{i}.blocks.{j}"
                if type(block) is not BasicBlock:
                    raise ModelError(
                        f"{where} is a {type(block).__name__}, which TReX does not understand",
                        hint="only plain SHViT blocks can reuse attention",
                    )
                for child, understood in _CHILDREN.items():
                    path = f"{where}.{child}".rstrip(".")
                    check_children(block.get_submodule(child), understood, path)

    def attends(self, stage: nn.Module) -> bool:
        """Its first block has a mixer; a stage's first block never reuses."""
        return not isinstance(cast(Any, stage).blocks[0].mixer, nn.Identity)

    def projecting(self, block: nn.Module) -> nn.Sequential:
        """The attention's `proj`."""
        return cast(nn.Sequential, _attention(block).proj)

    def heads(self, block: nn.Module) -> int:
        """One."""
        return 1

    def before(self, block: nn.Module, stream: Tensor) -> Tensor:
        """The depth-wise convolution."""
        return cast(Tensor, cast(Any, block).conv(stream))

    def attend(
        self,
        block: nn.Module,
        stream: Tensor,
        wanted: frozenset[Wanted],
        *,
        sizes: Tensor | None = None,
        rows: AttentionRows = None,
        tokens: Tokens | None = None,
    ) -> tuple[Tensor, dict[Wanted, Tensor]]:
        """Single-head attention on the first channels, the others behind it."""
        attention = _attention(block)
        widths = [attention.pdim, attention.dim - attention.pdim]
        attending, others = torch.split(stream, widths, dim=1)
        parts = attention.qkv(attention.pre_norm(attending))
        query, key, value = parts.split(
            (attention.qk_dim, attention.qk_dim, attention.pdim), dim=1
        )
        query, groups = query.flatten(2).mT, None
        if rows is not None:
            assert not isinstance(rows, int), "a grid has no class token"
            groups = rows.groups(key.flatten(2).mT)
            query = groups.mean(query)
        map_Bnn = (query @ key.flatten(2) * attention.scale).softmax(dim=-1)
        if groups is not None:
            map_Bnn = groups.copies(map_Bnn)
        context = _context(value, map_Bnn)
        kept: dict[Wanted, Tensor] = {}
        if "map" in wanted:
            kept["map"] = map_Bnn
        if "output" in wanted:
            kept["output"] = context
        if groups is not None:
            kept["groups"] = groups.target
        return torch.cat((context, others), dim=1), kept

    def after(self, block: nn.Module, stream: Tensor) -> Tensor:
        """The FFN."""
        return cast(Tensor, cast(Any, block).ffn(stream))

    def make_consumer(self, block: nn.Module, form: ConsumerForm) -> Consumer:
        """The projection's batch normalisation is folded into the consumer's projection."""
        return ShvitConsumer(block, form)

    def parts(self, block: nn.Module) -> Parts:
        """Q, K and V come from one convolution, and their normalisation is one operation."""
        attention = _attention(block)
        widths = (("q", attention.qk_dim), ("k", attention.qk_dim), ("v", attention.pdim))
        map_values = (("map_input", 2 * attention.qk_dim), ("v", attention.pdim))
        return (
            ("mixer.m.pre_norm", "norm1"),
            ("mixer.m.qkv.bn", map_values),
            ("mixer.m.qkv", widths),
            ("mixer.m.scores", "scores"),
            ("mixer.m.scale", "map_input"),
            ("mixer.m.softmax", "softmax"),
            ("mixer.m.context", "context"),
            ("mixer.m.proj.0", "context_activation"),
            ("mixer.m.proj.1", "proj"),
            ("mixer", "residual1"),
            ("conv", "depthwise"),
            ("ffn.m.pw1", "fc1"),
            ("ffn.m.act", "activation"),
            ("ffn.m.pw2", "fc2"),
            ("ffn", "residual2"),
        )

    def input_size(self, model: nn.Module) -> tuple[int, int, int]:
        """What timm knows: SHViT takes any size."""
        _, height, width = timm.data.resolve_model_data_config(model)["input_size"]
        return image_channels(model), height, width


def _attention(block: nn.Module) -> Any:
    return cast(Any, block).mixer.m


def _context(value_BPHW: Tensor, map_Bnn: Tensor) -> Tensor:
    """The map's means of the values, (B, P, H, W)."""
    return (value_BPHW.flatten(2) @ map_Bnn.mT).reshape(value_BPHW.shape)


@torch.no_grad()
def _last_outputs(module: nn.Module, width: int) -> nn.Module:
    """A copy of what makes the last outputs of a 1×1 convolution with normalisation."""
    convolution, norm = conv_and_norm(module)
    assert norm is not None
    like = convolution.weight
    part = Conv2dNorm(convolution.in_channels, width).to(like.device, like.dtype)
    part.bn.eps, part.bn.momentum = norm.eps, norm.momentum
    state = {
        name: value[-width:] if value.ndim else value
        for name, value in module.state_dict().items()
    }
    part.load_state_dict(state)
    return cast(nn.Module, part.train(module.training))
