"""Activations of many images on disk, so that memory does not grow with their number."""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from trex.errors import StorageError


class TensorFile:
    """One tensor of fixed shape for each image, in a temporary file of its own.

    The file has no name: it is gone when it is closed or the process ends, however it ends.

    Args:
        folder: where the file lies.
        dtype: what is stored; bfloat16 is read back as float32, int32 as int64.
    """

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        assert dtype in (torch.float32, torch.bfloat16, torch.int32)
        self._folder = folder
        self._dtype = dtype
        self._file: IO[bytes] | None = None
        self._shape: tuple[int, ...] = ()

    def write(self, start: int, rows: Tensor) -> None:
        """Store `rows` (images, …) as the images from `start` on.

        Raises:
            StorageError: the disk is full, or the folder not writable.
        """
        stored = rows.detach().to("cpu", self._dtype).contiguous()
        self._shape = tuple(stored.shape[1:])
        view = _bytes(stored)
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 (closed in close)
            offset = start * self._row_bytes()
            while view:
                written = os.pwrite(self._file.fileno(), view, offset)
                offset, view = offset + written, view[written:]
        except OSError as error:
            raise StorageError(
                f"cannot write activations to {self._folder}: {error.strerror}",
                hint="free some space there, choose another folder with --scratch, or give fewer "
                "calibration images",
            ) from error

    def read(self, start: int, stop: int) -> Tensor:
        """The images from `start` to `stop`, (stop - start, …)."""
        assert self._file is not None, "nothing was written yet"
        rows = torch.empty((stop - start, *self._shape), dtype=self._dtype)
        view = _bytes(rows)
        offset = start * self._row_bytes()
        while view:
            count = os.preadv(self._file.fileno(), [view], offset)
            assert count > 0, "these images were not written"
            offset, view = offset + count, view[count:]
        return rows.float() if self._dtype.is_floating_point else rows.long()

    def mapped(self) -> Tensor:
        """All images' rows as a tensor whose memory is the file's; it outlives `close`.

        The system keeps of it what there is room for. An empty tensor where nothing was written.
        """
        assert self._dtype == torch.float32
        if self._file is None:
            return torch.empty(0)
        number = self._file.fileno()
        size = os.fstat(number).st_size // self._dtype.itemsize
        # Its memory keeps the file, which has no name, and no descriptor.
        values = torch.from_file(f"/dev/fd/{number}", shared=True, size=size)
        return values.view(-1, *self._shape)

    def close(self) -> None:
        """Give the disk space back."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _row_bytes(self) -> int:
        return math.prod(self._shape) * self._dtype.itemsize


def _bytes(tensor: Tensor) -> memoryview:
    """A tensor's memory; NumPy knows no bfloat16, so its bytes pass through."""
    view: memoryview = tensor.flatten().view(torch.uint8).numpy().data
    return view
