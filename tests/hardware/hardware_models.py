"""Architectures for tests: the dimensions the paper evaluates, and random ones."""

from __future__ import annotations

from hypothesis import strategies as st

from trex.architecture import Architecture, Operation, vit_encoder
from trex.plan import Reuse, ReusePlan


def vit(
    name: str = "vit",
    depth: int = 3,
    dim: int = 64,
    heads: int = 4,
    tokens: int = 17,
    mlp: int = 256,
) -> Architecture:
    stem = Operation(
        name="patch_embed.proj", kind="static_matmul", part="stem",
        vectors=tokens - 1, in_features=768, out_features=dim, bias=True,
    )  # fmt: skip
    norm = Operation(
        name="norm", kind="elementwise", part="norm",
        vectors=tokens, out_features=dim, function="layer_norm",
    )  # fmt: skip
    head = Operation(
        name="head", kind="static_matmul", part="head",
        vectors=1, in_features=dim, out_features=1000, bias=True,
    )  # fmt: skip
    encoders = (
        vit_encoder(i, tokens=tokens, dim=dim, heads=heads, mlp_hidden=mlp) for i in range(depth)
    )
    return Architecture(model=name, body=(stem, *encoders, norm, head))


DEIT_S = vit("deit_small_patch16_224", depth=12, dim=384, heads=6, tokens=197, mlp=1536)
LVVIT_S = vit("lvvit_s", depth=16, dim=384, heads=6, tokens=197, mlp=1152)


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    heads = draw(st.integers(1, 6))
    return vit(
        depth=draw(st.integers(1, 5)),
        dim=heads * draw(st.sampled_from([8, 20, 32, 64, 80])),
        heads=heads,
        tokens=draw(st.integers(2, 90)),
        mlp=draw(st.integers(1, 300)),
    )


@st.composite
def plans(draw: st.DrawFn, depth: int) -> ReusePlan:
    """Any valid plan, not only those that reuse the nearest producer."""
    reuses, producers = [], [0]
    for encoder in range(1, depth):
        if draw(st.booleans()):
            tensor = draw(st.sampled_from(["output", "map"]))
            reuses.append(Reuse(encoder, draw(st.sampled_from(producers)), tensor))
        else:
            producers.append(encoder)
    return ReusePlan(tuple(reuses))
