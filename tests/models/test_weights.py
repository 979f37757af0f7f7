"""Weights from every layout of file, refused as a whole where anything does not fit."""

import argparse
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

import trex.models.lvvit
import trex.models.uniform  # noqa: F401  (importing registers the family with timm)
from trex.errors import WeightsError
from trex.models.weights import KeyReport, load_weights, weights_hash

NAME = "deit_tiny_patch16_224"
Weights = dict[str, Tensor]


def small(name: str = NAME, **changes: Any) -> nn.Module:
    sizes = {"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 32, "num_classes": 5}
    torch.manual_seed(sum(map(ord, repr(changes))))
    model: nn.Module = timm.create_model(name, **{**sizes, **changes}).eval()
    return model


def shifted(weights: Weights) -> Weights:
    return {name: value + 1 for name, value in weights.items()}


LAYOUTS: dict[str, Callable[[Weights], dict[str, Any]]] = {
    "flat": lambda w: dict(w),
    "flat with more": lambda w: {**w, "epoch": 3},
    "model": lambda w: {"model": w, "optimizer": {"lr": 0.1}},
    "state_dict": lambda w: {"state_dict": w, "args": argparse.Namespace(lr=0.1)},
    "ema": lambda w: {"state_dict": shifted(w), "state_dict_ema": w},
    "model_ema": lambda w: {"model": shifted(w), "model_ema": w},
    "no ema yet": lambda w: {"model": w, "model_ema": None},
    "empty ema": lambda w: {"model": w, "state_dict_ema": {}},
    "twice": lambda w: {"model": {"state_dict": w}},
    "ddp": lambda w: {"model": {f"module.{k}": v for k, v in w.items()}},
    "compiled ddp": lambda w: {f"module._orig_mod.{k}": v for k, v in w.items()},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_loads(layout: str, tmp_path: Path) -> None:
    source, model = small(), small(depth=2, drop_rate=0.0)
    assert weights_hash(source) != weights_hash(model)
    torch.save(LAYOUTS[layout](source.state_dict()), tmp_path / "w.pth.tar")
    report = load_weights(model, tmp_path / "w.pth.tar", model_name=NAME)
    assert report == KeyReport(matched=len(source.state_dict()))
    assert weights_hash(source) == weights_hash(model)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
def test_half_precision_is_widened(suffix: str, tmp_path: Path) -> None:
    source, model = small(), small(depth=2, drop_rate=0.0)
    torch.save(copy.deepcopy(source).half().state_dict(), tmp_path / f"w{suffix}")
    load_weights(model, tmp_path / f"w{suffix}", model_name=NAME)
    for name, value in model.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, source.state_dict()[name].half().float())


def test_position_embeddings_of_another_image_size_are_resampled(tmp_path: Path) -> None:
    source, model = small(), small(img_size=64)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    report = load_weights(model, tmp_path / "w.pth", model_name=NAME)
    assert report.reshaped == (("pos_embed", (1, 5, 24), (1, 17, 24)),)
    assert "1 reshaped (pos_embed from 1×5×24 to 1×17×24)" in str(report)
    assert report.fits
    loaded = model.state_dict()["pos_embed"]
    assert torch.equal(loaded[:, 0], source.state_dict()["pos_embed"][:, 0])


def test_flat_patch_embeddings_are_reshaped(tmp_path: Path) -> None:
    source, model = small(), small(depth=2, drop_rate=0.0)
    weights = source.state_dict()
    weights["patch_embed.proj.weight"] = weights["patch_embed.proj.weight"].flatten(1)
    torch.save(weights, tmp_path / "w.pth")
    report = load_weights(model, tmp_path / "w.pth", model_name=NAME)
    assert report.reshaped == (("patch_embed.proj.weight", (24, 768), (24, 3, 16, 16)),)
    assert weights_hash(source) == weights_hash(model)


def test_old_names_of_layer_scale_are_renamed(tmp_path: Path) -> None:
    name = "deit3_small_patch16_224"
    source, model = small(name), small(name, drop_rate=0.0, depth=2)
    old = {k.replace("ls1.gamma", "gamma_1"): v for k, v in source.state_dict().items()}
    torch.save({"model": old}, tmp_path / "w.pth")
    report = load_weights(model, tmp_path / "w.pth", model_name=name)
    assert report.renamed == tuple(
        (f"blocks.{i}.gamma_1", f"blocks.{i}.ls1.gamma") for i in range(2)
    )
    assert weights_hash(source) == weights_hash(model)


def test_own_families_bring_their_conversions(tmp_path: Path) -> None:
    size = {"embed_dim": (8, 8, 8), "depth": (1, 1, 1), "img_size": 64, "num_classes": 5}
    source, model = (timm.create_model("uniform_t", **size) for _ in range(2))
    torch.save({f"backbone.{k}": v for k, v in source.state_dict().items()}, tmp_path / "w.pth")
    report = load_weights(model, tmp_path / "w.pth", model_name="uniform_t")
    assert weights_hash(source) == weights_hash(model)
    assert ("backbone.head.linear.bias", "head.linear.bias") in report.renamed
    backbone = {k: v for k, v in source.state_dict().items() if not k.startswith("head.")}
    torch.save(backbone, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"no head\.bn\.weight: its model was never"):
        load_weights(model, tmp_path / "w.pth", model_name="uniform_t")


def without_head(weights: Weights) -> Weights:
    return {name: value for name, value in weights.items() if not name.startswith("head.")}


REFUSED: dict[str, tuple[Callable[[], Weights], str, str]] = {
    "wider": (
        lambda: small(embed_dim=48).state_dict(),
        r"1 of 32 tensors match, 31 of another shape \(cls_token 1×1×48 for 1×1×24, .*, …\); "
        r"the file looks like 2 encoders 48 wide on patches of 16×16 pixels, the model has 2 "
        r"encoders 24 wide",
        "name the model",
    ),
    "deeper": (
        lambda: small(depth=3).state_dict(),
        r"12 unexpected \(blocks\.2\.norm1\.weight, .*looks like 3 encoders 24 wide",
        "name the model",
    ),
    "smaller patches": (
        lambda: small(patch_size=8, img_size=16).state_dict(),
        r"1 of another shape \(patch_embed\.proj\.weight 24×3×8×8 for 24×3×16×16\)",
        "name the model",
    ),
    "distilled": (
        lambda: small("deit_tiny_distilled_patch16_224").state_dict(),
        r"unexpected \(dist_token, head_dist\.weight, head_dist\.bias\), 1 of another shape",
        "name the model",
    ),
    "ten classes": (
        lambda: small(num_classes=10).state_dict(),
        "its head has 10 classes, the model's has 5",
        "--num-classes 10",
    ),
    "no head": (
        lambda: without_head(small().state_dict()),
        r"has no head\.weight: its model was never trained to classify",
        "fine-tune it first",
    ),
    "another kind": (
        lambda: {"conv1.weight": torch.zeros(8, 3, 7, 7)},
        r"32 missing \(.*1 unexpected \(conv1\.weight\); .*like no vision transformer",
        "name the model",
    ),
    "nothing": (dict, "holds no weights, only nothing", "save a state dict"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_and_changes_nothing(case: str, tmp_path: Path) -> None:
    weights, message, hint = REFUSED[case]
    path, model = tmp_path / "w.pth", small()
    before = weights_hash(model)
    torch.save(weights(), path)
    with pytest.raises(WeightsError, match=message) as caught:
        load_weights(model, path, model_name=NAME)
    assert hint in caught.value.hint
    assert caught.value.message.startswith(str(path))
    assert "\n" not in caught.value.message
    assert weights_hash(model) == before


class Foreign:
    """Anything that is neither a tensor nor a plain value."""


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "no such file"),
    "folder": (lambda path: path.mkdir(), "is a folder"),
    "text": (lambda path: path.write_text("hello"), "neither torch.save nor safetensors wrote"),
    "empty": (lambda path: path.touch(), "damaged or not a checkpoint"),
    "code": (
        lambda path: torch.save({"model": Foreign()}, path),
        "would run code to load .*Foreign",
    ),
    "whole model": (lambda path: torch.save(small(), path), "would run code to load"),
    "list": (lambda path: torch.save([torch.zeros(1)], path), "holds a list"),
    "numbers": (lambda path: torch.save({"epoch": 3}, path), "no weights, only epoch"),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_refused(case: str, suffix: str, tmp_path: Path) -> None:
    make, message = BROKEN[case]
    path, model = tmp_path / f"w{suffix}", small()
    make(path)
    before = weights_hash(model)
    if suffix == ".safetensors" and case not in ("missing", "folder"):
        message = "damaged or not a checkpoint|would run code"
    with pytest.raises(WeightsError, match=message) as caught:
        load_weights(model, path, model_name=NAME)
    assert caught.value.hint
    assert "\n" not in caught.value.message
    assert weights_hash(model) == before


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    for name, save in (("w.pth", torch.save), ("w.safetensors", safetensors.torch.save_file)):
        path = tmp_path / name
        save(small().state_dict(), path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(WeightsError, match="damaged"):
            load_weights(small(), path, model_name=NAME)


def test_a_hash_changes_with_any_part_of_the_weights() -> None:
    def of(**tensors: Tensor) -> str:
        module = nn.Module()
        for name, value in tensors.items():
            module.register_buffer(name, value)
        return weights_hash(module)

    zero = torch.zeros(2, 3)
    one = zero.clone()
    one[1, 2] = 1
    hashes = [
        of(),
        of(a=zero),
        of(b=zero),
        of(a=one),
        of(a=zero.T),
        of(a=zero.half()),
        of(a=zero, b=one),
        of(a=one, b=zero),
        of(a=torch.tensor(0.0)),
        of(a=zero.bfloat16()),
    ]
    assert len(set(hashes)) == len(hashes)
    assert all(len(h) == 16 for h in hashes)
    assert of(a=zero, b=one) == of(b=one, a=zero)
    assert of(a=one.T.contiguous().T) == of(a=one)


def test_real_weights_load_from_every_layout(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "weights" / f"{NAME}.safetensors"
    first, model = timm.create_model(NAME), timm.create_model(NAME)
    report = load_weights(first, path, model_name=NAME)
    assert report == KeyReport(matched=152)
    expected = safetensors.torch.load_file(path)
    assert all(torch.equal(value, expected[name]) for name, value in first.state_dict().items())
    assert sum(p.numel() for p in first.parameters()) == 5_717_416
    for layout in ("flat", "state_dict", "model_ema", "compiled ddp"):
        nn.init.zeros_(model.head.weight)
        torch.save(LAYOUTS[layout](expected), tmp_path / "w.pth")
        load_weights(model, tmp_path / "w.pth", model_name=f"{NAME}.fb_in1k")
        assert weights_hash(model) == weights_hash(first)
    with pytest.raises(
        WeightsError, match=r"like 12 encoders 192 wide .* has 12 encoders 384 wide"
    ):
        load_weights(timm.create_model("deit_small_patch16_224"), path, model_name="deit_small")
