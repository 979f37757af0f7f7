"""The models that users name: counts by hand from published sizes, and every command on each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_runs import CLASSES, write_images
from tiny_models import blocks_of, logits_of, settled
from torch import nn

import trex
from trex.cli import main
from trex.errors import ModelError, WeightsError
from trex.hardware import workload
from trex.models.answers import first_tensor
from trex.models.registry import adapter_of, architecture_of, create, load
from trex.plan import Plan
from trex.reuse import apply_reuse, plan_of
from trex.reuse.route import State


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What one consumer spares, by the tensor it reuses."""

    plan: str
    encoders: int
    macs: dict[str, int]
    parameters: dict[str, int]


def vit(
    tokens: int,
    dim: int,
    depth: int = 12,
    *,
    bias: bool = True,
    key_bias: bool = True,
    layer_scale: bool = False,
) -> Counts:
    """A ViT: Q, K, their product, for `output` also V, its product and the first norm."""
    macs = {
        "map": 2 * tokens * dim**2 + tokens**2 * dim,
        "output": 3 * tokens * dim**2 + 2 * tokens**2 * dim,
    }
    parameters = {
        "map": 2 * dim * (dim + bias) + layer_scale * dim,
        "output": 3 * dim * (dim + bias) + 2 * dim + layer_scale * dim,
    }
    if not bias:
        assert not layer_scale
    if not key_bias:
        parameters = {tensor: number - dim for tensor, number in parameters.items()}
    return Counts(plan="5<-4", encoders=depth, macs=macs, parameters=parameters)


def uniform(dim: int, depth: int, side: int = 4, heads: int = 4) -> Counts:
    """UniForm's last stage; a consumer's normalisation becomes a bias."""
    n, kernels = side * side, (1, 3, 5, 7)
    macs = n * dim * dim // 2 + n * 49 * dim // 4 + n**2 * dim // 4
    values = sum(k * k for k in kernels) * dim // heads
    parameters = dim * dim // 2 + dim + 49 * dim // 4 + dim // 2 + heads * n + dim
    return Counts(
        plan=f"{depth - 1}<-{depth - 2}",
        encoders=depth,
        macs={"map": macs, "output": macs + n * values + n**2 * dim},
        parameters={"map": parameters, "output": parameters + values + dim},
    )


def shvit(side: int, dim: int, partial_dim: int, encoders: int, key: int = 16) -> Counts:
    """SHViT's first stage with attention; the other channels do not attend."""
    n, p = side * side, partial_dim
    macs = 2 * n * p * key + n**2 * key
    parameters = 2 * key * (p + 2) + dim
    return Counts(
        plan="1<-0",
        encoders=encoders,
        macs={"map": macs, "output": macs + n * p**2 + n**2 * p},
        parameters={"map": parameters, "output": parameters + p * (p + 2) + 2 * p},
    )


MODELS = {
    "deit_tiny_patch16_224": vit(197, 192),
    "deit_small_distilled_patch16_224": vit(198, 384),
    "deit3_small_patch16_224": vit(197, 384, layer_scale=True),
    "vit_small_patch16_384": vit(577, 384),
    "vit_small_patch14_dinov2": vit(1370, 384, layer_scale=True),
    "eva02_tiny_patch14_224": vit(257, 192, key_bias=False),
    "lvvit_t": vit(197, 240, bias=False),
    "lvvit_s": vit(197, 384, 16, bias=False),
    "uniform_t": uniform(192, 5),
    "uniform_l": uniform(384, 6),
    "shvit_s1": shvit(7, 224, 48, 9),
    "shvit_s4": shvit(8, 336, 72, 13),
}
SIDE = 32
#: run through all commands: every family, and every kind of head and encoder
COMMANDED = {
    "deit_tiny_patch16_224": [],
    "deit_small_distilled_patch16_224": [pytest.mark.slow],
    "vit_small_patch14_dinov2": [pytest.mark.slow],
    "eva02_tiny_patch14_224": [],
    "lvvit_t": [],
    "uniform_t": [],
    "shvit_s1": [],
}

every_model = pytest.mark.parametrize("name", MODELS)


def side_of(name: str) -> int:
    """Of images, so that the encoders that reuse have several tokens."""
    if "patch14" in name:
        return 28
    return 2 * SIDE if name.startswith("shvit") else SIDE


def pictures(name: str, number: int) -> torch.Tensor:
    """Random images of unlike contrast and brightness, so that pooled features vary."""
    generator = torch.Generator().manual_seed(number)
    side = side_of(name)
    images = torch.randn(number, 3, side, side, generator=generator)
    contrast = torch.linspace(0.1, 2, number)[:, None, None, None]
    return images * contrast + torch.randn(number, 3, 1, 1, generator=generator)


