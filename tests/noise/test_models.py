"""Whole models on a non-ideal chip: what is replaced, what is held, what can be trained."""

import copy
from dataclasses import replace

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from tiny_models import VIT_KINDS, randomised
from torch import nn

from trex.errors import ChipError, DataError, ModelError
from trex.hardware import load_chip
from trex.models.lvvit.model import LVViT
from trex.noise import (
    NoiseSettings,
    is_non_ideal,
    make_non_ideal,
    non_ideal_layers,
    remove_non_ideal,
    set_noise,
)
from trex.reuse import apply_plan, apply_reuse

FEFET = load_chip("trex_fefet_32nm")
SRAM = load_chip("trex_sram_32nm")
#: many fine bits and no noise
WIDE = replace(
    SRAM,
    **{
        side: replace(getattr(SRAM, side), adc_bits=14, weight_bits=11, input_bits=11)
        for side in ("static_array", "dynamic_array")
    },
)


def with_device(chip, **changes):
    arrays = {
        side: replace(array, device=replace(array.device, **changes))
        for side in ("static_array", "dynamic_array")
        for array in [getattr(chip, side)]
    }
    return replace(chip, **arrays)


def vit(depth: int = 3) -> nn.Module:
    torch.manual_seed(0)
    model = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=64, depth=depth, num_heads=2, num_classes=10
    )
    return model.eval()


def lvvit() -> nn.Module:
    torch.manual_seed(0)
    return LVViT(img_size=32, embed_dim=64, depth=3, num_heads=2, num_classes=10).eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.manual_seed(1))


@pytest.fixture(scope="module")
def many() -> torch.Tensor:
    """Enough for the moments of a layer: 272 vectors."""
    return torch.randn(16, 3, 32, 32, generator=torch.manual_seed(2))


def relative_error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return ((got - wanted).square().mean() / wanted.square().mean()).item()


@torch.no_grad()
@pytest.mark.parametrize("mode", ["fast", "exact"])
@pytest.mark.parametrize("encoding", ["differential", "offset"])
def test_wide_bits_without_noise_are_the_plain_model(images, mode, encoding):
    model = vit(1)
    plain = model(images)
    settings = NoiseSettings(encoding=encoding)
    make_non_ideal(model, WIDE, [images], settings=settings, mode=mode)
    assert 0 < relative_error(model(images), plain) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("make", [vit, lvvit])
def test_encoders_go_onto_the_chip_and_come_back(make, images):
    model = make()
    plain, names = model(images), model.state_dict().keys()
    modules = [type(m) for m in model.modules()]
    assert not is_non_ideal(model)
    assert make_non_ideal(model, FEFET, [images]) is model
    assert is_non_ideal(model)
    assert model.state_dict().keys() == names
    # q, k, v in one; projection, two of the MLP; QKᵀ and SV of two heads
    assert len(non_ideal_layers(model)) == 3 * 8
    assert all(name.startswith("blocks.") for name in non_ideal_layers(model))
    assert 0 < relative_error(model(images), plain) < 0.2
    assert remove_non_ideal(model) is model
    assert [type(m) for m in model.modules()] == modules
    assert torch.equal(model(images), plain)


@torch.no_grad()
@pytest.mark.parametrize("make", [vit, lvvit])
@pytest.mark.parametrize(
    ("plan", "transform", "layers"),
    [
        # a consumer of the output keeps projection and MLP, a block adds one layer
        ("2<-1", "linear", 19),
        ("2<-1", "block", 20),
        ("2<-1", "linear_own", 19),
        # of the map also values and two heads' SV
        ("2<-1:map", "linear", 22),
    ],
)
def test_reusing_variants_run_on_the_chip(make, plan, transform, layers, images):
    model = apply_reuse(make(), plan, transform)
    plain = model(images)
    make_non_ideal(model, FEFET, [images])
    assert len(non_ideal_layers(model)) == layers
    assert 0 < relative_error(model(images), plain) < 0.2
    remove_non_ideal(model)
    assert torch.equal(model(images), plain)
    assert not hasattr(model.blocks[2].attn, "products")


@torch.no_grad()
@pytest.mark.parametrize("mode", ["fast", "exact"])
def test_the_same_seed_gives_the_same_noise_and_another_seed_another(images, mode):
    model = make_non_ideal(vit(1), FEFET, [images], mode=mode, seed=3)
    first, second = model(images), model(images)
    assert not torch.equal(first, second)
    set_noise(model, seed=3)
    assert torch.equal(model(images), first)
    set_noise(model, seed=4)
    assert not torch.equal(model(images), first)
    again = make_non_ideal(vit(1), FEFET, [images], mode=mode, seed=3)
    assert torch.equal(again(images), first)
    set_noise(model, seed=3)
    assert torch.equal(copy.deepcopy(model)(images), first)


