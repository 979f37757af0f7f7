"""timm's format: what timm builds of it, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from small_variants import ARGUMENTS, JOINT, NAME, ROWS, images, variant
from tiny_models import logits_of

from trex.errors import ExportError, ModelError, PlanError, ReuseError, StorageError
from trex.exporters import exporter
from trex.exporters.timm import push_to_hub
from trex.exporters.write import Probe, export
from trex.reuse import plan_of

PROBE = Probe(images=images(), origin="noise", real=False)


def exported(folder: Path, plan: str = JOINT) -> str:
    export([variant(plan)], folder, exporter("timm"), PROBE)
    return f"local-dir:{folder}"


@pytest.mark.parametrize("plan", [JOINT, ROWS, ""])
def test_timm_loads_what_was_written(plan: str, tmp_path: Path) -> None:
    name = exported(tmp_path / "out", plan)
    model = timm.create_model(name, pretrained=True).eval()
    assert torch.equal(logits_of(model, images()), logits_of(variant(plan).model, images()))
    assert str(plan_of(model) or "") == plan
    config = timm.data.resolve_model_data_config(model)
    assert (config["input_size"], list(config["mean"])) == ((3, 32, 32), [0.1, 0.2, 0.3])
    untrained = timm.create_model(name, pretrained=False).eval()
    assert not torch.equal(logits_of(untrained, images()), logits_of(model, images()))


def test_heads_features_and_sizes_can_be_others(tmp_path: Path) -> None:
    name = exported(tmp_path / "out")
    model = timm.create_model(name, pretrained=True, num_classes=3).eval()
    same = variant().model
    assert logits_of(model, images()).shape == (4, 3)
    with torch.no_grad():
        ours, theirs = model.forward_features(images()), same.forward_features(images())  # type: ignore[operator]
    assert torch.equal(ours, theirs)
    larger = timm.create_model(name, pretrained=True, img_size=48).eval()
    assert logits_of(larger, torch.zeros(1, 3, 48, 48)).shape == (1, 5)
    # nine patches and the class token; the positions are the base's, resampled
    assert larger.pos_embed.shape[1] == 10
    assert torch.equal(larger.blocks[0].attn.qkv.weight, same.blocks[0].attn.qkv.weight)  # type: ignore[index, union-attr]


def test_what_variants_cannot_do_is_refused(tmp_path: Path) -> None:
    name = exported(tmp_path / "out")
    with pytest.raises(ModelError, match="has no features_only"):
        timm.create_model(name, pretrained=True, features_only=True)
    model = timm.create_model(name, pretrained=True)
    with pytest.raises(ReuseError, match=r"cannot run alone|without its source|called alone"):
        model.forward_intermediates(images())
    for base in ({}, {"base": "no_such_model"}):
        with pytest.raises(ModelError, match="needs a base model that timm knows"):
            timm.create_model("trex_variant", **base)
    with pytest.raises(PlanError, match="names encoder 12"):
        timm.create_model("trex_variant", base=NAME, plan="12~1", **ARGUMENTS)


def test_the_entrypoint_builds_untrained_variants() -> None:
    model = timm.create_model(
        "trex_variant", base=NAME, plan=JOINT, drop_path_rate=0.1, **ARGUMENTS
    )
    assert str(plan_of(model)) == JOINT
    assert logits_of(model.eval(), images()).shape == (4, 5)


def test_files_are_those_a_hub_wants(tmp_path: Path) -> None:
    measured = {"top1": 0.8, "baseline_top1": 0.82, "agreement": 0.9, "n": 50}
    classes = ("ant", "bee", "cat", "dog", "eel")
    made = variant(measured=measured, classes=classes)
    export([made], tmp_path / "out", exporter("timm"), PROBE)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["architecture"], config["num_classes"]) == ("trex_variant", 5)
    assert config["model_args"] == {"base": NAME, "plan": JOINT, "img_size": 32}
    assert config["label_descriptions"]["2"] == "cat"
    assert config["trex"]["preprocessing"]["input_size"] == [3, 32, 32]
    assert "url" not in config["pretrained_cfg"]
    state = load_file(tmp_path / "out" / "model.safetensors")
    assert state.keys() == made.model.state_dict().keys()
    card = (tmp_path / "out" / "README.md").read_text()
    for told in (JOINT, "2.0 points lost", "first guess for 90.0 %", "import trex.models"):
        assert told in card


def test_a_damaged_folder_is_not_loaded(tmp_path: Path) -> None:
    from trex.exporters.timm import load_timm

    exported(tmp_path / "out")
    weights = tmp_path / "out" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ExportError, match="timm cannot load"):
        load_timm(tmp_path / "out")


def test_an_upload_is_the_hub_librarys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, Any]] = []

    class Stub:
        def __init__(self, **options: Any) -> None:
            calls.append(("login", options["token"]))

        def create_repo(self, repo_id: str, **options: Any) -> Any:
            calls.append(("create", (repo_id, options)))
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, **options: Any) -> None:
            calls.append(("upload", options))

    with pytest.raises(ExportError, match="no finished export for timm"):
        push_to_hub(tmp_path, "me/it")
    exported(tmp_path / "out")
    monkeypatch.setattr("huggingface_hub.HfApi", Stub)
    push_to_hub(tmp_path / "out", "me/it", private=True, token="secret")
    assert calls[:2] == [
        ("login", "secret"), ("create", ("me/it", {"private": True, "exist_ok": True})),
    ]  # fmt: skip
    sent = calls[2][1]
    assert (sent["repo_id"], sent["folder_path"]) == ("me/it", tmp_path / "out")
    assert sorted(sent["allow_patterns"]) == ["README.md", "config.json", "model.safetensors"]

    def refuse(self: Any, repo_id: str, **options: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(Stub, "create_repo", refuse)
    with pytest.raises(StorageError, match="cannot be uploaded to me/it: ConnectionError"):
        push_to_hub(tmp_path / "out", "me/it")
