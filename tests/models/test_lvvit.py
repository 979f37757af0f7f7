"""LV-ViT: sizes by hand, checkpoints as published, equality with timm's own parts."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from trex.errors import ModelError, WeightsError
from trex.models.lvvit import LVViT, TokenBox, TokenOutputs, checkpoint_filter_fn
from trex.models.lvvit.tokens import mix_tokens, random_box

#: name: width, encoders, heads, stem filters, image side, skip_lam, parameters
SIZES = {
    "lvvit_t": (240, 12, 4, 64, 224, 1.0, 8_534_720),
    "lvvit_s": (384, 16, 6, 64, 224, 2.0, 26_151_824),
    "lvvit_m": (512, 20, 8, 64, 224, 2.0, 55_830_544),
    "lvvit_l": (768, 24, 12, 128, 448, 3.0, 150_473_552),
}
#: name: GMAC of stem, encoders, heads
GMACS = {
    "lvvit_t": (1.24, 1.59, 0.05),
    "lvvit_s": (1.35, 5.12, 0.08),
    "lvvit_m": (1.45, 11.12, 0.10),
    "lvvit_l": (20.67, 133.84, 0.60),
}


def small(**kwargs: Any) -> LVViT:
    """Sixteen patches, three encoders, five classes; every value away from its start."""
    torch.manual_seed(0)
    defaults: dict[str, Any] = {
        "img_size": 64, "num_classes": 5, "embed_dim": 24, "depth": 3, "num_heads": 3,
        "skip_lam": 3.0, "stem_width": 8,
    }  # fmt: skip
    model = LVViT(**{**defaults, **kwargs})
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.add_(torch.rand_like(value), alpha=0.3)
    return model.eval()


def images(side: int = 64, number: int = 2) -> Tensor:
    return torch.randn(number, 3, side, side, generator=torch.Generator().manual_seed(1))


def on_meta(name: str, **kwargs: Any) -> LVViT:
    with torch.device("meta"):
        model: LVViT = timm.create_model(name, **kwargs)
    return model.eval()


@pytest.mark.parametrize("name", SIZES)
def test_parameters_by_hand(name: str) -> None:
    dim, depth, _, width, side, _, expected = SIZES[name]
    tokens = (side // 16) ** 2 + 1
    stem = 3 * 49 * width + 2 * (9 * width * width) + 3 * (2 * width) + (64 * width + 1) * dim
    attention = dim * 3 * dim + (dim + 1) * dim
    mlp = (dim + 1) * 3 * dim + (3 * dim + 1) * dim
    encoder = 2 * dim + attention + 2 * dim + mlp
    heads = 2 * (dim + 1) * 1000
    by_hand = stem + dim + tokens * dim + depth * encoder + 2 * dim + heads
    assert by_hand == expected
    assert sum(p.numel() for p in on_meta(name).parameters()) == expected


@pytest.mark.parametrize("name", SIZES)
def test_macs_by_part(name: str) -> None:
    model = on_meta(name)
    side = SIZES[name][4]
    for block in model.blocks:
        block.attn.fused_attn = False
    counter = FlopCounterMode(display=False)
    with counter:
        model(torch.empty(1, 3, side, side, device="meta"))
    counts = {part: sum(ops.values()) / 2e9 for part, ops in counter.get_flop_counts().items()}
    parts = (
        counts["LVViT.patch_embed"],
        counts["LVViT.blocks"],
        counts["LVViT.head"] + counts["LVViT.aux_head"],
    )
    # the published numbers have two decimals
    assert parts == pytest.approx(GMACS[name], rel=0.01, abs=0.006)
    assert sum(parts) == pytest.approx(counts["Global"])
    assert sum(parts) == pytest.approx(sum(GMACS[name]), rel=0.01)


@pytest.mark.parametrize("name", SIZES)
def test_encoders_and_preprocessing(name: str) -> None:
    dim, depth, heads, _, side, skip_lam, _ = SIZES[name]
    model = on_meta(name)
    assert len(model.blocks) == depth
    for block in model.blocks:
        assert (block.attn.num_heads, block.attn.head_dim) == (heads, dim // heads)
        assert block.attn.scale == (dim // heads) ** -0.5
        assert block.attn.qkv.bias is None
        assert (block.skip_lam, block.norm1.eps) == (skip_lam, 1e-5)
    config = timm.data.resolve_model_data_config(model)
    assert config["input_size"] == (3, side, side)
    assert config["crop_pct"] == (0.9 if name in ("lvvit_t", "lvvit_s") else 1.0)
    assert config["interpolation"] == "bicubic"
    assert config["mean"] == (0.485, 0.456, 0.406)


def test_drop_path_rises_linearly() -> None:
    model = small(depth=5, drop_path_rate=0.2)
    assert isinstance(model.blocks[0].drop_path1, nn.Identity)
    rates = [block.drop_path2.drop_prob for block in model.blocks[1:]]
    assert rates == pytest.approx([0.05, 0.1, 0.15, 0.2])


def test_state_dict_has_the_published_names() -> None:
    stem = {
        f"patch_embed.{layer}{i}.{name}"
        for i in (1, 2, 3)
        for layer, names in (
            ("conv", ("weight",)),
            ("bn", ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
        )
        for name in names
    }
    layers = ("patch_embed.proj", "norm", "head", "aux_head")
    encoder_layers = ("norm1", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    encoder_layers = tuple(f"blocks.{i}.{layer}" for i in range(16) for layer in encoder_layers)
    expected = (
        stem
        | {f"{layer}.{name}" for layer in layers + encoder_layers for name in ("weight", "bias")}
        | {f"blocks.{i}.attn.qkv.weight" for i in range(16)}
        | {"cls_token", "pos_embed"}
    )
    assert set(on_meta("lvvit_s").state_dict()) == expected


def test_evaluation_adds_half_the_best_patch() -> None:
    model = small()
    tokens = model.forward_features(images())
    assert tokens.shape == (2, 17, 24)
    best = torch.stack([model.aux_head(tokens[:, i]) for i in range(1, 17)]).amax(dim=0)
    expected = model.head(tokens[:, 0]) + 0.5 * best
    torch.testing.assert_close(model(images()), expected)
    torch.testing.assert_close(model.forward_head(tokens), expected)
    assert torch.equal(model.forward_head(tokens, pre_logits=True), tokens[:, 0])


def test_equals_a_vision_transformer_with_layer_scale() -> None:
    class Patches(nn.Module):
        def __init__(self, stem: nn.Module) -> None:
            super().__init__()
            self.stem, self.num_patches = stem, stem.num_patches

        def forward(self, x: Tensor) -> Tensor:
            return self.stem(x).flatten(1, 2)

    model = small(skip_lam=2.0).double()
    vit = VisionTransformer(
        img_size=64, num_classes=5, embed_dim=24, depth=3, num_heads=3, mlp_ratio=3,
        qkv_bias=False, init_values=1 / 2.0, norm_layer=partial(nn.LayerNorm, eps=1e-5),
        embed_layer=lambda **_: Patches(model.patch_embed),
    ).double().eval()  # fmt: skip
    shared = {k: v for k, v in model.state_dict().items() if not k.startswith("patch_embed")}
    missing, unexpected = vit.load_state_dict(shared, strict=False)
    assert unexpected == ["aux_head.weight", "aux_head.bias"]
    assert all(k.startswith("patch_embed") or k.endswith("gamma") for k in missing)
    x = images().double()
    difference = vit.forward_features(x) - model.forward_features(x)
    assert difference.abs().max() < 1e-12


def test_dividing_the_last_layers_replaces_skip_lam() -> None:
    model = small(skip_lam=3.0).double()
    folded = copy.deepcopy(model)
    with torch.no_grad():
        for block in folded.blocks:
            for layer in (block.attn.proj, block.mlp.fc2):
                layer.weight /= block.skip_lam
                layer.bias /= block.skip_lam
            block.skip_lam = 1.0
    difference = folded(images().double()) - model(images().double())
    assert difference.abs().max() < 1e-12


NESTS = {
    "flat": lambda weights: weights,
    "state_dict": lambda weights: {"epoch": 309, "arch": "lvvit_s", "state_dict": weights},
    "model": lambda weights: {"model": weights},
    "ema first": lambda weights: {
        "state_dict": {k: v * 0 for k, v in weights.items()},
        "state_dict_ema": weights,
    },
    "module": lambda weights: {"state_dict": {f"module.{k}": v for k, v in weights.items()}},
}


@pytest.mark.parametrize("nest", NESTS)
def test_published_layouts_load_strictly(nest: str, tmp_path: Path) -> None:
    trained, fresh = small(), small()
    for value in fresh.state_dict().values():
        value.zero_()
    path = tmp_path / "lvvit.pth.tar"
    torch.save(NESTS[nest](trained.state_dict()), path)
    contents = torch.load(path, weights_only=True)
    fresh.load_state_dict(checkpoint_filter_fn(contents, fresh), strict=True)
    assert torch.equal(fresh(images()), trained(images()))


def test_timm_loads_a_file_and_fits_it_to_another_head(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained = timm.create_model("lvvit_t").eval()
    path = str(tmp_path / "lvvit_t.pth.tar")
    torch.save({"state_dict": trained.state_dict()}, path)
    overlay = {"file": path}
    loaded = timm.create_model("lvvit_t", pretrained=True, pretrained_cfg_overlay=overlay).eval()
    assert torch.equal(loaded(images(224, 1)), trained(images(224, 1)))
    other = timm.create_model(
        "lvvit_t", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=3, img_size=64
    ).eval()
    assert other(images()).shape == (2, 3)
    assert torch.equal(other.blocks[3].mlp.fc1.weight, trained.blocks[3].mlp.fc1.weight)


def test_position_embeddings_of_another_image_size_are_resampled() -> None:
    trained, larger = small(), small(img_size=(96, 64))
    with torch.no_grad():
        trained.pos_embed[:, 1:] = 0.75
    weights = checkpoint_filter_fn(trained.state_dict(), larger)
    larger.load_state_dict(weights, strict=True)
    assert larger.pos_embed.shape == (1, 6 * 4 + 1, 24)
    assert torch.equal(larger.pos_embed[:, 0], trained.pos_embed[:, 0])
    torch.testing.assert_close(larger.pos_embed[:, 1:], torch.full((1, 24, 24), 0.75))


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ({"epoch": 3}, "no weights, only epoch"),
        ({"conv1.weight": torch.zeros(1)}, "not of an LV-ViT"),
        ({"patch_embed.proj.weight": torch.zeros(1), "pos_embed": torch.zeros(1)}, "not of an LV"),
        (small(embed_dim=12).state_dict(), "12 wide, but the model is 24 wide"),
        (small(img_size=(96, 32)).state_dict(), "12 position embeddings are not of a square"),
    ],
)
def test_other_checkpoints_are_refused(checkpoint: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        checkpoint_filter_fn(checkpoint, small())


def test_training_outputs() -> None:
    model = small().train()
    outputs = model(images())
    assert isinstance(outputs, TokenOutputs)
    assert outputs.class_logits_BC.shape == (2, 5)
    assert outputs.patch_logits_BNC.shape == (2, 16, 5)
    assert outputs.mixed == TokenBox(0, 0, 0, 0)


def test_unmixed_training_outputs_make_the_evaluation_logits() -> None:
    model = small()
    logits = model(images())
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    class_logits, patch_logits, _ = model(images())
    torch.testing.assert_close(class_logits + 0.5 * patch_logits.amax(1), logits)


def test_mixing_twice_restores_and_moves_only_the_box() -> None:
    grid, box = torch.randn(3, 4, 5, 2), TokenBox(1, 2, 3, 5)
    mixed = mix_tokens(grid, box)
    assert torch.equal(mix_tokens(mixed, box), grid)
    assert torch.equal(mixed[:, 1:3, 2:5], grid.flip(0)[:, 1:3, 2:5])
    outside = torch.ones(4, 5, dtype=torch.bool)
    outside[1:3, 2:5] = False
    assert torch.equal(mixed[:, outside], grid[:, outside])
    assert box.area == 6 == (~outside).sum()


def test_random_boxes_lie_in_the_grid_and_cover_less_than_half() -> None:
    torch.manual_seed(0)
    boxes = [random_box(14, 10) for _ in range(2000)]
    for top, left, bottom, right in boxes:
        assert 0 <= top <= bottom <= 14
        assert 0 <= left <= right <= 10
    # half the grid before cutting off at the border, on average
    assert 0.2 < sum(box.area for box in boxes) / 2000 / 140 < 0.5


def test_mixed_training_puts_patch_logits_back(monkeypatch: pytest.MonkeyPatch) -> None:
    box = TokenBox(0, 0, 4, 4)
    monkeypatch.setattr("trex.models.lvvit.model.random_box", lambda height, width: box)
    model = small(mix_token=True)
    plain_class, plain_patches, _ = model._forward_training(images())
    model.mix_token = False
    class_logits, patch_logits, mixed = model._forward_training(images())
    assert mixed.area == 0
    # the whole grid swapped: the images change places, their patches are put back
    torch.testing.assert_close(plain_class, class_logits.flip(0))
    torch.testing.assert_close(plain_patches, patch_logits)


def test_checkpointing_changes_neither_outputs_nor_gradients() -> None:
    def gradients(model: LVViT) -> list[Tensor]:
        model(images()).sum().backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    plain, saving = small(), small()
    saving.set_grad_checkpointing()
    for a, b in zip(gradients(plain), gradients(saving), strict=True):
        torch.testing.assert_close(a, b)


def test_every_parameter_learns() -> None:
    model = small(mix_token=True).train()
    class_logits, patch_logits, _ = model(images(number=3))
    (class_logits.square().mean() + patch_logits.square().mean()).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_reset_classifier() -> None:
    model = small()
    tokens = model.forward_features(images())
    model.reset_classifier(7)
    assert model(images()).shape == (2, 7)
    assert model.get_classifier() is model.head
    assert not model.head.training
    model.reset_classifier(0)
    assert torch.equal(model(images()), tokens[:, 0])
    assert torch.equal(model.train().forward_head(tokens), tokens[:, 0])
    with pytest.raises(ModelError, match="cannot pool by 'avg'"):
        model.reset_classifier(7, "avg")


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ModelError, match=r"64×64 pixels, not 32×32"):
        small()(images(32))
    with pytest.raises(ModelError, match=r"image of 100×100 pixels into patches"):
        small(img_size=100)
    with pytest.raises(ModelError, match="pyramid"):
        timm.create_model("lvvit_t", features_only=True)


def test_copies_and_mixed_precision() -> None:
    model = small()
    logits = model(images())
    twin = copy.deepcopy(model)
    assert torch.equal(twin(images()), logits)
    fresh = small()
    fresh.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(fresh(images()), logits)
    # the published width: oneDNN computes narrower bf16 convolutions wrong on AMX (torch 2.14)
    wide = small(stem_width=64)
    logits = wide(images())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = wide(images())
    torch.testing.assert_close(rough.float(), logits, atol=0.1, rtol=0.1)


def test_timm_groups_every_parameter() -> None:
    model = small()
    names = {name for name, _ in model.named_parameters()}
    assert model.no_weight_decay() <= names
    groups = timm.models.group_parameters(model, model.group_matcher())
    assert sorted(name for group in groups.values() for name in group) == sorted(names)


@pytest.mark.slow
def test_compiles_and_exports_as_one_graph() -> None:
    model = small()
    torch.testing.assert_close(
        torch.compile(model, fullgraph=True, backend="eager")(images()), model(images())
    )
    exported = torch.export.export(model, (images(),)).module()
    torch.testing.assert_close(exported(images()), model(images()))
