"""A block's operations, from the modules it is made of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final, Literal, cast

from timm.layers import GluMlp, RmsNorm, RmsNormFp32, SwiGLU
from timm.models.vitamin import GeGluMlp
from torch import nn

from trex.architecture import Encoder, Operation, vit_encoder
from trex.models.attention import has_bias, heads_of, input_width

#: how places come into scores: they turn queries and keys, by one table for all heads or by one
#: each; or they add a bias; or not at all
Placing = Literal["turned", "turned by head", "biased", ""]

_NORMS: Final = (((RmsNorm, RmsNormFp32), "rms_norm"),)

#: what of a class decides what a model computes, beside everything that begins with `forward`
_COMPUTES: Final = ("__call__", "_pos_embed", "pool", "_pool", "attn_pool", "_call_impl")


def block_encoder(index: int, block: nn.Module, tokens: int, placing: Placing = "") -> Encoder:
    """An encoder as its block computes it, in the paper's parts.

    Args:
        index: the encoder's.
        block: pre-norm: `norm1`, `attn`, `norm2`, `mlp`.
        tokens: in it.
        placing: what tokens' places add.
    """
    parts = cast(Any, block)
    attention, mlp = parts.attn, parts.mlp
    dim, heads = input_width(attention), attention.num_heads
    width = attention.proj.in_features  # of all heads; not always the model's
    key_width = width // heads * heads_of(attention, 1)
    plain = vit_encoder(index, tokens=tokens, dim=dim, heads=heads, mlp_hidden=dim)
    changes: dict[str, dict[str, Any]] = {
        "norm1": {"function": _norm(parts.norm1)},
        "norm2": {"function": _norm(parts.norm2)},
        "q": {"out_features": width, "bias": has_bias(attention, 0)},
        "k": {"out_features": key_width, "bias": has_bias(attention, 1)},
        "v": {"out_features": key_width, "bias": has_bias(attention, 2)},
        "scores": {"in_features": width // heads},
        "context": {"out_features": width // heads},
        "proj": {"in_features": width, "bias": attention.proj.bias is not None},
    }
    operations: list[Operation] = []
    for op in plain.operations:
        if op.part in ("fc1", "activation"):
            continue
        if op.part == "fc2":
            operations += _mlp(op, mlp)
            continue
        operations.append(replace(op, **changes.get(op.part, {})))
        if op.part == "v" and placing.startswith("turned"):
            by_head = placing == "turned by head"
            operations += _turned(op, "map_input", "attn.turned_q", heads, width, by_head)
            operations += _turned(op, "key_input", "attn.turned_k", heads, key_width, by_head)
        if op.part == "scores" and placing == "biased":
            operations.append(
                Operation(
                    name=f"blocks.{index}.attn.bias", kind="elementwise", part="score_bias",
                    vectors=tokens, out_features=tokens, groups=heads, function="add",
                )
            )  # fmt: skip
    return replace(plain, operations=tuple(operations))


def _turned(
    like: Operation, part: str, where: str, heads: int, width: int, by_head: bool
) -> list[Operation]:
    """Vectors times cosines, plus their neighbours times sines: tables that are fetched."""
    name = f"{like.name.rpartition('.attn.')[0]}.{where}"
    table = like.vectors * width // (1 if by_head else heads)

    def one(label: str, function: str, operand: int | None = None) -> Operation:
        return Operation(
            name=f"{name}.{label}", kind="elementwise", part=part, vectors=like.vectors,
            out_features=width, function=function, operand=operand,
        )  # fmt: skip

    return [
        one("cos", "multiply", table),
        one("sin", "multiply", table),
        one("sum", "add"),
    ]


def _mlp(like: Operation, mlp: nn.Module) -> list[Operation]:
    """Layers and activation, of gated ones both halves; a norm inside is not counted."""
    name, parts = like.name.rpartition(".mlp.")[0], cast(Any, mlp)

    def linear(part: str, where: str) -> Operation:
        layer = mlp.get_submodule(where)
        assert isinstance(layer, nn.Linear)
        return replace(
            like, name=f"{name}.mlp.{where}", part=part, in_features=layer.in_features,
            out_features=layer.out_features, bias=layer.bias is not None,
        )  # fmt: skip

    def pointwise(where: str, function: str, width: int) -> Operation:
        return Operation(
            name=f"{name}.mlp.{where}", kind="elementwise", part="activation",
            vectors=like.vectors, out_features=width, function=function,
        )  # fmt: skip

    firsts, last = [linear("fc1", "fc1")] if hasattr(mlp, "fc1") else [], "fc2"
    if isinstance(mlp, SwiGLU):
        firsts = [linear("fc1", "fc1_g"), linear("fc1", "fc1_x")]
    elif isinstance(mlp, GeGluMlp):
        firsts, last = [linear("fc1", "w0"), linear("fc1", "w1")], "w2"
    second = linear("fc2", last)
    hidden = second.in_features
    between = [pointwise("act", _activation(parts.act), hidden)]
    if isinstance(mlp, (GluMlp, SwiGLU, GeGluMlp)):
        between.append(pointwise("gate", "multiply", hidden))
    return [*firsts, *between, second]


def _norm(module: nn.Module) -> str:
    return next((name for kind, name in _NORMS if isinstance(module, kind)), "layer_norm")


def _activation(module: nn.Module) -> str:
    """As operations call it; all approximations of GELU are one."""
    name = type(module).__name__.lower()
    return "gelu" if "gelu" in name else {"silu": "silu", "swish": "silu"}.get(name, name)


def computes_like(model: nn.Module, bases: tuple[type[nn.Module], ...]) -> bool:
    """Whether a model is one of these classes, or a subclass that computes what its base does."""
    own = type(model)
    base = next((cls for cls in own.__mro__ if cls in bases), None)
    if base is None:
        return False
    added = own.__mro__[: own.__mro__.index(base)]
    changed = {name for cls in added for name in vars(cls) if hasattr(base, name)}
    return not any(name.startswith("forward") or name in _COMPUTES for name in changed)
