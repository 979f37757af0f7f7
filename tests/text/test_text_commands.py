"""The commands on a text model: the same engine, from search to export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_texts import SENTENCES, tiny_folder, write_cola

import trex
from trex.cli import main
from trex.models.bert import TextClassifier
from trex.models.registry import create, load
from trex.reuse import consumers_of, plan_of
from trex.text.tokenizer import encode

pytest.importorskip("transformers", reason="the extra `text` is not installed")
tokenizers = pytest.importorskip("tokenizers", reason="the extra `text` is not installed")

RECIPE = """
description: two steps
epochs: 1
batch_size: 32
optimizer: {lr: 1.0e-4, lr_new: 1.0e-3}
losses: {kl: 1.0, tokens: 0.1, encoders: 0.1}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def cola(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"cola:{write_cola(tmp_path_factory.mktemp('data') / 'cola.tsv')}"


@pytest.fixture(scope="module")
def run(folder: Path, cola: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    code = main(
        ["search", "--model", str(folder), "--tokens", "10", "--hw", "trex_fefet_32nm",
         "--max-latency", "0.8x", "--calib", cola, "--eval", cola, "--evaluations", "3",
         "--out", str(out)]
    )  # fmt: skip
    assert code == 0
    return out


def output(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_cost_of_a_folder_and_of_a_name(folder: Path, capsys) -> None:
    for model, tokens in ((str(folder), "10"), ("bert_tiny_uncased", "64")):
        assert main(["cost", "--model", model, "--tokens", tokens, "--hw", "trex_fefet_32nm",
                     "--plan", "1<-0", "--accounting", "full", "--json"]) == 0  # fmt: skip
        found = output(capsys)
        assert found["macs"] < found["original_macs"]
        assert any("embeddings" in item for item in found["not_modelled"])


def test_a_search_finds_a_variant_within_its_budget(run: Path, cola: str, capsys) -> None:
    capsys.readouterr()
    assert main(["evaluate", str(run), "--data", cola, "--json"]) == 0
    measured = output(capsys)
    assert measured["unit"] == "texts"
    assert measured["n"] == len(SENTENCES)
    assert -1 <= measured["matthews"] <= 1
    assert main(["evaluate", str(run), "--data", cola]) == 0
    table = capsys.readouterr().out
    assert "Matthews" in table
    assert "texts/s" in table
    summary = json.loads((run / "summary.json").read_text())
    ratio = summary["best"]["estimate"]["latency_s"] / summary["baseline"]["latency_s"]
    assert ratio <= 0.8


def test_the_bundle_runs_without_the_folder(run: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "bundle"
    assert main(["export", str(run), "--out", str(out)]) == 0
    model = trex.load(out)
    assert isinstance(model, TextClassifier)
    assert consumers_of(model)
    tokenizer = tokenizers.Tokenizer.from_file(str(out / "tokenizer.json"))
    inputs = encode(tokenizer, SENTENCES[:4], model.tokens)
    with torch.no_grad():
        assert torch.equal(model(inputs), trex.load(run / "best")(inputs))


def test_a_plan_of_ones_own_is_fitted(folder: Path, cola: str, tmp_path: Path, capsys) -> None:
    flags = ["fit", "--model", str(folder), "--tokens", "10", "--calib", cola, "--eval", cola]
    out = tmp_path / "run"
    capsys.readouterr()
    plan = "1<-0 0~2"
    assert main([*flags, "--plan", plan, "--refine", "--out", str(out), "--json"]) == 0
    found = output(capsys)
    assert found["plan"] == plan
    assert found["evaluation"]["unit"] == "texts"
    assert found["relative"]["latency"] < 1
    assert str(plan_of(trex.load(out / "best"))) == plan
    assert main(["report", str(out)]) == 0
    assert "Tokens: 10 enter, 8 behind encoder 0." in (out / "report/index.html").read_text()


def test_fine_tuning(run: Path, cola: str, tmp_path: Path, capsys) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    capsys.readouterr()
    assert main(["finetune", str(run), "--data", cola, "--eval", cola, "--recipe", str(recipe),
                 "--device", "cpu", "--out", str(tmp_path / "tuned"), "--json"]) == 0  # fmt: skip
    fitted, tuned = output(capsys)["records"]
    assert fitted["weights_sha256"] != tuned["weights_sha256"]
    assert "matthews" in tuned["evaluation"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--img-size", "32"], "reads texts"),
        (["--tokens", "99"], "99 tokens are not possible"),
        (["--tokenizer", "nothing_there"], "the tokeniser of nothing_there cannot be had"),
        (["--calib", "tests"], "holds images, the model reads texts"),
    ],
)
def test_what_does_not_fit_texts_is_told(
    folder: Path,
    cola: str,
    tmp_path: Path,
    arguments: list[str],
    message: str,
    capsys,
    monkeypatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    if "--calib" in arguments:
        from PIL import Image

        (tmp_path / "a").mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / "a" / "1.png")
        arguments = ["--calib", str(tmp_path)]
    code = main(["search", "--model", str(folder), "--hw", "trex_fefet_32nm", "--max-latency",
                 "0.8x", "--calib", cola, "--out", str(tmp_path / "run"), *arguments])  # fmt: skip
    assert code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_weights_of_the_folder_are_the_models(folder: Path) -> None:
    assert load(str(folder)).weights_sha256 == load(str(folder), weights=folder).weights_sha256


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--mean", "0.5"], "no channels"),
        (["--std", "0.5"], "no channels"),
        (["--img-size", "32"], "reads texts"),
        (["--tokens", "17"], "17 tokens are not possible"),
    ],
)
def test_flags_of_image_models_are_refused(
    folder: Path, cola: str, tmp_path: Path, flags: list[str], message: str, capsys
) -> None:
    code = main(
        ["search", "--model", str(folder), "--hw", "trex_fefet_32nm", "--max-latency", "0.8x",
         "--calib", cola, "--eval", cola, "--out", str(tmp_path / "run"), *flags]
    )  # fmt: skip
    assert code == 2
    assert message in capsys.readouterr().err


def test_flags_of_text_models_are_refused_for_images(tmp_path: Path, capsys) -> None:
    weights = tmp_path / "vit.safetensors"
    save_file(create("test_vit").state_dict(), weights)
    code = main(
        ["search", "--model", "test_vit", "--weights", str(weights), "--hw", "trex_fefet_32nm",
         "--max-latency", "0.8x", "--calib", str(tmp_path), "--tokenizer", "tokenizer.json",
         "--out", str(tmp_path / "run")]
    )  # fmt: skip
    assert code == 2
    assert "reads images" in capsys.readouterr().err
