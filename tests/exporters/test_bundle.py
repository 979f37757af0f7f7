from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from disks import files_of_at_most
from safetensors.torch import load_file, save_file
from tiny_models import logits_of, randomised
from torch import nn

import trex
from trex.errors import BundleError, PlanError, StorageError
from trex.exporters.bundle import load_bundle, load_config, save_bundle
from trex.models.registry import create
from trex.models.weights import weights_hash
from trex.reuse import apply_plan, plan_of
from trex.training.transforms import DataConfig

NAME, ARGUMENTS = "test_vit", {"num_classes": 5, "img_size": 32}
PLAN = "2<-1:output/block 4<-3:map/block"
#: a token merges, and the last encoder computes its class row alone
JOINT = "2<-1:output/block 3~1 5=class"
#: rows are shared, maps are mixed and averages, with class rows of their own
ROWS = "3<-2:map/mixed 4:map/average 0=3 1=@0 3=class 5=class"
IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def original() -> nn.Module:
    torch.manual_seed(0)
    return randomised(create(NAME, **ARGUMENTS))


def variant(plan: str = PLAN) -> nn.Module:
    """Its consumers' weights are not those `apply_plan` makes of the original."""
    return randomised(apply_plan(original(), plan))


def save(folder: Path, model: nn.Module, **more: Any) -> None:
    save_bundle(
        folder,
        model,
        name=NAME,
        arguments=ARGUMENTS,
        base_weights_sha256=weights_hash(original()),
        data_config=DataConfig.of_model(model, mean=(0.1, 0.2, 0.3)),
        **more,
    )


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    save(tmp_path / "bundle", variant())
    return tmp_path / "bundle"


def change_config(bundle: Path, **changes: Any) -> None:
    file = bundle / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_it_runs_in_a_process_that_knows_nothing_else(bundle: Path, tmp_path: Path) -> None:
    model = load_bundle(bundle)
    save_file({"images": IMAGES}, tmp_path / "images.safetensors")
    script = (
        "import sys, torch, trex\n"
        "from safetensors.torch import load_file, save_file\n"
        "images = load_file(sys.argv[2])['images']\n"
        "with torch.no_grad(): logits = trex.load(sys.argv[1])(images)\n"
        "save_file({'logits': logits}, sys.argv[3])\n"
    )
    out = tmp_path / "logits.safetensors"
    arguments = [str(bundle), str(tmp_path / "images.safetensors"), str(out)]
    subprocess.run([sys.executable, "-W", "error", "-c", script, *arguments], check=True)
    torch.testing.assert_close(load_file(out)["logits"], logits_of(model, IMAGES))


