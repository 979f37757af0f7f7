"""Tracing: nets counted by hand, what is not counted, and what tracing must leave alone."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trex.architecture import Architecture
from trex.errors import ModelError
from trex.models.registry import create
from trex.models.trace import operators, trace_architecture

STATIC, DYNAMIC = "static_matmul", "dynamic_matmul"

# ---------------------------------------------------------------- nets counted by hand


class Net(nn.Module):
    """A forward pass written as a function of its layers and the image."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **layers: Any) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self._forward = forward

    def forward(self, image: Tensor) -> Tensor:
        return self._forward(self, image)


def traced(
    forward: Callable[[Any, Tensor], Tensor],
    size: tuple[int, int, int] = (1, 5, 8),
    **layers: Any,
) -> Architecture:
    """Trace a net whose image (1, 1, 5, 8) can serve as 5 tokens of 8 values."""
    return trace_architecture(Net(forward, **layers), size, "net")


def matmuls(architecture: Architecture) -> list[tuple[str, str, int, int, int, int]]:
    return [
        (o.name, o.kind, o.groups, o.vectors, o.in_features, o.out_features)
        for o in architecture.operations
        if o.macs
    ]


def test_convolution_is_a_product_over_its_kernel():
    conv = nn.Conv2d(3, 8, kernel_size=(3, 5), stride=2, padding=1)
    got = traced(lambda m, x: m.conv(x), (3, 16, 16), conv=conv)
    # 8×7 positions, each a vector of 3 channels × 15 taps, into 8 channels
    assert matmuls(got) == [("conv", STATIC, 1, 8 * 7, 45, 8)]
    assert got.macs == 56 * 45 * 8
    assert got.operations[0].bias


def test_grouped_and_depthwise_convolutions_are_small_matrices_side_by_side():
    grouped = nn.Conv2d(8, 12, 3, groups=4, padding=1, bias=False)
    depthwise = nn.Conv2d(12, 12, 3, groups=12, padding=1, bias=False)
    got = traced(lambda m, x: m.b(m.a(x)), (8, 6, 6), a=grouped, b=depthwise)
    assert matmuls(got) == [("a", STATIC, 4, 36, 18, 3), ("b", STATIC, 12, 36, 9, 1)]
    assert not got.operations[0].bias


def test_transposed_convolution_spreads_every_input_pixel():
    conv = nn.ConvTranspose2d(6, 4, 2, stride=2, groups=2)
    got = traced(lambda m, x: m.conv(x), (6, 5, 5), conv=conv)
    # 25 pixels, each of 3 channels a group, onto 2×2 pixels of 2 channels a group
    assert matmuls(got) == [("conv", STATIC, 2, 25, 3, 8)]


def test_linear_takes_any_number_of_axes():
    got = traced(lambda m, x: m.fc(x), (3, 4, 7), fc=nn.Linear(7, 2, bias=False))
    assert matmuls(got) == [("fc", STATIC, 1, 12, 7, 2)]
    assert got.operations[0].part == "fc"


def heads_of(layer: nn.Linear, x: Tensor) -> list[Tensor]:
    """(1, 1, 5, 8) into query, key and value of 2 heads, (1, 2, 5, 4) each."""
    qkv = layer(x).reshape(1, 5, 3, 2, 4).permute(2, 0, 3, 1, 4)
    return list(qkv.unbind(0))


