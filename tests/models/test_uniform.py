"""UniForm: sizes by hand, attention against its definition, published names, deployment."""

import copy
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from trex.errors import ModelError, WeightsError
from trex.models.uniform import SharedMapAttention, UniForm, WindowAttention, checkpoint_filter_fn

#: name: widths, encoders, heads, parameters, MMAC at 224 pixels
SIZES = {
    "uniform_t": ((64, 128, 192), (1, 2, 2), (4, 4, 4), 2_011_916, 73.3),
    "uniform_s": ((128, 144, 192), (1, 2, 2), (4, 4, 4), 2_634_380, 161.4),
    "uniform_m": ((128, 240, 320), (1, 2, 3), (4, 3, 4), 6_988_170, 264.7),
    "uniform_l": ((192, 288, 384), (1, 2, 3), (3, 3, 4), 10_415_097, 463.3),
}


def randomise(model: nn.Module) -> None:
    """Move every value away from its start, where residual branches are still nothing."""
    torch.manual_seed(0)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.add_(torch.rand_like(value), alpha=0.2)


def small(**kwargs: Any) -> UniForm:
    defaults: dict[str, Any] = {
        "img_size": 64, "num_classes": 5, "embed_dim": (16, 24, 32), "num_heads": (4, 3, 2),
    }  # fmt: skip
    torch.manual_seed(0)
    model = UniForm(**{**defaults, **kwargs})
    randomise(model)
    return model.eval()


def attention(dim: int = 24, heads: int = 3, window: int = 5) -> SharedMapAttention:
    torch.manual_seed(0)
    attn = SharedMapAttention(dim, heads, window, (1, 3, 5, 7))
    randomise(attn)
    return attn.eval()


def images(*size: int, number: int = 2) -> Tensor:
    height, width = size if len(size) == 2 else (size or (64,)) * 2
    return torch.randn(number, 3, height, width, generator=torch.Generator().manual_seed(1))


def on_meta(name: str) -> UniForm:
    with torch.device("meta"):
        model: UniForm = timm.create_model(name)
    return model.eval()


def conv_bn(in_chans: int, out_chans: int, kernel: int = 1) -> int:
    return in_chans * out_chans * kernel**2 + 2 * out_chans


def depthwise_and_ffn(dim: int) -> int:
    return conv_bn(1, dim, 3) + conv_bn(dim, 2 * dim) + conv_bn(2 * dim, dim)


