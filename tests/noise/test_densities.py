"""Input-bit densities measured on a model: known codes, streaming, and what stays as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import KINDS, STAGED_KINDS, TEXT_KINDS
from torch import nn

from trex.errors import DataError
from trex.models import registry
from trex.models.adapter import Products
from trex.models.digits import DIGITS_MODEL
from trex.noise.densities import measure_densities
from trex.training.data import batches, open_dataset
from trex.training.transforms import DataConfig, eval_transform

STEM = "patch_embed.proj"


def digits_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return registry.create(DIGITS_MODEL)


def measure(model, images, **options):
    options = {"input_bits": 8, **options}
    return measure_densities(model, registry.adapter_of(model), images, **options)


def pictures(*values: float, count: int = 1) -> torch.Tensor:
    """Images whose pixels take these values, equally often."""
    pixels = torch.tensor(values).repeat(count * 3 * 24 * 24 // len(values))
    return pixels.view(count, 3, 24, 24)


def random_images(count: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, 3, 24, 24, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("bits", "codes"), [(8, [255, 100]), (8, [-127, 64]), (4, [15, 6]), (4, [7, -3]), (2, [-1, 0])]
)
def test_known_codes_give_exact_densities(bits, codes):
    greatest = max(map(abs, codes))
    images = pictures(*(code / greatest for code in codes))
    shares = measure(digits_model(), [images], input_bits=bits)[STEM]
    ones = [[code % (1 << bits) >> plane & 1 for plane in range(bits)] for code in codes]
    assert shares.tolist() == np.mean(ones, axis=0).tolist()


def test_the_step_comes_from_all_images():
    """A large value in the last batch makes the first one's codes small."""
    shares = measure(digits_model(), [pictures(1.0), pictures(255.0)])[STEM]
    assert shares.tolist() == [1.0] + [0.5] * 7


def test_magnitudes_where_lines_carry_signs():
    shares = measure(digits_model(), [pictures(-127.0, 64.0)], encoding="differential")[STEM]
    assert shares.tolist() == [0.5] * 6 + [1.0, 0.0]


def test_equal_attention_and_queries_of_zero():
    model = digits_model()
    for block in model.blocks:
        width = block.attn.qkv.in_features
        nn.init.zeros_(block.attn.qkv.weight[:width])
        nn.init.zeros_(block.attn.qkv.bias[:width])
    shares = measure(model, [random_images(2)])
    assert shares["blocks.3.attn.scores"].tolist() == [0.0] * 8
    # equal probabilities are all the greatest one: they take the greatest code
    assert shares["blocks.3.attn.context"].tolist() == [1.0] * 8


@pytest.mark.parametrize("name", [DIGITS_MODEL, "lvvit_t"])
def test_every_product_of_the_original_is_measured(name):
    torch.manual_seed(0)
    model = registry.create(name)
    size = DataConfig.of_model(model).input_size
    shares = measure(model, [torch.randn(1, *size)], dynamic_input_bits=6)
    products = {op.name: op for op in registry.architecture_of(model, name).operations if op.macs}
    assert shares.keys() == products.keys()
    for name, planes in shares.items():
        assert planes.shape == (6 if products[name].kind == "dynamic_matmul" else 8,)
        assert planes.min() >= 0
        assert planes.max() <= 1
        assert planes.any()


@pytest.mark.parametrize("kind", [*STAGED_KINDS, *TEXT_KINDS])
def test_what_multiplies_by_weights_is_measured_in_every_family(kind):
    model = KINDS[kind].build()
    shares = measure(model, [KINDS[kind].images()])
    products = registry.architecture_of(model, kind).operations
    missing = {op.part for op in products if op.macs and op.name not in shares}
    # their attentions have no way to show what their computed products read
    assert missing == {"scores", "context"}


def test_queries_keys_and_values_share_their_input():
    shares = measure(digits_model(), [random_images(2)])
    for part in "kv":
        assert np.array_equal(shares["blocks.0.attn.q"], shares[f"blocks.0.attn.{part}"])


def test_in_pieces_or_in_one_go():
    images, model = random_images(12), digits_model()
    whole = measure(model, [images])
    pieces = measure(model, list(images.split([5, 1, 6])))
    assert np.array_equal(whole[STEM], pieces[STEM])
    for name in whole:  # activations of other batches may round to the next code
        assert pieces[name] == pytest.approx(whole[name], abs=2e-3)


def state_of(model):
    hooks = sum(len(module._forward_pre_hooks) for module in model.modules())
    children = [name for name, _ in model.named_modules()]
    return hooks, children, [module.training for module in model.modules()]


def test_the_model_stays_as_it_was():
    model = digits_model().train()
    model.blocks[1].eval()
    before, weights = state_of(model), {k: v.clone() for k, v in model.state_dict().items()}
    measure(model, [random_images(2)])
    with pytest.raises(DataError, match="not finite"):
        measure(model, [torch.full((1, 3, 24, 24), torch.nan)])
    assert state_of(model) == before
    assert all(torch.equal(weights[k], v) for k, v in model.state_dict().items())


def test_an_attentions_own_products_are_used_and_kept():
    class Nothing(Products):
        def scores(self, query_BHNE, key_BHNE):
            return super().scores(query_BHNE, key_BHNE) * 0

    model = digits_model()
    adapter = registry.adapter_of(model)
    model.blocks[0].attn.products = own = Nothing()
    shares = measure_densities(model, adapter, [random_images(2)], input_bits=8)
    assert shares["blocks.0.attn.context"].tolist() == [1.0] * 8
    assert model.blocks[0].attn.products is own
    assert not hasattr(model.blocks[1].attn, "products")


def test_images_that_cannot_be_measured_on():
    with pytest.raises(DataError, match="no image to measure on"):
        measure(digits_model(), [])
    with pytest.raises(ValueError, match="iterable twice"):
        measure(digits_model(), iter([random_images(1)]))


def documented() -> dict[str, float]:
    """Mean densities of the documentation's table, by the end of an operation's name."""
    page = (Path(__file__).parents[2] / "docs" / "hardware.md").read_text()
    rows = page.split("| input of |")[1].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    names = {"stem": "patch_embed.proj", "head": "head", "proj": "attn.proj"}
    return {
        names.get(name, f".{name}"): float(mean)
        for parts, mean, *_ in cells
        for name in parts.replace("`", "").split(", ")
    }


def test_real_images_and_weights_give_the_documented_densities(shared_data):
    name = "deit_tiny_patch16_224"
    loaded = registry.load(name, weights=shared_data / "weights" / f"{name}.safetensors")
    images = open_dataset(
        str(shared_data / "imagenet_dev"),
        transform=eval_transform(DataConfig.of_model(loaded.model)),
        labels=False,
    ).subset(16, seed=0)
    shares = measure(loaded.model, [batch.images for batch in batches(images, 8)])
    means = documented()
    assert len(means) == 10
    for part, mean in means.items():
        ours = [planes.mean() for name, planes in shares.items() if name.endswith(part)]
        assert np.mean(ours) == pytest.approx(mean, abs=0.01), part