def fused(m: Any, x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(*heads_of(m.qkv, x))


def unfused(m: Any, x: Tensor) -> Tensor:
    q, k, v = heads_of(m.qkv, x)
    return (q * 4**-0.5 @ k.transpose(-2, -1)).softmax(-1) @ v


def by_einsum(m: Any, x: Tensor) -> Tensor:
    q, k, v = heads_of(m.qkv, x)
    attention = torch.einsum("bhnd,bhmd->bhnm", q * 4**-0.5, k).softmax(dim=-1)
    return torch.einsum("bhnm,bhmd->bhnd", attention, v)


def channels_first(m: Any, x: Tensor) -> Tensor:
    q, k, v = heads_of(m.qkv, x)
    attention = (q * 4**-0.5 @ k.mT).softmax(-1)
    return v.mT @ attention.mT


@pytest.mark.parametrize("attend", [fused, unfused, by_einsum, channels_first])
def test_attention_is_the_same_however_it_is_written(attend):
    got = traced(attend, qkv=nn.Linear(8, 24))
    assert [(o.name, o.part, o.kind) for o in got.operations] == [
        ("qkv", "qkv", STATIC),
        ("scale", "scale", "elementwise"),
        ("scores", "scores", DYNAMIC),
        ("softmax", "softmax", "softmax"),
        ("context", "context", DYNAMIC),
    ]
    assert matmuls(got) == [
        ("qkv", STATIC, 1, 5, 8, 24),
        ("scores", DYNAMIC, 2, 5, 4, 5),
        ("context", DYNAMIC, 2, 5, 5, 4),
    ]
    softmax = got.operations[3]
    assert (softmax.groups, softmax.vectors, softmax.out_features) == (2, 5, 5)


def test_attention_counts_its_mask():
    def masked(m: Any, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(*heads_of(m.qkv, x), is_causal=True)

    got = traced(masked, qkv=nn.Linear(8, 24))
    assert [o.name for o in got.operations if o.function == "add"] == ["add"]
    assert sum(o.elements for o in got.operations if o.function == "add") == 2 * 5 * 5


@pytest.mark.parametrize("need_weights", [True, False])
def test_multi_head_attention_of_pytorch(need_weights):
    def attend(m: Any, x: Tensor) -> Tensor:
        tokens = x[0]
        return m.attn(tokens, tokens, tokens, need_weights=need_weights)[0]

    got = traced(attend, attn=nn.MultiheadAttention(8, 2, batch_first=True))
    assert matmuls(got) == [
        ("attn.linear", STATIC, 1, 5, 8, 24),
        ("attn.scores", DYNAMIC, 2, 5, 4, 5),
        ("attn.context", DYNAMIC, 2, 5, 5, 4),
        ("attn.out_proj", STATIC, 1, 5, 8, 8),
    ]


def test_queries_that_share_keys_run_a_product_each():
    def grouped(m: Any, x: Tensor) -> Tensor:
        q, k, v = heads_of(m.qkv, x)
        return F.scaled_dot_product_attention(q, k[:, :1], v[:, :1], enable_gqa=True)

    got = traced(grouped, qkv=nn.Linear(8, 24))
    assert matmuls(got)[1:] == [
        ("scores", DYNAMIC, 2, 5, 4, 5),
        ("context", DYNAMIC, 2, 5, 5, 4),
    ]


def test_linear_attention_grows_with_the_tokens_not_their_square():
    def linear_attention(m: Any, x: Tensor) -> Tensor:
        q, k, v = heads_of(m.qkv, x)
        q, k = q.relu(), k.relu()
        return (q @ (k.mT @ v)) / q.sum(-1, keepdim=True)

    got = traced(linear_attention, qkv=nn.Linear(8, 24))
    assert matmuls(got)[1:] == [
        ("matmul", DYNAMIC, 2, 4, 5, 4),
        ("matmul_2", DYNAMIC, 2, 5, 4, 4),
    ]
    assert [o.function for o in got.operations if o.kind == "elementwise"] == [
        "relu",
        "relu",
        "sum",
        "divide",
    ]


def test_learned_queries_are_weights():
    def pooled(m: Any, x: Tensor) -> Tensor:
        _, k, v = heads_of(m.qkv, x)
        return F.scaled_dot_product_attention(m.query.expand(1, 2, 3, 4), k, v)

    got = traced(pooled, qkv=nn.Linear(8, 24), query=nn.Parameter(torch.zeros(1, 2, 3, 4)))
    # 5 keys stream through a 4×3 matrix a head: what is known beforehand stays in the array
    assert matmuls(got)[1:] == [
        ("scores", STATIC, 2, 5, 4, 3),
        ("context", DYNAMIC, 2, 3, 5, 4),
    ]


def test_a_product_with_a_parameter_is_static_on_either_side_and_in_any_call():
    layers = {
        "right": nn.Parameter(torch.zeros(8, 3)),
        "left": nn.Parameter(torch.zeros(6, 5)),
        "heads": nn.Parameter(torch.zeros(4, 8, 2)),
        "table": nn.Parameter(torch.zeros(8, 9)),
        "offset": nn.Parameter(torch.zeros(9)),
    }

    def forward(m: Any, x: Tensor) -> Tensor:
        tokens = x[0, 0]
        return torch.cat(
            [
                (tokens @ m.right).flatten(),
                (m.left @ tokens).flatten(),
                torch.einsum("nd,hdk->hnk", tokens, m.heads).flatten(),
                torch.addmm(m.offset, tokens, m.table).flatten(),
                (tokens @ m.table.softmax(0)).flatten(),
            ]
        )

    got = traced(forward, **layers)
    assert [o.kind for o in got.operations] == [STATIC] * 5
    assert [o.macs for o in got.operations] == [5 * 8 * 3, 6 * 5 * 8, 5 * 8 * 8] + [5 * 8 * 9] * 2
    assert [(o.vectors, o.in_features, o.out_features) for o in got.operations][1] == (8, 5, 6)
    assert [o.bias for o in got.operations] == [False, False, False, True, False]


def test_what_does_not_depend_on_the_image_is_free():
    def forward(m: Any, x: Tensor) -> Tensor:
        weight = F.layer_norm(m.conv.weight, m.conv.weight.shape[1:])
        bias = m.mlp(torch.arange(8.0, device=x.device)[None])
        return F.conv2d(x, weight) + bias.view(1, 8, 1, 1)

    got = traced(forward, (3, 4, 4), conv=nn.Conv2d(3, 8, 1), mlp=nn.Linear(8, 8))
    assert [o.name for o in got.operations] == ["conv", "add"]


def test_weights_computed_from_the_image_are_dynamic():
    def forward(m: Any, x: Tensor) -> Tensor:
        return F.conv2d(x, m.conv(x).mean((2, 3)).view(4, 4, 1, 1))

    got = traced(forward, (4, 3, 3), conv=nn.Conv2d(4, 16, 1))
    assert matmuls(got)[-1][1:] == (DYNAMIC, 1, 9, 4, 4)


def test_functions_around_the_products_are_named_and_sized():
    layers = {
        "stem": nn.Conv2d(3, 4, 1),
        "norm": nn.BatchNorm2d(4),
        "act": nn.GELU(),
        "pool": nn.MaxPool2d(3, 2, 1),
        "gap": nn.AdaptiveAvgPool2d(1),
        "last": nn.LayerNorm(4),
    }

    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.pool(m.act(m.norm(m.stem(x))))
        x = x * x + 1
        return m.last(m.gap(x).flatten(1)) * 0.5

    got = traced(forward, (3, 8, 8), **layers)
    assert [(o.name, o.function, o.elements, o.in_features) for o in got.operations[1:]] == [
        ("norm", "batch_norm", 4 * 64, 0),
        ("act", "gelu", 4 * 64, 0),
        ("pool", "pool", 4 * 16, 9),
        ("multiply", "multiply", 4 * 16, 0),
        ("add", "add", 4 * 16, 0),
        ("gap", "pool", 4, 16),
        ("last", "layer_norm", 4, 0),
        ("scale", "scale", 4, 0),
    ]
    assert all(o.macs == 0 for o in got.operations[1:])


def test_names_are_unique_and_follow_the_modules():
    block = nn.Sequential(nn.Linear(8, 8), nn.ReLU())

    def forward(m: Any, x: Tensor) -> Tensor:
        x = x + m.blocks[0](x)
        return x + m.blocks[1](m.blocks[1](x))

    blocks = nn.ModuleList([block, copy.deepcopy(block)])
    got = traced(forward, blocks=blocks)
    assert [o.name for o in got.operations] == [
        "blocks.0.0", "blocks.0.1", "add",
        "blocks.1.0.linear", "blocks.1.1.relu", "blocks.1.0.linear_2", "blocks.1.1.relu_2",
        "add_2",
    ]  # fmt: skip


# ---------------------------------------------------------------- what is not counted


def test_unknown_operators_are_named_with_module_times_and_size():
    class Fourier(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.view_as_real(torch.fft.rfft2(x))[..., 0]

    got = traced(lambda m, x: m.mix(m.mix(x)), (2, 4, 4), mix=Fourier())
    # 2 × 4 × 3 frequencies of the first run, 2 × 4 × 2 of the second
    assert "_fft_r2c in mix, 2×: 40 values out, MACs unknown" in got.uncounted


def test_unknown_products_are_bounded_by_pytorchs_own_counter():
    def forward(m: Any, x: Tensor) -> Tensor:
        q, k, v = heads_of(m.qkv, x)
        return torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, False)[0]

    got = traced(forward, qkv=nn.Linear(8, 24))
    (line,) = got.uncounted
    # two products of 2 heads × 5 × 4 × 5, beside the 5 × 8 × 24 that were counted
    assert re.search(r"efficient_attention in the model itself, 1×", line)
    assert line.endswith(f"{400 / (400 + 960):.2%} of the MACs")


@pytest.mark.parametrize(
    "table",
    [
        operators.FREE,
        operators.SHAPE_ONLY,
        operators.ELEMENTWISE,
        operators.REDUCTIONS,
        operators.WINDOW_POOLS,
        operators.INTERPOLATIONS,
    ],
)
def test_every_name_in_the_tables_is_an_operator(table):
    assert [name for name in table if not hasattr(torch.ops.aten, name)] == []


def test_no_operator_is_in_two_tables():
    tables = (
        operators.FREE,
        operators.SHAPE_ONLY,
        operators.ELEMENTWISE,
        operators.REDUCTIONS,
        operators.WINDOW_POOLS,
        operators.INTERPOLATIONS,
    )
    assert len(set().union(*tables)) == sum(map(len, tables))


# ---------------------------------------------------------------- the model is left alone


class Caching(nn.Module):
    """Keeps a tensor on itself, as LeViT's attention biases do, and counts in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)
        self.register_buffer("runs", torch.zeros(1))
        self.cache: dict[str, Tensor] = {}
        self.grid = torch.arange(8.0)

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training
        self.runs += 1
        self.cache[str(x.device)] = self.fc.weight.sum(0)
        return self.fc(x) + self.cache[str(x.device)] + self.grid


def test_tracing_changes_nothing():
    model = Caching().train()
    before = copy.deepcopy(model.state_dict())
    mode = torch.backends.mha.get_fastpath_enabled()
    first = trace_architecture(model, (1, 5, 8), "caching")
    assert trace_architecture(model, (1, 5, 8), "caching") == first
    assert model.training
    assert model.fc.training
    assert model.cache == {}
    assert not model.fc._forward_hooks
    assert not model.fc._forward_pre_hooks
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.backends.mha.get_fastpath_enabled() == mode
    assert [o.name for o in first.operations] == ["fc", "add", "add_2"]


def test_device_type_and_fused_kernels_do_not_matter():
    real = timm.create_model("test_vit", pretrained=False)
    empty = create("test_vit", device="meta")
    half = copy.deepcopy(real).half()
    unfused = copy.deepcopy(real)
    for block in unfused.blocks:
        block.attn.fused_attn = False
    size = (3, 160, 160)
    expected = trace_architecture(real, size, "test_vit")
    assert expected.macs > 0
    for model in (empty, half, unfused):
        assert trace_architecture(model, size, "test_vit") == expected
    assert not any(block.attn.fused_attn for block in unfused.blocks)


def test_a_model_that_branches_on_values_is_refused_by_name():
    class Gate(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if x.sum() > 0 else x

    with pytest.raises(ModelError, match=r"net cannot be traced on an image of 1×5×8: gate"):
        traced(lambda m, x: m.gate(x), gate=Gate())


@pytest.mark.parametrize("size", [(3, 224), (3, 0, 224), (3, 100, 100)])
def test_sizes_that_cannot_be(size):
    model = create("deit_tiny_patch16_224", device="meta")
    with pytest.raises(ModelError, match="×".join(map(str, size))) as error:
        trace_architecture(model, size, "deit_tiny")
    assert error.value.hint