@torch.no_grad()
def test_draws_are_independent(images):
    model = vit()
    plain = model(images)
    make_non_ideal(model, FEFET, [images])
    errors = []
    for seed in range(2):
        set_noise(model, seed=seed)
        errors.append(torch.cat([model(images) - plain for _ in range(8)]).flatten())
    errors = [e - e.mean() for e in errors]
    # 640 values with a few common causes (rounding): far below one
    assert abs(torch.corrcoef(torch.stack(errors))[0, 1]) < 0.6


@torch.no_grad()
def test_programming_noise_is_held_for_an_instance(images):
    programmed = with_device(
        FEFET, programming_variation=0.2, read_variation=0.0, write_variation=0.0
    )
    model = make_non_ideal(vit(), programmed, [images], mode="exact", seed=1)
    first = model(images)
    assert torch.equal(model(images), first)
    set_noise(model, seed=2)
    assert not torch.equal(model(images), first)
    set_noise(model, seed=1, mode="exact")
    assert torch.equal(model(images), first)
    # both modes have the same cells
    layer = next(m for n, m in non_ideal_layers(model).items() if n.endswith("fc1"))
    x = torch.randn(200, 64) * 0.5
    exact = layer(x)
    set_noise(model, mode="fast")
    fast = layer(x)
    ideal = nn.functional.linear(x, layer.weight, layer.bias)
    agreement = torch.corrcoef(torch.stack([(exact - ideal).flatten(), (fast - ideal).flatten()]))
    assert agreement[0, 1] > 0.7


@torch.no_grad()
@pytest.mark.parametrize(
    "settings",
    [NoiseSettings(), NoiseSettings(map_step="layer"), NoiseSettings(encoding="offset")],
)
def test_both_modes_have_the_same_noise_power_in_every_layer(many, settings):
    plain = vit(1)
    seen = {}
    for name, module in plain.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda m, i, o, name=name: seen.update({name: (i, o)}))
    plain(many)
    model = make_non_ideal(vit(1), FEFET, [many], settings=settings)
    for name, layer in non_ideal_layers(model).items():
        if name not in seen:
            continue
        (x,), wanted = seen[name]
        power = {}
        for mode in ("fast", "exact"):
            set_noise(model, seed=5, mode=mode)
            outputs = torch.stack([layer(x) for _ in range(4)])
            power[mode] = (outputs - wanted).square().mean().item()
        assert power["fast"] == pytest.approx(power["exact"], rel=0.1), name


@torch.no_grad()
@pytest.mark.parametrize("kind", ["scores", "context"])
def test_both_modes_have_the_same_noise_power_in_dynamic_products(images, kind):
    model = make_non_ideal(vit(), FEFET, [images])
    products = model.blocks[1].attn.products
    random = torch.manual_seed(0)
    vectors = torch.randn(4, 2, 17, 32, generator=random)
    if kind == "scores":
        operands = (vectors * 0.1, torch.randn(4, 2, 17, 32, generator=random))
        wanted = operands[0] @ operands[1].transpose(-2, -1)
    else:
        operands = (torch.rand(4, 2, 17, 17, generator=random).softmax(-1), vectors)
        wanted = operands[0] @ operands[1]
    power = {}
    for mode in ("fast", "exact"):
        set_noise(model, seed=5, mode=mode)
        outputs = torch.stack([getattr(products, kind)(*operands) for _ in range(60)])
        power[mode] = (outputs - wanted).square().mean().item()
    assert power["fast"] == pytest.approx(power["exact"], rel=0.15)


@pytest.mark.parametrize(
    ("plan", "mode"),
    [("", "exact"), ("2<-1:map", "fast"), ("0~4 1<-0 2=class", "fast"),
     ("0=7 1<-0:map/mixed 1=class 2:map/average", "fast"),
     ("0=7 1<-0:map/mixed 1=class 2:map/average", "exact")],
)  # fmt: skip
def test_a_model_learns_through_the_noise(images, mode, plan):
    model = apply_plan(vit(), plan)
    make_non_ideal(model, FEFET, [images], mode=mode)
    labels = torch.arange(4)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(10):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


def test_gradients_are_those_of_the_plain_model(images):
    """Straight through: many fine bits and no noise give the plain gradients."""
    plain = vit(1)
    model = make_non_ideal(vit(1), WIDE, [images])
    for each in (plain, model):
        each(images).square().sum().backward()
    of = dict(plain.named_parameters())
    for name, parameter in model.named_parameters():
        assert relative_error(parameter.grad, of[name].grad) < 1e-3, name


