"""A model without a head from search to evaluation, in Python and on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from objects import FEW, images, timm_model
from PIL import Image
from safetensors.torch import save_file
from small_runs import CLASSES, MODEL, SIDE, write_images

import trex
from trex.cli import main
from trex.errors import DataError, ModelError
from trex.models.registry import create, load

CHIP = "trex_fefet_32nm"


@pytest.fixture(scope="module")
def found() -> trex.Result:
    model = timm_model()
    model.reset_classifier(0)
    return trex.search(model, images(), CHIP, **{**FEW, "refine_rounds": 1})


def test_a_search_without_a_head(found: trex.Result) -> None:
    assert found.plan.n_reuse > 0
    assert all(0 <= record.selection.loss <= 2 for record in found.records)
    assert found.run.manifest().settings.model_args.num_classes == 0
    with torch.no_grad():
        assert found.model(images(3)[0]).shape == (3, found.model.num_features)
    assert found.winner.selection.top1 is not None


def test_evaluation_compares_neighbours(found: trex.Result) -> None:
    pixels, _ = images(24, seed=2)
    labels = torch.arange(24) % 3
    measured = trex.evaluate(found, (pixels, labels))
    assert 0 <= measured.top1 <= 1
    assert -1 <= measured.rank_correlation <= 1
    assert measured.rank_correlation > 0.5
    assert 0 < measured.mean_kl < 1
    with pytest.raises(DataError, match="label"):
        trex.evaluate(found, pixels)


def test_fine_tuning_needs_a_head(found: trex.Result, tmp_path: Path) -> None:
    pictures = [(Image.new("RGB", (SIDE, SIDE), (9 * i, 0, 0)), i % 4) for i in range(20)]
    with pytest.raises(ModelError, match="has no head") as caught:
        trex.finetune(found, pictures, out=tmp_path / "tuned", recipe="few_steps")
    assert caught.value.hint
    assert not (tmp_path / "tuned" / "finetune.json").exists()


def test_a_bundle_and_a_fit_without_a_head(found: trex.Result, tmp_path: Path) -> None:
    found.save(tmp_path / "kept")
    again = trex.load(tmp_path / "kept" / "best")
    with torch.no_grad():
        torch.testing.assert_close(again(images(2)[0]), found.model(images(2)[0]))
    fitted = trex.fit(_headless(), ["2<-1"], images())
    assert 0 <= fitted.records[0].selection.loss <= 2


def _headless() -> torch.nn.Module:
    model = timm_model()
    model.reset_classifier(0)
    return model


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = create(MODEL, num_classes=len(CLASSES), img_size=SIDE)
    weights = tmp_path / "weights.safetensors"
    save_file(trained.state_dict(), weights)
    assert load(MODEL, weights=weights, num_classes=0, img_size=SIDE).model.num_classes == 0
    write_images(tmp_path / "images", each=4)
    flags = ["--model", MODEL, "--weights", str(weights), "--num-classes", "0"]
    code = main(
        ["search", *flags, "--img-size", str(SIDE), "--hw", CHIP, "--max-latency", "0.8x",
         "--space", "default", "--calib", str(tmp_path / "images"),
         "--out", str(tmp_path / "run"), "--evaluations", "2", "--refine-rounds", "0",
         "--final-views", "1"]
    )  # fmt: skip
    assert code == 0
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run"), "--data", str(tmp_path / "images")]) == 0
    told = capsys.readouterr().out
    assert "no head: an image's label is that of the image most like it" in told
    assert "rank correlation" in told
    assert main(["report", str(tmp_path / "run")]) == 0
    lines = (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["rank_correlation"] is not None
