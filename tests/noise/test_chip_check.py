"""`trex check CHIP --data`: what a chip leaves of a model's accuracy, measured."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from trex.cli import main
from trex.hardware import load_chip
from trex.models import registry

MODEL = "test_vit"
SIZE = {"num_classes": 10, "img_size": 32}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with random weights, and pictures in two classes."""
    folder = tmp_path_factory.mktemp("check")
    torch.manual_seed(0)
    save_file(registry.create(MODEL, **SIZE).state_dict(), folder / "weights.safetensors")
    (folder / "classes.txt").write_text("\n".join(map(str, range(10))))
    random = np.random.default_rng(0)
    for number in range(12):
        path = folder / "images" / str(number % 2) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(path)
    return folder


def flags(files, chip, *more):
    return [
        "check", str(chip), "--model", MODEL, "--num-classes", "10", "--img-size", "32",
        "--weights", str(files / "weights.safetensors"), "--data", str(files / "images"),
        "--class-map", str(files / "classes.txt"), *more,
    ]  # fmt: skip


def measured(capsys, arguments):
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (figure,) = found["accuracy"]
    return found, figure


def test_measured_on_the_users_images(files, capsys):
    found, figure = measured(capsys, flags(files, "trex_fefet_32nm", "--draws", "2"))
    assert (figure["images"], figure["range_images"], figure["draws"]) == (9, 3, 2)
    assert not figure["stored"]
    assert figure["mean_kl"] > 0
    assert figure["top1_std"] is not None
    assert "points" in found["verdict"]
    again = measured(capsys, flags(files, "trex_fefet_32nm", "--draws", "2"))[1]
    assert again == figure
    narrow = flags(files, "trex_sram_32nm", "--set", "arrays.sram.adc_bits=2")
    wide = flags(files, "trex_sram_32nm")
    assert measured(capsys, narrow)[1]["mean_kl"] > 10 * measured(capsys, wide)[1]["mean_kl"]


def test_images_of_their_own_for_ranges(files, capsys):
    own = ("--calib", str(files / "images"), "--images", "5")
    _, figure = measured(capsys, flags(files, "trex_sram_32nm", *own))
    assert (figure["images"], figure["range_images"]) == (5, 12)


def test_a_kept_figure_is_told_from_then_on(files, tmp_path, capsys):
    mine = tmp_path / "mine"
    assert main(["chip", "new", str(mine), "--like", "trex_sram_32nm"]) == 0
    capsys.readouterr()
    _, figure = measured(capsys, flags(files, mine, "--images", "4", "--keep"))
    (stored,) = load_chip(mine).accuracy
    assert stored.as_json() == {**figure, "stored": True}
    for part in (
        "trex check mine",
        "--images 4",
        "--weights weights.safetensors",
        "--data images",
    ):
        assert part in stored.command
    assert str(tmp_path) not in (mine / "accuracy.yaml").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "trex_sram_32nm", "--keep"], "--keep is for measuring accuracy"),
        (["check", "1<-0", "--data", "x"], "--data is for chips"),
        (["check", "default", "--set", "a=1"], "--set is for chips"),
        (["check", "trex_sram_32nm", "--data", "x"], "--data needs a model"),
    ],
)
def test_flags_in_vain_are_refused(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [(("--images", "0"), "--images 0 is too few"), (("--draws", "0"), "--draws 0 is too few")],
)
def test_numbers_that_cannot_be(more, message, files, capsys):
    assert main(flags(files, "trex_sram_32nm", *more)) == 2
    assert message in capsys.readouterr().err


def test_too_few_images_to_set_ranges_and_to_answer(files, tmp_path, capsys):
    (tmp_path / "few" / "0").mkdir(parents=True)
    for number in (0, 2):
        source = files / "images" / "0" / f"{number}.png"
        (tmp_path / "few" / "0" / source.name).write_bytes(source.read_bytes())
    arguments = flags(files, "trex_sram_32nm")
    arguments[arguments.index("--data") + 1] = str(tmp_path / "few")
    assert main(arguments) == 2
    assert "too few to set ranges and to answer" in capsys.readouterr().err