def small(name: str) -> nn.Module:
    """The model for small images and four classes; no branch of it adds nothing."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = create(name, num_classes=len(CLASSES), img_size=side_of(name))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
        return settled(model, pictures(name, 8))


def parameters_of(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@every_model
def test_counts_by_hand(name: str) -> None:
    expected = MODELS[name]
    found = architecture_of(create(name, device="meta"), name)
    assert len(found.encoders) == expected.encoders
    for tensor in ("map", "output"):
        plan = Plan.parse(f"{expected.plan}:{tensor}")
        assert found.macs - workload(found, plan).macs == expected.macs[tensor]
        model = create(name, device="meta")
        before = parameters_of(model)
        apply_reuse(model, plan, "linear", keep_originals=False)
        assert before - parameters_of(model) == expected.parameters[tensor]


@every_model
def test_one_row_of_logits_an_image(name: str) -> None:
    model, images = small(name).double(), pictures(name, 2).double()
    expected = logits_of(model, images)
    assert expected.shape == (2, len(CLASSES))
    assert expected.isfinite().all()
    assert torch.equal(logits_of(apply_reuse(model, ""), images), expected)
    adapter = adapter_of(model)
    with torch.no_grad():
        stream = adapter.stem(model, images)
        for index, block in enumerate(blocks_of(model)):
            stream = adapter.before(block, stream)
            state = State(stream, places=adapter.places(model, images)).at(index)
            output, _ = adapter.attend(block, stream, frozenset({"output"}), tokens=state)
            stream = adapter.after(
                block, adapter.join(block, stream, adapter.branch(block, output))
            )
            stream = adapter.between(model, index, stream)
        logits = adapter.head(model, stream)
    torch.testing.assert_close(logits, expected)
    variant = logits_of(apply_reuse(model, MODELS[name].plan), images)
    assert variant.shape == expected.shape
    assert (variant - expected).abs().max() > 1e-6


def test_of_several_outputs_the_first_is_the_answer() -> None:
    logits, features = torch.randn(2, 5), torch.randn(2, 9, 5)
    assert first_tensor(logits) is logits
    assert first_tensor((logits, features)) is logits
    rows = first_tensor((features, logits))
    lengths = rows.reshape(2, 9, 5).norm(dim=2)
    torch.testing.assert_close(
        rows.reshape(2, 9, 5) * features.norm(dim=2, keepdim=True), features
    )
    torch.testing.assert_close(lengths, torch.ones(2, 9))
    for other in (torch.randn(2, 3, 9, 5), torch.randn(5), ({}, logits)):
        with pytest.raises(ModelError, match="one row of logits or features"):
            first_tensor(other)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "all", each=3)


@pytest.fixture(scope="module")
def of_another_family(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("weights") / "other.safetensors"
    save_file(create("test_vit2", num_classes=len(CLASSES), img_size=SIDE).state_dict(), path)
    return path


@every_model
def test_a_wrong_checkpoint_is_refused(name: str, of_another_family: Path) -> None:
    with pytest.raises(WeightsError):
        load(name, weights=of_another_family, num_classes=len(CLASSES), img_size=side_of(name))


@pytest.mark.parametrize("name", [pytest.param(n, marks=m) for n, m in COMMANDED.items()])
def test_every_command(
    name: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def json_of(*command: str) -> dict[str, object]:
        capsys.readouterr()
        assert main([*command, "--json"]) == 0
        found: dict[str, object] = json.loads(capsys.readouterr().out)
        return found

    original = small(name)
    weights = tmp_path / "weights.safetensors"
    save_file({k: v.contiguous() for k, v in original.state_dict().items()}, weights)
    flags = ["--model", name, "--num-classes", str(len(CLASSES)), "--hw", "trex_fefet_32nm",
             "--img-size", str(side_of(name))]  # fmt: skip
    run, out, space = (str(tmp_path / part) for part in ("run", "out", "space.yaml"))
    consumer = Plan.parse(MODELS[name].plan).consumers[0]
    Path(space).write_text(f"description: one consumer\nconsumers: [{consumer}]\n")
    plain = json_of("cost", *flags, "--accounting", "full")
    reusing = json_of("cost", *flags, "--accounting", "full", "--plan", MODELS[name].plan)
    assert reusing["energy_j"] < plain["energy_j"]  # type: ignore[operator]
    found = json_of(
        "search", *flags, "--weights", str(weights), "--max-energy", "0.999x",
        "--space", space, "--calib", str(images), "--eval", str(images), "--evaluations", "2",
        "--final-views", "0", "--out", run,
    )  # fmt: skip
    plan = found["best"]["plan"]  # type: ignore[index]
    assert plan == MODELS[name].plan
    measured = json_of("evaluate", run, "--data", str(images))
    assert json_of("export", run, "--out", out)["plan"] == plan
    variant = trex.load(out)
    assert str(plan_of(variant)) == plan
    assert parameters_of(variant) < parameters_of(original)
    assert 0 <= measured["top1"] <= 1  # type: ignore[operator]
