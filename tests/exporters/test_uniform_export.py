"""UniForm's reuse config: written, validated, rebuilt elsewhere; and the public code's config."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from small_runs import CLASSES, write_images
from tiny_models import logits_of, randomised, settled
from torch import nn

import trex
from trex.cli import main
from trex.errors import BundleError
from trex.exporters.uniform import PUBLIC_ARCHS, save_uniform
from trex.models.registry import create
from trex.models.uniform.config import UniformReuseConfig, from_config, read_config
from trex.plan import Plan
from trex.reuse import apply_plan, plan_of
from trex.store.tensors import state_hash
from trex.training.transforms import DataConfig

NAME, SIDE = "uniform_t", 96
PLAN = "2<-1:map/linear_own 4<-3"
IMAGES = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def original(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = randomised(create(NAME, num_classes=len(CLASSES), img_size=SIDE))
    return settled(model, torch.randn(8, 3, SIDE, SIDE))


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    model = apply_plan(original(), PLAN)
    with torch.no_grad():  # as a fit would: not the projections that reuse starts with
        for name, value in model.named_parameters():
            if name.endswith("proj.weight"):
                value.add_(torch.randn_like(value), alpha=0.01)
    save_uniform(tmp_path / "out", model, name=NAME, data_config=DataConfig.of_model(model))
    save_file({"logits": logits_of(model, IMAGES)}, tmp_path / "expected.safetensors")
    return tmp_path / "out"


PREPROCESSING: dict[str, Any] = {
    "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "crop_pct": 0.875,
    "crop_mode": "center",
}  # fmt: skip


def change(folder: Path, **changes: Any) -> None:
    file = folder / "reuse_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def entry(encoder: int = 2, source: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "encoder": encoder, "source": source, "tensor": "map", "transform": "linear", **more,
    }  # fmt: skip


def test_a_fresh_process_rebuilds_the_same_variant(exported: Path, tmp_path: Path) -> None:
    save_file({"images": IMAGES}, tmp_path / "images.safetensors")
    script = (
        "import sys, torch\n"
        "from safetensors.torch import load_file, save_file\n"
        "from trex.models.uniform import from_config\n"
        "model = from_config(sys.argv[1])\n"
        "with torch.no_grad(): logits = model(load_file(sys.argv[2])['images'])\n"
        "save_file({'logits': logits}, sys.argv[3])\n"
    )
    out = tmp_path / "logits.safetensors"
    arguments = [str(exported), str(tmp_path / "images.safetensors"), str(out)]
    subprocess.run([sys.executable, "-W", "error", "-c", script, *arguments], check=True)
    expected = load_file(tmp_path / "expected.safetensors")["logits"]
    torch.testing.assert_close(load_file(out)["logits"], expected, atol=1e-5, rtol=0)


def test_what_was_written_is_read(exported: Path) -> None:
    config = read_config(exported / "reuse_config.json")
    assert str(config.plan) == PLAN
    assert (config.model, config.num_classes, config.img_size) == (NAME, 4, (SIDE, SIDE))
    assert plan_of(from_config(exported / "reuse_config.json")) == Plan.parse(PLAN)


def test_an_original_is_a_config_without_reuse(tmp_path: Path) -> None:
    model = original()
    save_uniform(tmp_path, model, name=NAME, data_config=DataConfig.of_model(model))
    assert read_config(tmp_path).reuse == ()
    assert torch.equal(logits_of(from_config(tmp_path), IMAGES), logits_of(model, IMAGES))


@pytest.mark.parametrize("plan", ["1~4", "4=class", "4=9"])
def test_what_the_format_cannot_describe_is_refused(
    plan: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = original()
    monkeypatch.setattr("trex.exporters.uniform.plan_of", lambda model: Plan.parse(plan))
    with pytest.raises(BundleError, match=f'who reuses whom, and "{plan}" does more') as caught:
        save_uniform(tmp_path / "out", model, name=NAME, data_config=DataConfig.of_model(model))
    assert "export a bundle" in caught.value.hint
    assert not (tmp_path / "out").exists()


def without_single_enums(schema: Any) -> Any:
    """Old versions of pydantic say of a constant also that it is one of a list of one."""
    if isinstance(schema, list):
        return [without_single_enums(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: without_single_enums(part)
        for key, part in schema.items()
        if not (key == "enum" and "const" in schema)
    }


def test_the_shipped_schema_is_that_of_the_reader() -> None:
    from trex.models import uniform

    shipped = Path(uniform.__file__).with_name("reuse_config.schema.json")
    schema = json.loads(shipped.read_text())
    assert schema == without_single_enums(UniformReuseConfig.model_json_schema())
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reuses": []}, "reuses: is not a known field"),
        ({"reuse": [entry(heads=3)]}, "heads: is not a known field"),
        ({"version": 2}, "version: is 2, this TReX reads up to 1"),
        ({"version": "1"}, "version"),
        ({"format": "hymba"}, "format: is not 'trex-uniform-reuse'"),
        ({"model": "uniform_xl"}, "model: 'uniform_xl' is not allowed"),
        ({"model": "uniform_l"}, "weights of another variant"),
        ({"num_classes": 5}, "weights of another variant"),
        ({"reuse": [entry(2, 1)]}, "weights of another variant"),
        (
            {"reuse": [entry(3, 2)]},
            "reuse: encoder 3 cannot reuse encoder 2: they lie in different stages",
        ),
        ({"reuse": [entry(2, 3)]}, "reuse: encoder 2 reuses encoder 3, which runs later"),
        ({"reuse": [entry(5, 4)]}, "names encoder 5, but the model has 5 encoders"),
        ({"reuse": [entry(), entry()]}, "encoder 2 has two sources"),
        ({"reuse": [entry(tensor="keys")]}, "'keys' is not allowed"),
        ({"img_size": [90, 90]}, "img_size.0: 90 is not allowed"),
        ({"num_classes": 10**12}, "weights of another variant"),
        (
            {"preprocessing": PREPROCESSING | {"std": [0.2, 0.0, 0.2]}},
            "preprocessing.std.1: 0.0 is not allowed",
        ),
        ({"preprocessing": PREPROCESSING | {"std": [0.2]}}, "std has 1 numbers for 3 channels"),
        (
            {"preprocessing": PREPROCESSING | {"mean": [0.2] * 4}},
            "mean has 4 numbers for 3 channels",
        ),
        (
            {"preprocessing": PREPROCESSING | {"interpolation": "cubist"}},
            "interpolation: 'cubist' is not allowed",
        ),
        (
            {"preprocessing": PREPROCESSING | {"crop_mode": "top"}},
            "crop_mode: 'top' is not allowed",
        ),
        ({"preprocessing": PREPROCESSING | {"crop_pct": 87.5}}, "crop_pct: 87.5 is not allowed"),
        ({"weights": {"file": "../model.safetensors", "sha256": "0" * 16}}, "file: '../"),
        ({"weights": {"file": "other.safetensors", "sha256": "0" * 16}}, "is missing"),
        ({"weights": {"file": "model.safetensors", "sha256": "0" * 16}}, "does not hold"),
    ],
)
def test_bad_configs_are_refused(exported: Path, changes: dict[str, Any], message: str) -> None:
    change(exported, **changes)
    with pytest.raises(BundleError, match=message):
        from_config(exported)


def test_changed_weights_are_refused(exported: Path) -> None:
    file = exported / "model.safetensors"
    state = load_file(file)
    assert read_config(exported).weights.sha256 == state_hash(state)
    state["head.linear.bias"] += 1
    save_file(state, file)
    with pytest.raises(BundleError, match="does not hold the weights"):
        from_config(exported)
    file.write_bytes(b"nothing")
    with pytest.raises(BundleError, match="cannot be read"):
        from_config(exported)


@pytest.mark.parametrize(("name", "arch"), PUBLIC_ARCHS.items())
def test_the_public_codes_config_names_the_base(name: str, arch: str, tmp_path: Path) -> None:
    model = create(name, num_classes=3)
    save_uniform(tmp_path, model, name=name, data_config=DataConfig.of_model(model))
    text = (tmp_path / "mmengine_base.py").read_text()
    assert "inferred" in text
    names: dict[str, Any] = {}
    exec(text, names)
    assert names["model"]["backbone"] == {"type": "MixViT", "arch": arch}
    head = names["model"]["head"]
    assert (head["in_channels"], head["num_classes"]) == (model.num_features, 3)


def test_other_models_are_refused(tmp_path: Path) -> None:
    model = create("test_vit")
    with pytest.raises(BundleError, match="test_vit is not a UniForm"):
        save_uniform(
            tmp_path / "x", model, name="test_vit", data_config=DataConfig.of_model(model)
        )
    assert not (tmp_path / "x").exists()


def test_what_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    variant = apply_plan(original(), PLAN)
    own_sizes = timm.create_model(NAME, img_size=SIDE, num_classes=4, embed_dim=(64, 64, 64))
    for name, model in (
        (NAME, copy.deepcopy(variant).fuse()),
        ("uniform_s", variant),
        (NAME, own_sizes),
    ):
        with pytest.raises(BundleError, match=r"is not uniform_\w with this plan") as caught:
            save_uniform(tmp_path / "x", model, name=name, data_config=DataConfig.of_model(model))
        assert "unfused" in caught.value.hint
        assert not (tmp_path / "x").exists()


def test_search_and_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file(original().state_dict(), tmp_path / "weights.safetensors")
    run, out = tmp_path / "run", tmp_path / "out"
    flags = [
        "--model", NAME, "--weights", str(tmp_path / "weights.safetensors"),
        "--num-classes", str(len(CLASSES)), "--img-size", str(SIDE),
    ]  # fmt: skip
    search = [
        "search", *flags, "--hw", "trex_fefet_32nm", "--max-latency", "0.999x",
        "--calib", str(write_images(tmp_path / "calib")), "--out", str(run),
        "--evaluations", "3", "--final-views", "1", "--space", "default", "--only", "reuse",
    ]  # fmt: skip
    assert main(search) == 0
    capsys.readouterr()
    assert main(["export", str(run), "--format", "uniform", "--out", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["uniform"] == str(out)
    assert str(read_config(out).plan) == report["plan"] != ""
    # a fine-tuning leaves a bundle
    bundle, again = run / "best", tmp_path / "again"
    assert main(["export", str(bundle), "--format", "uniform", "--out", str(again)]) == 0
    assert torch.equal(logits_of(from_config(again), IMAGES), logits_of(trex.load(bundle), IMAGES))
    assert read_config(again).weights == read_config(out).weights