def encoder(dim: int, heads: int, window: int) -> int:
    query_key = conv_bn(dim, dim // 2) + conv_bn(1, dim // 4, 7)
    values = sum((k * k + 1) * dim // heads for k in (1, 3, 5, 7)[:heads])
    biases = heads * window**2
    return 2 * depthwise_and_ffn(dim) + query_key + values + biases + conv_bn(dim, dim)


def downsampling(dim: int, out_dim: int) -> int:
    hidden = 4 * dim
    gate = (hidden + 1) * dim + (dim + 1) * hidden
    merging = conv_bn(dim, hidden) + conv_bn(1, hidden, 3) + gate + conv_bn(hidden, out_dim)
    return depthwise_and_ffn(dim) + merging + depthwise_and_ffn(out_dim)


@pytest.mark.parametrize("name", SIZES)
def test_parameters_by_hand(name: str) -> None:
    dims, depths, heads, expected, _ = SIZES[name]
    widths = (3, dims[0] // 8, dims[0] // 4, dims[0] // 2, dims[0])
    by_hand = sum(conv_bn(*pair, 3) for pair in pairwise(widths))
    by_hand += downsampling(dims[0], dims[1]) + downsampling(dims[1], dims[2])
    for dim, depth, count, window in zip(dims, depths, heads, (7, 7, 4), strict=True):
        by_hand += depth * encoder(dim, count, window)
    by_hand += 2 * dims[2] + (dims[2] + 1) * 1000
    assert by_hand == expected
    assert sum(p.numel() for p in on_meta(name).parameters()) == expected


@pytest.mark.parametrize("name", SIZES)
def test_macs(name: str) -> None:
    counter = FlopCounterMode(display=False)
    model = on_meta(name)
    with counter:
        model(torch.empty(1, 3, 224, 224, device="meta"))
    assert counter.get_total_flops() / 2e6 == pytest.approx(SIZES[name][4], abs=0.05)


def test_stages_and_windows() -> None:
    stages = on_meta("uniform_l").stages
    assert [len(stage.blocks) for stage in stages] == [1, 2, 3]
    assert [stage.blocks[0].mixer.m.attn.window for stage in stages] == [7, 7, 4]
    kernels = [
        [conv.kernel_size[0] for conv in stage.blocks[0].mixer.m.attn.mix] for stage in stages
    ]
    assert kernels == [[1, 3, 5], [1, 3, 5], [1, 3, 5, 7]]
    assert {stage.blocks[0].mixer.m.attn.dws.conv.kernel_size for stage in stages} == {(7, 7)}


def test_state_dict_has_the_published_names() -> None:
    names = set(on_meta("uniform_t").state_dict())
    bn = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

    def conv_bns(*places: str) -> set[str]:
        return {f"{place}.conv.weight" for place in places} | {
            f"{place}.bn.{name}" for place in places for name in bn
        }

    block = "stages.1.blocks.0."
    depthwise = (f"{block}dw0.m", f"{block}dw1.m")
    ffns = tuple(f"{block}ffn{i}.m.pw{j}" for i in (0, 1) for j in (1, 2))
    attn = f"{block}mixer.m.attn."
    expected = conv_bns(*depthwise, *ffns, f"{attn}qkvs", f"{attn}dws", f"{attn}proj.1")
    expected |= {f"{attn}mix.{i}.{name}" for i in range(4) for name in ("weight", "bias")}
    expected |= {f"{attn}attention_biases"}
    assert {name for name in names if name.startswith(block)} == expected

    down = "stages.1.downsample."
    residuals = tuple(
        f"{down}res{i}.{place}" for i in (1, 2) for place in ("0.m", "1.m.pw1", "1.m.pw2")
    )
    expected = conv_bns(*residuals, *(f"{down}patchmerge.conv{i}" for i in (1, 2, 3)))
    expected |= {
        f"{down}patchmerge.se.conv{i}.conv.{name}" for i in (1, 2) for name in ("weight", "bias")
    }
    assert {name for name in names if name.startswith(down)} == expected

    rest = conv_bns(*(f"patch_embed.conv{i}" for i in (1, 2, 3, 4)))
    rest |= {"head.linear.weight", "head.linear.bias"} | {f"head.bn.{name}" for name in bn}
    assert {name for name in names if not name.startswith("stages.")} == rest


def test_attention_by_definition() -> None:
    attn, side = attention(heads=3, window=5), 5
    x = torch.randn(2, 24, side, side)
    query, key = attn.qkvs(x)[:, :6], attn.qkvs(x)[:, 6:]
    query = attn.dws(query)
    maps = torch.empty(2, 25, 25)
    for i in range(25):
        for j in range(25):
            rows, columns = abs(i // side - j // side), abs(i % side - j % side)
            bias = attn.attention_biases[0, rows * side + columns]
            q, k = query[:, :, i // side, i % side], key[:, :, j // side, j % side]
            maps[:, i, j] = (q * k).sum(1) / 4 + bias
    maps = maps.softmax(2)
    heads = []
    for conv, share in zip(attn.mix, x.split(8, dim=1), strict=True):
        heads.append(torch.einsum("bij,bcj->bci", maps, conv(share).flatten(2)))
    context = torch.cat(heads, dim=1).view(2, 24, side, side)
    expected = attn.proj[1](context.relu())
    torch.testing.assert_close(attn.attention_map(x), maps)
    torch.testing.assert_close(attn(x), expected, atol=1e-5, rtol=1e-5)


def test_steps_make_the_whole() -> None:
    attn = attention()
    x = torch.randn(2, 24, 5, 5)
    shared = attn.attention_map(x)
    assert attn.scores(x).shape == shared.shape == (2, 25, 25)
    torch.testing.assert_close(shared.sum(dim=2), torch.ones(2, 25))
    context = attn.context(attn.values(x), shared)
    assert context.shape == x.shape
    assert torch.equal(attn.project(context), attn(x))


def test_an_identity_map_hands_the_values_on() -> None:
    attn = attention()
    values = attn.values(torch.randn(2, 24, 5, 5))
    context = attn.context(values, torch.eye(25).expand(2, -1, -1))
    torch.testing.assert_close(context.flatten(2), values)


def test_a_map_reusing_layer_needs_no_query_and_key() -> None:
    attn = attention()
    x = torch.randn(2, 24, 5, 5)
    expected, shared = attn(x), attn.attention_map(x)
    del attn.qkvs, attn.dws, attn.attention_biases
    assert torch.equal(attn.project(attn.context(attn.values(x), shared)), expected)


def test_an_output_reusing_layer_needs_its_projection_alone() -> None:
    attn = attention()
    x = torch.randn(2, 24, 5, 5)
    expected, context = attn(x), attn.context(attn.values(x), attn.attention_map(x))
    del attn.qkvs, attn.dws, attn.attention_biases, attn.mix
    assert torch.equal(attn.project(context), expected)


def test_windows_by_hand() -> None:
    mixer = WindowAttention(attention(window=2))
    x = torch.arange(8.0).view(1, 1, 2, 4)
    assert mixer.partition(x).tolist() == [[[[0, 1], [4, 5]]], [[[2, 3], [6, 7]]]]


@pytest.mark.parametrize("size", [(5, 5), (10, 15), (7, 9), (4, 3)])
def test_windows_merge_to_the_map_they_are_from(size: tuple[int, int]) -> None:
    mixer = WindowAttention(attention(window=5))
    x = torch.randn(3, 24, *size)
    windows = mixer.partition(x)
    assert windows.shape == (3 * -(-size[0] // 5) * -(-size[1] // 5), 24, 5, 5)
    assert windows.sum().item() == pytest.approx(x.sum().item(), abs=1e-3)
    assert torch.equal(mixer.merge(windows, *size), x)


def test_windows_do_not_see_each_other() -> None:
    mixer = WindowAttention(attention(window=5))
    x = torch.randn(1, 24, 10, 10)
    touched = x.clone()
    touched[:, :, 7, 2] += 1
    changed = (mixer(touched) != mixer(x)).any(dim=1)[0]
    assert changed[5:, :5].all()
    assert changed.sum() == 25


@pytest.mark.parametrize(
    ("size", "windows"),
    [
        ((32, 32), (2, 1, 1)),
        ((64, 64), (4, 2, 1)),
        ((96, 96), (6, 3, 2)),
        ((128, 128), (7, 4, 2)),
        ((256, 128), (7, 4, 2)),
        ((240, 240), (7, 7, 4)),
    ],
)
def test_image_sizes(size: tuple[int, int], windows: tuple[int, ...]) -> None:
    model = small(img_size=size)
    assert tuple(stage.blocks[0].mixer.m.attn.window for stage in model.stages) == windows
    assert model(images(*size)).shape == (2, 5)
    features = model.forward_features(images(*size))
    assert features.shape == (2, 32, -(-size[0] // 64), -(-size[1] // 64))
    assert model.forward_head(features, pre_logits=True).shape == (2, 32)


def test_fusing_keeps_the_outputs_and_leaves_no_normalisation() -> None:
    model = small(img_size=224, num_classes=10)
    x = images(224)
    features, logits = model.forward_features(x), model(x)
    assert model.fuse() is model
    assert not any(isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)) for m in model.modules())
    scale = features.abs().max()
    assert (model.forward_features(x) - features).abs().max() < 1e-5 * scale
    assert (model(x) - logits).abs().max() < 1e-5 * logits.abs().max()
    again = model(x)
    assert torch.equal(model.fuse()(x), again)


def test_fusing_in_training_changes_nothing() -> None:
    model = small().train()
    before = set(model.state_dict())
    with pytest.raises(ModelError, match="folded in training"):
        model.fuse()
    assert set(model.state_dict()) == before


def backbone(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k if k.startswith("head.") else f"backbone.{k}": v for k, v in weights.items()}


LAYOUTS: dict[str, Callable[[dict[str, Tensor]], dict[str, Any]]] = {
    "own": lambda weights: weights,
    "backbone": backbone,
    "nested": lambda weights: {"meta": {"epoch": 300}, "state_dict": backbone(weights)},
    "module": lambda weights: {f"module.{k}": v for k, v in backbone(weights).items()},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_public_layouts_load_strictly(layout: str, tmp_path: Path) -> None:
    trained, fresh = small(), small()
    for value in fresh.state_dict().values():
        value.zero_()
    torch.save(LAYOUTS[layout](trained.state_dict()), tmp_path / "epoch_300.pth")
    contents = torch.load(tmp_path / "epoch_300.pth", weights_only=True)
    fresh.load_state_dict(checkpoint_filter_fn(contents, fresh), strict=True)
    assert torch.equal(fresh(images()), trained(images()))


def test_a_backbone_alone_leaves_the_head() -> None:
    trained, fresh = small(), small()
    randomise(fresh)
    head = copy.deepcopy(fresh.head)
    weights = {k: v for k, v in backbone(trained.state_dict()).items() if "backbone" in k}
    fresh.load_state_dict(checkpoint_filter_fn(weights, fresh), strict=True)
    features = trained.forward_features(images())
    assert torch.equal(fresh.forward_features(images()), features)
    assert torch.equal(fresh(images()), head(features.mean((2, 3))))


def test_smaller_windows_take_the_distances_they_have() -> None:
    trained, smaller = small(img_size=224), small(img_size=64)
    smaller.load_state_dict(checkpoint_filter_fn(trained.state_dict(), smaller), strict=True)
    wide = trained.stages[0].blocks[0].mixer.m.attn.attention_biases
    narrow = smaller.stages[0].blocks[0].mixer.m.attn.attention_biases
    for rows in range(4):
        for columns in range(4):
            assert torch.equal(narrow[:, 4 * rows + columns], wide[:, 7 * rows + columns])


def test_other_checkpoints_are_refused() -> None:
    with pytest.raises(WeightsError, match="not of a UniForm"):
        checkpoint_filter_fn({"conv1.weight": torch.zeros(1)}, small())
    with pytest.raises(WeightsError, match=r"windows of 4×4 tokens; the model's are 7×7"):
        checkpoint_filter_fn(small().state_dict(), small(img_size=224))


def test_timm_loads_a_file_and_fits_it_to_another_head(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained = timm.create_model("uniform_t").eval()
    path = str(tmp_path / "uniform_t.pth")
    torch.save({"state_dict": backbone(trained.state_dict())}, path)
    create = {"pretrained": True, "pretrained_cfg_overlay": {"file": path}}
    loaded = timm.create_model("uniform_t", **create).eval()
    assert torch.equal(loaded(images(224)), trained(images(224)))
    other = timm.create_model("uniform_t", num_classes=10, img_size=32, **create).eval()
    assert other(images(32)).shape == (2, 10)
    ffn = "stages.2.blocks.1.ffn1.m.pw1.conv.weight"
    assert torch.equal(other.get_parameter(ffn), trained.get_parameter(ffn))


def test_timm_makes_feature_pyramids() -> None:
    pyramid = timm.create_model("uniform_t", features_only=True, img_size=64).eval()
    assert pyramid.feature_info.reduction() == [16, 32, 64]
    assert [tuple(f.shape[1:]) for f in pyramid(images())] == [
        (64, 4, 4), (128, 2, 2), (192, 1, 1),
    ]  # fmt: skip


def test_preprocessing() -> None:
    config = timm.data.resolve_model_data_config(on_meta("uniform_s"))
    assert (config["input_size"], config["crop_pct"]) == ((3, 224, 224), 0.875)
    assert (config["interpolation"], config["std"]) == ("bicubic", (0.229, 0.224, 0.225))


def test_untrained_encoders_pass_their_input_on() -> None:
    blocks = UniForm(img_size=64).eval().stages[1].blocks
    x = torch.randn(2, 128, 2, 2)
    torch.testing.assert_close(blocks(x), x)


def test_checkpointing_changes_neither_outputs_nor_gradients() -> None:
    def gradients(model: UniForm) -> list[Tensor]:
        model(images()).sum().backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    plain, saving = small(), small()
    saving.set_grad_checkpointing()
    for a, b in zip(gradients(plain), gradients(saving), strict=True):
        torch.testing.assert_close(a, b)


def test_every_parameter_learns_but_the_biases_of_further_heads() -> None:
    model = small(img_size=224).train()
    model(images(224, number=3)).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        if name.endswith("attention_biases"):
            assert parameter.grad[0].any()
            assert not parameter.grad[1:].any()
        else:
            assert parameter.grad.any(), name


def test_reset_classifier() -> None:
    model = small()
    model.reset_classifier(7)
    assert model(images()).shape == (2, 7)
    assert model.get_classifier() is model.head.linear
    assert not model.head.training
    model.reset_classifier(0)
    pooled = model.forward_features(images()).mean((2, 3))
    assert torch.equal(model(images()), pooled)
    with pytest.raises(ModelError, match="not by 'max'"):
        model.reset_classifier(7, "max")


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ModelError, match=r"64×64 pixels, not 32×32"):
        small()(images(32))
    with pytest.raises(ModelError, match="100×100"):
        small(img_size=100)
    with pytest.raises(ModelError, match="5 heads on 16 channels"):
        small(num_heads=(5, 3, 2))


def test_copies_and_mixed_precision() -> None:
    model = small()
    logits = model(images())
    assert torch.equal(copy.deepcopy(model)(images()), logits)
    fresh = small()
    fresh.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(fresh(images()), logits)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(images())
    torch.testing.assert_close(rough.float(), logits, atol=0.1, rtol=0.1)


def test_timm_groups_every_parameter() -> None:
    model = small()
    names = {name for name, _ in model.named_parameters()}
    assert len(model.no_weight_decay()) == 5
    assert model.no_weight_decay() <= names
    for coarse in (False, True):
        groups = timm.models.group_parameters(model, model.group_matcher(coarse))
        assert sorted(name for group in groups.values() for name in group) == sorted(names)


@pytest.mark.slow
def test_compiles_and_exports_as_one_graph() -> None:
    model, x = small(img_size=128), images(128)
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="eager")(x), model(x))
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), model(x))
