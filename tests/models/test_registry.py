from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from tiny_models import KINDS, Kind, randomised

from trex.errors import ModelError, WeightsError
from trex.hardware import workload
from trex.models import registry
from trex.models.bert.adapter import BertAdapter
from trex.models.lvvit.adapter import LvvitAdapter
from trex.models.metaformer import MetaformerAdapter
from trex.models.naflex import NaflexAdapter
from trex.models.pit import PitAdapter
from trex.models.placed import BeitAdapter, EvaAdapter, RelPosAdapter
from trex.models.shvit import ShvitAdapter
from trex.models.swin import SwinAdapter
from trex.models.uniform.adapter import UniformAdapter
from trex.models.vit import VitAdapter
from trex.models.vlm import DeepseekAdapter, QwenAdapter
from trex.models.volo import VoloAdapter
from trex.models.weights import weights_hash
from trex.plan import Plan
from trex.training.transforms import DataConfig


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("diet_tiny_patch16_224", "did you mean deit_tiny_patch16_224"),
        ("qqqqqq", "timm.list_models() lists names"),
        ("", "timm.list_models() lists names"),
    ],
)
def test_unknown_names_are_refused_with_near_ones(name: str, hint: str) -> None:
    with pytest.raises(ModelError, match="no model is called") as caught:
        registry.create(name)
    assert hint in caught.value.hint


def test_a_model_may_be_called_without_its_sizes() -> None:
    assert registry.full_name("deit_tiny") == "deit_tiny_patch16_224"
    assert registry.full_name("timm/deit_tiny_distilled") == "deit_tiny_distilled_patch16_224"
    assert registry.full_name("shvit_s1") == "shvit_s1"
    called = registry.create("deit_tiny", num_classes=3, device="meta")
    assert type(called) is type(registry.create("deit_tiny_patch16_224", device="meta"))
    assert called.embed_dim == 192


def test_of_several_sizes_one_has_to_be_chosen() -> None:
    with pytest.raises(ModelError, match="models are called 'vit_small' and a size") as caught:
        registry.create("vit_small")
    assert "vit_small_patch16_224 or " in caught.value.hint


@pytest.mark.parametrize("arguments", [{"img_size": 0}, {"img_size": -16}])
def test_sizes_that_cannot_be_built_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(ModelError, match="test_vit"):
        registry.create("test_vit3", **arguments)


def test_fewer_classes_than_none_are_refused() -> None:
    with pytest.raises(ModelError, match="-3 classes") as caught:
        registry.create("test_vit", num_classes=-3)
    assert "0 for its features" in caught.value.hint
    assert registry.create("test_vit", num_classes=0).num_classes == 0


def test_a_model_comes_in_evaluation_mode_of_the_size_asked_for() -> None:
    model = registry.create("timm/test_vit3", num_classes=3, img_size=32)
    assert not any(module.training for module in model.modules())
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    on_meta = registry.create("test_vit3", device="meta")
    assert {parameter.device.type for parameter in on_meta.parameters()} == {"meta"}


@pytest.mark.slow
def test_timm_knows_the_own_models_once_trex_is_imported() -> None:
    script = "import timm, trex; print([timm.is_model(n) for n in ('lvvit_s', 'uniform_l')])"
    command = [sys.executable, "-W", "error", "-c", script]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert printed.strip() == "[True, True]"


