"""`trex evaluate --non-ideal` on a bundle that merges, reuses and computes class rows only."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from trex.cli import main
from trex.exporters.bundle import save_bundle
from trex.models import registry
from trex.models.digits import DIGITS_MODEL
from trex.models.weights import weights_hash
from trex.reuse import apply_plan
from trex.training.transforms import DataConfig

PLAN = "5<-4 7<-6:map/linear 3~4 11=class"


@pytest.mark.slow
def test_a_joint_plan_is_measured_on_a_chip_that_errs(tmp_path, capsys):
    torch.manual_seed(0)
    model = registry.create(DIGITS_MODEL)
    save_file(model.state_dict(), tmp_path / "original.safetensors")
    config, base = DataConfig.of_model(model), weights_hash(model)
    save_bundle(
        tmp_path / "bundle", apply_plan(model, PLAN), name=DIGITS_MODEL,
        arguments={"num_classes": None, "img_size": None}, base_weights_sha256=base,
        data_config=config,
    )  # fmt: skip
    random = np.random.default_rng(0)
    for number in range(10):
        file = tmp_path / "images" / str(number) / "0.png"
        file.parent.mkdir(parents=True)
        Image.fromarray(random.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(file)
    # fmt: off
    answer = main([
        "evaluate", str(tmp_path / "bundle"), "--data", str(tmp_path / "images"),
        "--weights", str(tmp_path / "original.safetensors"), "--non-ideal", "--draws", "1",
        "--hw", "trex_fefet_32nm", "--calib", str(tmp_path / "images"), "--json",
    ])
    # fmt: on
    assert answer == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["plan"] == PLAN
    assert (measured["n"], measured["non_ideal"]["draws"]) == (10, 1)
    assert 0 <= measured["non_ideal"]["top1"] <= 1
