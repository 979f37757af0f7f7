from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch
from disks import files_of_at_most, open_files

from trex.errors import StorageError
from trex.fit.scratch import TensorFile


@pytest.fixture
def file(tmp_path: Path) -> Iterator[TensorFile]:
    with closing(TensorFile(tmp_path)) as opened:
        yield opened


def test_rows_come_back_in_any_pieces(file: TensorFile) -> None:
    rows = torch.randn(10, 3, 4)
    for start, stop in ((6, 10), (0, 1), (1, 6)):
        file.write(start, rows[start:stop])
    for start, stop in ((0, 10), (3, 7), (9, 10), (4, 4)):
        assert torch.equal(file.read(start, stop), rows[start:stop])
    file.write(2, torch.zeros(2, 3, 4))
    assert torch.equal(file.read(2, 4), torch.zeros(2, 3, 4))
    assert torch.equal(file.read(4, 5), rows[4:5])


def test_all_rows_as_a_tensor_that_outlives_the_file(file: TensorFile, tmp_path: Path) -> None:
    assert file.mapped().shape == (0,)
    rows = torch.randn(10, 3, 4)
    for start, stop in ((0, 4), (4, 10)):
        file.write(start, rows[start:stop])
    found = file.mapped()
    file.close()
    assert torch.equal(found, rows)
    assert open_files(tmp_path) == []


def test_rows_are_copies(file: TensorFile) -> None:
    file.write(0, torch.ones(2, 3, requires_grad=True).transpose(0, 1))
    first = file.read(0, 3)
    first.zero_()
    assert torch.equal(file.read(0, 3), torch.ones(3, 2))


def test_other_types_are_stored_in_single_precision(file: TensorFile) -> None:
    file.write(0, torch.full((2, 2), 1.5, dtype=torch.bfloat16))
    assert file.read(0, 2).dtype == torch.float32
    assert file.read(1, 2).tolist() == [[1.5, 1.5]]


def test_a_file_has_no_name_and_is_gone_when_closed(file: TensorFile, tmp_path: Path) -> None:
    file.write(0, torch.ones(1000, 10))
    assert list(tmp_path.iterdir()) == []
    assert len(open_files(tmp_path)) == 1
    file.close()
    file.close()
    assert open_files(tmp_path) == []


def test_a_full_disk_is_a_storage_error(file: TensorFile, tmp_path: Path) -> None:
    with files_of_at_most(1000), pytest.raises(StorageError, match="File too large") as caught:
        file.write(0, torch.ones(1000, 10))
    assert caught.value.exit_code == 1
    assert "--scratch" in caught.value.hint
    file.close()
    assert open_files(tmp_path) == []


def test_a_missing_folder_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        TensorFile(tmp_path / "missing").write(0, torch.ones(1))


def test_half_precision_takes_half_the_room(tmp_path: Path) -> None:
    rows = torch.randn(6, 5, 3)
    with closing(TensorFile(tmp_path, torch.bfloat16)) as half:
        half.write(0, rows[:4])
        half.write(4, rows[4:])
        assert torch.equal(half.read(1, 6), rows[1:6].bfloat16().float())