#: the beginnings of models' names that are of another class than timm's VisionTransformer
OTHER_FAMILIES = {
    "lvvit": LvvitAdapter, "uniform": UniformAdapter, "shvit": ShvitAdapter,
    "eva02": EvaAdapter, "vit_small_patch16_rope": EvaAdapter, "qwen3": QwenAdapter,
    "beit": BeitAdapter, "vit_relpos": RelPosAdapter,
    "pit": PitAdapter, "volo": VoloAdapter, "swin": SwinAdapter, "caformer": MetaformerAdapter,
    "deepseek": DeepseekAdapter, "naflexvit": NaflexAdapter,
    "bert": BertAdapter, "roberta": BertAdapter, "electra": BertAdapter,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_every_family_has_its_adapter(kind: Kind) -> None:
    expected = next((a for n, a in OTHER_FAMILIES.items() if kind.name.startswith(n)), VitAdapter)
    assert type(registry.adapter_of(kind.build())) is expected


def test_a_message_lists_what_is_supported() -> None:
    with pytest.raises(ModelError, match="resnet18 is a ResNet") as caught:
        registry.adapter_of(timm.create_model("resnet18"), "resnet18")
    assert "vit_*" in caught.value.hint
    assert "LV-ViT" in caught.value.hint


def test_weights_of_a_file(tmp_path: Path) -> None:
    trained = randomised(registry.create("test_vit", num_classes=5, img_size=32))
    path = tmp_path / "weights.safetensors"
    save_file(trained.state_dict(), path)
    loaded = registry.load("test_vit", weights=path, num_classes=5, img_size=32)
    assert loaded.weights_sha256 == weights_hash(trained)
    assert loaded.arguments == {"num_classes": 5, "img_size": 32}
    assert loaded.weights_source == str(path)
    assert loaded.report is not None
    assert loaded.report.fits
    again = registry.create(loaded.name, **loaded.arguments)
    again.load_state_dict(loaded.model.state_dict())
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(again(images), trained(images))


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(registry.create("test_vit", img_size=32).state_dict(), path)
    for name in ("test_vit2", "deit_tiny_patch16_224", "lvvit_t"):
        with pytest.raises(WeightsError, match=r"weights\.safetensors"):
            registry.load(name, weights=path)
    with pytest.raises(WeightsError):
        registry.load("test_vit", weights=tmp_path / "missing.safetensors")


def test_weights_without_a_file_come_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(name: str, *, pretrained: bool, **arguments: object) -> torch.nn.Module:
        if pretrained:
            raise ConnectionError("no network")
        return create_model(name, **arguments)

    create_model = timm.create_model
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(WeightsError, match="test_vit cannot be had: ConnectionError: no net") as e:
        registry.load("test_vit")
    assert "--weights" in e.value.hint


def test_an_unsupported_model_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="resnet18 is a ResNet"):
        registry.load("resnet18", weights=tmp_path / "missing.pth")


def test_any_timm_model_has_operations_but_only_families_have_encoders() -> None:
    resnet = registry.architecture("resnet18", img_size=None)
    assert resnet.encoders == ()
    assert resnet.macs == pytest.approx(1.81e9, rel=0.01)
    assert workload(resnet, Plan()).macs == resnet.macs
    vit = registry.architecture("test_vit", num_classes=5, img_size=32)
    assert [encoder.index for encoder in vit.encoders] == list(range(6))
    assert {encoder.tokens for encoder in vit.encoders} == {2 * 2 + 1}
    assert vit == registry.architecture_of(
        registry.create("test_vit", num_classes=5, img_size=32), "test_vit"
    )


@pytest.mark.parametrize("name", ["shvit_s1", "resnet18"])
def test_what_is_built_for_no_size_is_priced_and_fed_at_the_one_asked_for(name: str) -> None:
    small, usual = (registry.architecture(name, img_size=size) for size in (128, None))
    # both have strides of 32 and more; heads do not depend on the size
    assert small.macs < 0.35 * usual.macs
    model = registry.create(name, num_classes=5, img_size=128)
    assert DataConfig.of_model(model).input_size == (3, 128, 128)
    assert model(torch.zeros(2, 3, 128, 128)).shape == (2, 5)


@pytest.mark.parametrize("name", ["shvit_s1", "uniform_t", "test_vit", "lvvit_t"])
def test_channels_are_those_of_the_model(name: str) -> None:
    with torch.device("meta"):
        models = [timm.create_model(name, in_chans=channels) for channels in (1, 3)]
    grey, usual = (registry.architecture_of(model, name) for model in models)
    assert usual.macs > grey.macs
    assert usual.encoders == grey.encoders


def test_what_cannot_reuse_is_priced_all_the_same() -> None:
    name = "vit_pwee_patch16_reg1_gap_256"
    model = registry.create(name, img_size=64, device="meta")
    with pytest.raises(ModelError, match="is a ParallelScalingBlock"):
        registry.adapter_of(model, name)
    found = registry.architecture_of(model, name)
    assert found.encoders == ()
    tokens, together = 1 + (64 // 16) ** 2, model.blocks[0].in_proj.weight.numel()
    assert sum(op.macs for op in found.operations if "in_proj" in op.name) == (
        len(model.blocks) * tokens * together
    )


def test_a_model_of_no_family_is_priced_at_the_size_it_was_built_for() -> None:
    name = "swin_tiny_patch4_window7_224"
    large, usual = (registry.architecture(name, img_size=size) for size in (448, 224))
    assert large.macs > 3.9 * usual.macs
