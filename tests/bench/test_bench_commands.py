"""`trex bench` and `trex profile` on a small model: what they write, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import randomised

from trex.cli import main
from trex.exporters.bundle import save_bundle
from trex.models.registry import create
from trex.models.weights import weights_hash
from trex.reuse import apply_plan
from trex.training.transforms import DataConfig

SIZE = ["--num-classes", "4", "--img-size", "64"]


@pytest.fixture(autouse=True)
def _threads() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    arguments = {"num_classes": 4, "img_size": 64}
    model = randomised(create("test_vit", **arguments))
    base = weights_hash(model)
    apply_plan(model, "2<-1 3~2 5=class")
    save_bundle(
        tmp_path / "small", model, name="test_vit", arguments=arguments, base_weights_sha256=base,
        data_config=DataConfig.of_model(model),
    )  # fmt: skip
    return tmp_path / "small"


def test_a_variant_stands_beside_its_original_and_other_models(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench.json"
    flags = ["bench", str(bundle), "test_vit2", "--rounds", "3", "--batch", "1,2"]
    found = answer(capsys, *flags, "--out", str(out))
    assert json.loads(out.read_text()) == found
    assert found["basis"] == "measured"
    names = ["test_vit (original)", "small", "test_vit2"]
    assert [(r["batch"], r["variant"]) for r in found["rows"]] == [
        (batch, name) for batch in (1, 2) for name in names
    ]
    assert found["plans"]["small"] == "2<-1 3~2 5=class"
    for row in found["rows"]:
        assert 0 < row["latency_s"]["low"] <= row["latency_s"]["high"]
        images = row["batch"] / row["latency_s"]["median"]
        assert row["images_per_second"] == pytest.approx(images)
    first = found["rows"][0]["speedup"]
    assert (first["low"], first["median"], first["high"]) == (1, 1, 1)
    assert main(flags) == 0
    assert "faster: than test_vit (original) in eager" in capsys.readouterr().out


def test_a_profile_is_a_device_for_costs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "my_cpu"
    profile = [
        "profile", "--model", "test_vit", *SIZE, "--batch", "2", "--rounds", "3", "--held-out",
        "2", "--out", str(folder),
    ]  # fmt: skip
    (found,) = answer(capsys, *profile)["profiles"]
    assert (found["batch"], found["threads"], found["clock"]) == (2, 1, "cpu")
    assert sum(not run["fitted"] for run in found["runs"]) == 2
    assert found["runs"][0]["plan"] == ""
    cost = ["cost", "--model", "test_vit", "--hw", str(folder)]
    told = answer(capsys, *cost, *SIZE, "--plan", "2<-1 4<-3")
    assert told["basis"] == "measured"
    assert 0 < told["latency_s"] <= told["original_latency_s"]
    assert told["not_measured"] == ["energy", "area", "EDAP"]
    assert not {"energy_j", "area_m2", "edap_mj_ms_mm2"} & told.keys()
    assert main([*cost, *SIZE]) == 0
    assert "nobody measured them on this machine" in capsys.readouterr().out
    # of the same setting it may be measured anew, of another not
    assert main(profile) == 0
    for flags, message in (
        ([*profile, "--threads", "2"], "a device of another threads"),
        ([*cost, *SIZE, "--accounting", "full"], "which has no --accounting"),
        ([*cost, "--img-size", "96"], "was measured with test_vit"),
    ):
        assert main(flags) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["bench", "no_such_model"], "no model is called"),
        (["bench", "test_vit", "--rounds", "1"], "--rounds 1 is too small"),
        (["bench", "test_vit", "--batch", "1,x"], "is not numbers of images"),
        (["bench", "test_vit", "--dtype", "int8"], "int8 is ONNX Runtime's"),
        (["bench", "test_vit", "--threads", "0"], "--threads 0 is too small"),
        (["bench", "."], "is no bundle, fine-tuning or finished run"),
        (["profile", "--model", "test_vit", "--out", "."], "is not a folder for a device"),
        (["profile", "--model", "resnet18", "--out", "x"], "has no encoders"),
    ],
    ids=str,
)
def test_what_cannot_be_timed_is_refused(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tmp_path / "mine.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    assert main(flags) == 2
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.txt"]