@torch.no_grad()
def test_changed_weights_are_programmed_anew(images):
    model = make_non_ideal(vit(), SRAM, [images])
    before = model(images)
    model.blocks[0].mlp.fc2.weight.mul_(1.5)
    assert not torch.equal(model(images), before)


def test_a_refusal_leaves_the_model_as_it_was(images):
    model = vit()
    modules = list(model.modules())
    with pytest.raises(DataError, match="no images"):
        make_non_ideal(model, FEFET, [])
    chip = load_chip("trex_fefet_32nm")
    device = replace(chip.static_array.device, read_variation=None)
    silent = replace(chip, static_array=replace(chip.static_array, device=device))
    with pytest.raises(ChipError, match=r"device\.read_variation"):
        make_non_ideal(model, silent, [images])
    with pytest.raises(DataError, match="not finite"):
        make_non_ideal(model, FEFET, [images * float("nan")])
    with pytest.raises(ModelError, match="not a mode"):
        make_non_ideal(model, FEFET, [images], mode="slow")
    assert list(model.modules()) == modules
    with pytest.raises(ModelError, match="not on a non-ideal chip"):
        set_noise(model, seed=1)
    make_non_ideal(model, FEFET, [images])
    with pytest.raises(ModelError, match="already"):
        make_non_ideal(model, FEFET, [images])
    with pytest.raises(ModelError, match="mask"):
        model.blocks[0](torch.zeros(1, 17, 64), attn_mask=torch.zeros(17, 17))


def test_a_convolution_in_an_encoder_is_refused(images):
    model = vit()
    model.blocks[1].mlp.norm = nn.BatchNorm1d(4)
    with pytest.raises(ModelError, match=r"blocks\.1\.mlp\.norm is a BatchNorm1d"):
        make_non_ideal(model, FEFET, [images])


#: an output and a map from before merges, a producer and a consumer that merge, class rows
JOINT = "1~4 2<-0 3<-1:map/block 3~3 4=class"


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "mode"),
    [("vit", "exact"), ("vit", "fast"), ("distilled", "fast"), ("layer scale", "fast"),
     ("output norm", "fast"), ("lvvit", "fast")],
)  # fmt: skip
def test_joint_plans_run_on_the_chip(name, mode):
    kind = VIT_KINDS[name]
    kind = replace(kind, side=64, kwargs={**kind.kwargs, "depth": 5, "img_size": 64})
    model, images = kind.build(), kind.images(2)
    apply_plan(model, JOINT if kind.reads_class else JOINT.removesuffix(" 4=class"))
    plain = model(images)
    make_non_ideal(model, WIDE, [images], mode=mode)
    # three producers have four layers, and two products in each of three heads
    assert len(non_ideal_layers(model)) == 3 * (4 + 2 * 3) + 3 + (5 + 3)
    # so little that the same tokens match
    assert 0 < relative_error(model(images), plain) < 1e-3
    remove_non_ideal(model)
    assert torch.equal(model(images), plain)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "mode"),
    [("vit", "exact"), ("vit", "fast"), ("distilled", "fast"), ("layer scale", "fast"),
     ("qk norm", "fast"), ("registers, averaged", "fast"), ("lvvit", "exact")],
)  # fmt: skip
def test_plans_of_shared_rows_and_own_maps_run_on_the_chip(name, mode):
    kind = VIT_KINDS[name]
    model, images = kind.build(), kind.images(2)
    randomised(apply_plan(model, kind.mixed))
    plain = model(images)
    make_non_ideal(model, WIDE, [images], mode=mode)
    # four producers, a consumer of mixed maps, one of average maps, and both of values and MLPs
    own = 2 * ("=class" in kind.mixed)
    assert len(non_ideal_layers(model)) == 4 * (4 + 2 * 3) + 2 * (4 + 3) + own
    # so little that the same tokens match
    assert 0 < relative_error(model(images), plain) < 1e-3
    remove_non_ideal(model)
    assert torch.equal(model(images), plain)


@torch.no_grad()
def test_attention_is_proportional_on_the_chip_too(images):
    """The logarithm of a token's size joins its noisy scores."""
    model = apply_plan(vit(), "0~8")
    plain = model(images)
    make_non_ideal(model, WIDE, [images])
    products = model.blocks.get_submodule("1.attn.products")
    with_sizes = model(images)
    products.scores = lambda query, key: torch.zeros(*query.shape[:3], key.shape[2])
    seen = []
    products.context = lambda probabilities, value: seen.append(probabilities) or value
    model(images)
    sizes = seen[0][:, 0, 0] * 17
    assert torch.allclose(sizes.sum(1), torch.full((4,), 17.0))
    assert torch.allclose(sizes, sizes.round(), atol=1e-4)
    assert sizes.max() > 1.5
    assert relative_error(with_sizes, plain) < 1e-3
