"""Checkpoints, the choice of weights, and the curve's file."""

import csv
import logging
import random
from pathlib import Path

import pytest
import torch
from torch import nn

from trex.store.finetuning import read_curve
from trex.training.data import Batch
from trex.training.finetune.checkpoint import CheckpointFolder
from trex.training.finetune.curve import Curve
from trex.training.finetune.recipe import Checkpoints, Selection
from trex.training.finetune.selection import Comparison, HeldOut, Selector


def test_the_newest_states_are_kept(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "c", Checkpoints(keep=2, steps=5))
    assert folder.newest() is None
    assert [step for step in range(1, 12) if folder.due(step)] == [5, 10]
    for step in (5, 10, 15):
        folder.save(step, {"step": step, "value": torch.tensor([1.0])})
    assert len(list((tmp_path / "c").iterdir())) == 2
    assert folder.newest()["step"] == 15
    assert folder.newest_file == tmp_path / "c" / "step-000000015.pt"
    folder.remove()
    assert folder.newest() is None


@pytest.mark.parametrize("damage", [b"", b"no state", "half"])
def test_a_damaged_state_is_passed_over(
    tmp_path: Path, damage: bytes | str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = CheckpointFolder(tmp_path, Checkpoints())
    for step in (1, 2):
        folder.save(step, {"step": step, "value": torch.zeros(1000)})
    newest = folder.newest_file
    content = newest.read_bytes()
    newest.write_bytes(content[: len(content) // 2] if damage == "half" else damage)
    assert folder.newest()["step"] == 1
    assert "taking the one before" in caplog.text


def test_a_flipped_bit_in_a_state_is_seen(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = CheckpointFolder(tmp_path, Checkpoints())
    for step in (1, 2):
        folder.save(step, {"step": step, "value": torch.zeros(1000)})
    newest = folder.newest_file
    content = newest.read_bytes()
    places = random.Random(0).sample(range(len(content)), 60)
    for place in [*places, content.index(bytes(2000)) + 1000]:
        damaged = bytearray(content)
        damaged[place] ^= 1 << (place % 8)
        newest.write_bytes(damaged)
        state = folder.newest()
        # a bit in a name or in the padding of the archive changes nothing that is read
        assert state["step"] == 1 or torch.equal(state["value"], torch.zeros(1000))
    assert state["step"] == 1
    assert "the checksum of" in caplog.text


@pytest.mark.parametrize("damage", [b"\0" * 50, b'"', b"\xff\xfe\n", b"nothing\n", b"step\n"])
def test_a_damaged_curve_goes_on_with_what_is_sound(
    damage: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "curve.csv"
    sound = b"step,loss,images_per_s,wait_share\n1,0.5,1,0\n2,0.4,1,0\n"
    for content, kept in ((sound + damage + b"\n3,0.3,1,0\n", ["1", "2"]), (damage, [])):
        file.write_bytes(content)
        with caplog.at_level(logging.WARNING):
            curve = Curve(file, ("loss",), steps=6, first=2, images=4)
        curve.close()
        assert [row["step"] for row in rows_of(file)] == kept
        assert read_curve(file) == rows_of(file)


def model_of(value: float) -> nn.Module:
    model = nn.Linear(1, 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    return model


def test_the_best_weights_and_the_mean_of_the_last() -> None:
    selector = Selector(Selection(share=0.1, patience=2, average=2))
    for name, value, loss in (("start", 0.0, 3.0), ("1", 1.0, 1.0), ("2", 2.0, 2.0)):
        selector.see(name, model_of(value), Comparison(loss, 0.5), average=name != "start")
        assert not selector.exhausted
    again = Selector(Selection(share=0.1, patience=2, average=2))
    again.restore(selector.state())
    again.see("3", model_of(5.0), Comparison(1.0, 0.5), average=True)
    assert again.exhausted
    assert again.best == "1"
    assert again.averaged()["weight"].item() == 3.5
    kept = model_of(9.0)
    again.load_best(kept)
    assert kept.weight.item() == 1.0


def test_the_original_loses_nothing_on_held_out_images() -> None:
    torch.manual_seed(0)
    original, variant = nn.Linear(4, 3).eval(), nn.Linear(4, 3).train()
    pixels = torch.randn(7, 4)
    parts = [Batch(x, torch.zeros(len(x)), torch.arange(len(x))) for x in pixels.split(5)]
    held_out = HeldOut(original, parts, torch.device("cpu"))
    assert held_out.compare(original) == (0.0, 1.0)
    worse = held_out.compare(variant)
    assert worse.loss > 0 > worse.agreement - 1
    assert variant.training


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def test_a_curve_goes_on_where_the_state_is(tmp_path: Path) -> None:
    file = tmp_path / "curve.csv"
    curve = Curve(file, ("loss", "held_out_loss"), steps=6, first=0, images=4)
    for step in range(1, 5):
        curve.add({"loss": step / 2}, 0.0)
    curve.close()
    with file.open("a") as opened:
        opened.write("5,2.5")  # torn
    curve = Curve(file, ("loss", "held_out_loss"), steps=6, first=2, images=4)
    curve.add({"loss": 7.0, "held_out_loss": 0.25}, 0.0)
    curve.close()
    rows = rows_of(file)
    assert [row["step"] for row in rows] == ["1", "2", "3"]
    assert [row["loss"] for row in rows] == ["0.5", "1", "7"]
    assert [row["held_out_loss"] for row in rows] == ["", "", "0.25"]
    assert float(rows[-1]["images_per_s"]) > 0


def test_long_trainings_have_a_row_for_many_steps(tmp_path: Path) -> None:
    curve = Curve(tmp_path / "curve.csv", ("loss",), steps=3000, first=0, images=1)
    for _ in range(10):
        curve.add({"loss": 1.0}, 0.0)
    curve.close()
    assert [row["step"] for row in rows_of(tmp_path / "curve.csv")] == ["3", "6", "9"]
