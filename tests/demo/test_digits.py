from __future__ import annotations

import sys

import pytest
import timm
import torch
from PIL import Image

from trex.demo import digits
from trex.errors import DataError
from trex.models.digits import DIGITS_MODEL, IMAGE_SIZE


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "digits"
    digits.write_digits(folder)
    return folder


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.png")}


def test_every_digit_lies_in_one_split(folder):
    names = [path.name for path in folder.rglob("*.png")]
    assert len(set(names)) == len(names) == 1797
    for split, count in digits.SPLITS.items():
        assert len(list((folder / split).glob("*/*.png"))) == count
        assert {path.name for path in (folder / split).iterdir()} == set("0123456789")


def test_the_images_are_the_models_size_and_use_the_whole_range(folder):
    with Image.open(next((folder / "test" / "0").iterdir())) as image:
        assert image.size == (IMAGE_SIZE, IMAGE_SIZE)
        assert image.getextrema() == (0, 255)


def test_writing_again_gives_the_same_and_keeps_what_is_there(folder, tmp_path):
    again = tmp_path / "digits"
    digits.write_digits(again)
    assert contents(again) == contents(folder)
    (again / "train").rename(again / "kept")
    digits.write_digits(again)
    assert not (again / "train").exists()


def test_a_crash_leaves_no_half_written_folder(tmp_path, monkeypatch):
    def fail(self, path):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, "save", fail)
        with pytest.raises(OSError, match="No space"):
            digits.write_digits(tmp_path / "digits")
    assert list(tmp_path.iterdir()) == []


def test_without_scikit_learn_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r"trex-vit\[demo\]"):
        digits.write_digits(tmp_path / "digits")


def test_timm_makes_the_model_by_name():
    model = timm.create_model(DIGITS_MODEL)
    assert len(model.blocks) == 12
    assert model(torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE)).shape == (1, 10)


@pytest.mark.slow
def test_the_seed_decides_the_weights_and_the_global_state_stays(folder):
    state = torch.random.get_rng_state()
    first, second, other = (digits.train_digits_model(folder, seed, 1) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not first.training
    assert torch.equal(first.pos_embed, second.pos_embed)
    assert torch.equal(first.head.weight, second.head.weight)
    assert not torch.equal(first.pos_embed, other.pos_embed)
