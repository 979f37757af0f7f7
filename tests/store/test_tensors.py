"""Tensors come back as they were written, or not at all."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from test_run_folder import MANIFEST
from torch import Tensor

from trex.errors import RunError
from trex.files import write_atomic
from trex.store.run import Run
from trex.store.tensors import read_tensors, write_tensors

STATE = {
    "blocks.1.proj.weight": torch.arange(12.0).reshape(3, 4),
    "blocks.1.proj.bias": torch.tensor(2.5),
    "empty": torch.empty(0, 3, dtype=torch.bfloat16),
    "numbers": torch.arange(3),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_tensors(tmp_path / "a.safetensors", STATE, of="a")
    return tmp_path / "a.safetensors"


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name])
        for name in one
    )


def test_what_is_written_is_read(file: Path) -> None:
    assert same(read_tensors(file, of="a"), STATE)


def test_no_flipped_bit_is_read_as_other_tensors(file: Path) -> None:
    data, bits, refused = file.read_bytes(), random.Random(0), 0
    for place in [*range(len(data)), *bits.choices(range(len(data)), k=200)]:
        damaged = bytearray(data)
        damaged[place] ^= 1 << bits.randrange(8)
        file.write_bytes(damaged)
        try:
            assert same(read_tensors(file, of="a"), STATE), place
        except RunError:
            refused += 1
    assert refused > len(data) / 2


def test_no_cut_off_file_is_read(file: Path) -> None:
    data = file.read_bytes()
    for length in range(len(data)):
        file.write_bytes(data[:length])
        with pytest.raises(RunError, match="is damaged"):
            read_tensors(file, of="a")


def test_somebody_elses_tensors_are_refused(file: Path) -> None:
    with pytest.raises(RunError, match="it holds the tensors of a, not of b"):
        read_tensors(file, of="b")


def test_a_missing_file_says_where_it_may_be(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is missing") as caught:
        read_tensors(tmp_path / "a.safetensors", of="a")
    assert "pruned" in caught.value.hint


def test_files_of_version_0_1_have_no_hash(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a.safetensors", save(STATE))
    assert same(read_tensors(tmp_path / "a.safetensors", of="a"), STATE)


def test_a_search_makes_damaged_parameters_again_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run.start(tmp_path / "run", MANIFEST)
    assert run.usable_parameters("a") is None
    assert not caplog.records
    with run.joined():
        run.write_parameters("a", STATE)
    assert same(run.usable_parameters("a") or {}, STATE)
    file = run.candidates / "a.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    with caplog.at_level(logging.WARNING):
        assert run.usable_parameters("a") is None
    assert "is damaged" in caplog.text
    assert "made again" in caplog.text
