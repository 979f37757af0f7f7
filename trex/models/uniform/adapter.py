"""Reuse on UniForm: encoders of one stage exchange the maps of their windows, or their outputs.

Letters: B images, C channels, H rows, W columns, V windows of an image, R rows and columns of a
window, n = R·R tokens.
"""

from __future__ import annotations

from typing import Any, Final, cast

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
from trex.models.staged import ConvolutionalAdapter, Parts, StagedConsumer
from trex.models.uniform.attention import (
    SharedMapAttention,
    WindowAttention,
    from_windows,
    head_values,
    to_windows,
)
from trex.models.uniform.layers import ConvBN, Ffn, Residual
from trex.models.uniform.model import UniForm, UniFormBlock
from trex.models.vit import check_children

#: convolutions have their normalisations, or are fused with them
_CONV: Final = (ConvBN, nn.Conv2d)
_CHILDREN: Final[dict[str, dict[str, tuple[type[nn.Module], ...]]]] = {
    "": dict.fromkeys(("dw0", "ffn0", "mixer", "dw1", "ffn1"), (Residual,)),
    "dw0": {"m": _CONV},
    "ffn0": {"m": (Ffn,)},
    "mixer": {"m": (WindowAttention,)},
    "mixer.m": {"attn": (SharedMapAttention,)},
    "mixer.m.attn": {
        "qkvs": _CONV, "dws": _CONV, "mix": (nn.ModuleList,), "proj": (nn.Sequential,),
    },
    "mixer.m.attn.proj": {"0": (nn.ReLU,), "1": _CONV},
    "dw1": {"m": _CONV},
    "ffn1": {"m": (Ffn,)},
}  # fmt: skip


class UniformConsumer(StagedConsumer):
    """A UniForm encoder that reuses: without `qkvs`, `dws` and biases, for `output` also `mix`."""

    def __init__(self, block: Any, form: ConsumerForm) -> None:
        attention = block.mixer.m.attn
        super().__init__(attention.proj, form)
        self.window: int = attention.window
        self.dw0 = block.dw0
        self.ffn0 = block.ffn0
        if form.tensor == "map":
            self.mix = attention.mix
        self.dw1 = block.dw1
        self.ffn1 = block.ffn1

    def before(self, stream: Tensor) -> Tensor:
        """The first depth-wise convolution and FFN."""
        return cast(Tensor, self.ffn0(self.dw0(stream)))

    def context(self, stream: Tensor, reused: Tensor) -> Tensor:
        """The reused output, or the reused maps (B, V, n, n) on the own values."""
        if self.tensor == "output":
            return reused
        values_BCn = head_values(self.mix, to_windows(stream, self.window))
        context_BCn = values_BCn @ reused.flatten(0, 1).mT
        context_BCRR = context_BCn.reshape(*context_BCn.shape[:2], self.window, self.window)
        return from_windows(context_BCRR, *stream.shape[-2:])

    def own(self, stream: Tensor) -> Tensor:
        """The stream: UniForm's attention has no norm in front of it."""
        return stream

    def after(self, stream: Tensor) -> Tensor:
        """The second depth-wise convolution and FFN."""
        return cast(Tensor, self.ffn1(self.dw1(stream)))