@pytest.mark.parametrize("plan", [PLAN, JOINT, ROWS, ""])
def test_what_was_saved_is_loaded(plan: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = variant(plan)
    save(tmp_path, model, extra={"estimate": {"latency_s": 0.001}})
    loaded = trex.load(tmp_path)
    assert torch.equal(logits_of(loaded, IMAGES), logits_of(model, IMAGES))
    assert plan_of(loaded) == plan_of(model)
    assert not loaded.training
    config = load_config(tmp_path)
    assert DataConfig.from_json(config["data"]) == DataConfig.of_model(model, mean=(0.1, 0.2, 0.3))
    assert config["estimate"] == {"latency_s": 0.001}
    assert (config["model"], config["plan"]) == (NAME, plan)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_the_base_becomes_the_variant(bundle: Path) -> None:
    base = original()
    assert load_bundle(bundle, base) is base
    assert torch.equal(logits_of(base, IMAGES), logits_of(load_bundle(bundle), IMAGES))


def test_another_base_is_refused_and_left_alone(bundle: Path) -> None:
    torch.manual_seed(7)
    others = [
        randomised(create(NAME, **ARGUMENTS)),
        create(NAME, num_classes=4, img_size=32),
        create("test_vit2", **ARGUMENTS),
        apply_plan(original(), PLAN),
    ]
    for other in others:
        before, expected = weights_hash(other), logits_of(other, IMAGES)
        with pytest.raises(BundleError, match="made from another base model") as caught:
            load_bundle(bundle, other)
        assert weights_hash(original()) in caught.value.hint
        assert weights_hash(other) == before
        assert torch.equal(logits_of(other, IMAGES), expected)


def test_changed_weights_are_refused_and_the_base_left_alone(bundle: Path) -> None:
    file = bundle / "model.safetensors"
    state = load_file(file)
    state["head.bias"] = state["head.bias"] + 1e-6
    save_file(state, file)
    base = original()
    for model in (None, base):
        with pytest.raises(BundleError, match="not the file that belongs to"):
            load_bundle(bundle, model)
    assert weights_hash(base) == weights_hash(original())
    assert plan_of(base) is None


def test_average_maps_are_held_to_and_are_of_as_many_tokens_as_the_model_has(
    tmp_path: Path,
) -> None:
    model = variant(ROWS)
    save(tmp_path / "held", model)
    state = load_file(tmp_path / "held" / "model.safetensors")
    state["blocks.4.attn.average"][0, 0, 0] += 1e-6
    save_file(state, tmp_path / "held" / "model.safetensors")
    with pytest.raises(BundleError, match="not the file that belongs to"):
        load_bundle(tmp_path / "held")
    consumer: Any = model.get_submodule("blocks.3.attn")
    consumer.average = torch.zeros(consumer.num_heads, 7, 7)
    save(tmp_path / "other", model)
    for base in (None, original()):
        with pytest.raises(BundleError) as caught:
            load_bundle(tmp_path / "other", base)
        told = "encoder 3 has average maps of 7 tokens, and the model 5"
        assert caught.value.message.endswith(told)
        assert base is None or plan_of(base) is None


def test_at_another_image_size_the_encoder_of_average_maps_is_named(tmp_path: Path) -> None:
    save(tmp_path, variant(ROWS))
    model = load_bundle(tmp_path)
    larger = torch.zeros(1, 3, 48, 48)
    with pytest.raises(PlanError, match=r"encoder 3 has average maps of 5 tokens; .* make 10"):
        model(larger)


@pytest.mark.parametrize(
    "changes",
    [
        {"plan": "2<-0 4<-3:map"},
        {"plan": 3},
        {"plan": "2<-0:output/block 4<-3:map/linear 1~1"},
        {"model": "test_vit2"},
        {"model_args": {"num_classes": 6}},
        {"weights_sha256": "0" * 16},
        {"data": {}},
    ],
    ids=str,
)
def test_a_changed_configuration_is_refused(bundle: Path, changes: dict[str, Any]) -> None:
    change_config(bundle, **changes)
    with pytest.raises(BundleError, match="was changed after it was written"):
        load_bundle(bundle)


def test_remarks_may_be_added_to_a_configuration(bundle: Path) -> None:
    change_config(bundle, remark="for the poster")
    assert plan_of(load_bundle(bundle)) is not None


@pytest.mark.parametrize("name", ["plan", "base_weights_sha256", "fingerprint", "data"])
def test_a_missing_field_is_named(bundle: Path, name: str) -> None:
    config = json.loads((bundle / "config.json").read_text())
    del config[name]
    (bundle / "config.json").write_text(json.dumps(config))
    with pytest.raises(BundleError, match=f"has no '{name}'"):
        load_bundle(bundle)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "is not a bundle: it has no config.json"),
        ("config.json", b"{", "cannot be read"),
        ("config.json", b"\xff\xfe", "cannot be read"),
        ("config.json", b"[]", "is of schema None"),
        ("config.json", b'{"schema": 99}', "is of schema 99"),
        ("model.safetensors", None, "has no model.safetensors"),
        ("model.safetensors", b"", "cannot be read"),
        ("model.safetensors", b"PK\x03\x04 not safetensors", "cannot be read"),
    ],
)
def test_damaged_bundles_are_refused(
    bundle: Path, name: str, content: bytes | None, message: str
) -> None:
    (bundle / name).unlink()
    if content is not None:
        (bundle / name).write_bytes(content)
    with pytest.raises(BundleError, match=message) as caught:
        load_bundle(bundle)
    assert caught.value.hint


def test_a_truncated_weight_file_is_refused(bundle: Path) -> None:
    file = bundle / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(BundleError, match="cannot be read"):
        load_bundle(bundle)


def test_a_full_disk_leaves_no_half_written_file(tmp_path: Path) -> None:
    with files_of_at_most(10_000), pytest.raises(StorageError, match="cannot be written"):
        save(tmp_path / "bundle", variant())
    assert list((tmp_path / "bundle").iterdir()) == []


def test_a_file_in_the_way_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "bundle").write_text("")
    with pytest.raises(StorageError, match="cannot be created"):
        save(tmp_path / "bundle", variant())