class UniformAdapter(ConvolutionalAdapter):
    """UniForm t, s, m and l.

    A map is (B, V, n, n), one for each window. An output is the heads' outputs before ReLU and
    projection, put together from the windows: (B, C, H, W).
    """

    family = "UniForm (uniform_t, uniform_s, uniform_m, uniform_l)"

    def owns(self, model: nn.Module) -> bool:
        """TReX's own class."""
        return type(model) is UniForm

    def check(self, model: nn.Module, name: str) -> None:
        """Every block must be a `UniFormBlock` with the children listed above."""
        for i, stage in enumerate(cast(UniForm, model).stages):
            for j, block in enumerate(cast(Any, stage).blocks):
                where = f"{name}.stages.{i}.blocks.{j}"
                if type(block) is not UniFormBlock:
                    raise ModelError(
                        f"{where} is a {type(block).__name__}, which TReX does not understand",
                        hint="only plain UniForm blocks can reuse attention",
                    )
                for child, understood in _CHILDREN.items():
                    path = f"{where}.{child}".rstrip(".")
                    check_children(block.get_submodule(child), understood, path)

    def attends(self, stage: nn.Module) -> bool:
        """All stages do."""
        return True

    def projecting(self, block: nn.Module) -> nn.Sequential:
        """The attention's `proj`."""
        return _attention(block).proj

    def window_tokens(self, block: nn.Module) -> int:
        """Windows are filled up to whole ones."""
        return _attention(block).window ** 2

    def heads(self, block: nn.Module) -> int:
        """The heads that share the map."""
        return _attention(block).num_heads

    def before(self, block: nn.Module, stream: Tensor) -> Tensor:
        """The first depth-wise convolution and FFN."""
        parts = cast(Any, block)
        return cast(Tensor, parts.ffn0(parts.dw0(stream)))

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
        """Attention in each window by the attention's own steps."""
        attention = _attention(block)
        windows = to_windows(stream, attention.window)
        query, key = attention.query_key(windows)
        biases, groups = attention.biases().expand(key.shape[0], -1, -1), None
        if rows is not None:
            assert not isinstance(rows, int), "a grid has no class token"
            groups = rows.groups(key)
            query, biases = groups.mean(query), groups.mean(biases)
        map_Bnn = (query @ key.mT + biases).softmax(dim=-1)
        if groups is not None:
            map_Bnn = groups.copies(map_Bnn)
        context = attention.context(attention.values(windows), map_Bnn)
        output = from_windows(context, *stream.shape[-2:])
        kept: dict[Wanted, Tensor] = {}
        if "map" in wanted:
            kept["map"] = map_Bnn.reshape(stream.shape[0], -1, *map_Bnn.shape[1:])
        if "output" in wanted:
            kept["output"] = output
        if groups is not None:
            kept["groups"] = groups.target.view(stream.shape[0], -1, key.shape[1])
        return output, kept

    def after(self, block: nn.Module, stream: Tensor) -> Tensor:
        """The second depth-wise convolution and FFN."""
        parts = cast(Any, block)
        return cast(Tensor, parts.ffn1(parts.dw1(stream)))

    def make_consumer(self, block: nn.Module, form: ConsumerForm) -> Consumer:
        """The projection's batch normalisation is folded into the consumer's projection."""
        return UniformConsumer(block, form)

    def parts(self, block: nn.Module) -> Parts:
        """Q and K come from one convolution; their normalisation goes with what the map needs."""
        quarter = _attention(block).dim // 4
        query_key = (("q", quarter), ("k", quarter))
        return (
            ("mixer.m.attn.qkvs.bn", "map_input"),
            ("mixer.m.attn.qkvs", query_key),
            ("mixer.m.attn.dws", "map_input"),
            ("mixer.m.attn.scale", "map_input"),
            ("mixer.m.attn.scores", "scores"),
            ("mixer.m.attn.add", "map_input"),
            ("mixer.m.attn.softmax", "softmax"),
            ("mixer.m.attn.mix", "v"),
            ("mixer.m.attn.context", "context"),
            ("mixer.m.attn.proj.0", "context_activation"),
            ("mixer.m.attn.proj.1", "proj"),
            ("mixer", "residual1"),
            ("dw0", "depthwise"),
            ("ffn0.m.pw1", "fc1"),
            ("ffn0.m.act", "activation"),
            ("ffn0.m.pw2", "fc2"),
            ("ffn0", "residual2"),
            ("dw1", "depthwise"),
            ("ffn1.m.pw1", "fc1"),
            ("ffn1.m.act", "activation"),
            ("ffn1.m.pw2", "fc2"),
            ("ffn1", "residual2"),
        )

    def input_size(self, model: nn.Module) -> tuple[int, int, int]:
        """What the model was built for."""
        return (image_channels(model), *cast(UniForm, model).img_size)


def _attention(block: nn.Module) -> SharedMapAttention:
    return cast(SharedMapAttention, cast(Any, block).mixer.m.attn)
