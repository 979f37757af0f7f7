"""Activations of many images on disk, so that memory does not grow with their number."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from trex.errors import StorageError


class TensorFile:
    """One float32 tensor of fixed shape for each image, in a temporary file of its own.

    The file has no name: it is gone when it is closed or the process ends, however it ends.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._shape: tuple[int, ...] = ()

    def write(self, start: int, rows: Tensor) -> None:
        """Store `rows` (images, …) as the images from `start` on.

        Raises:
            StorageError: the disk is full, or the folder not writable.
        """
        array = np.ascontiguousarray(rows.detach().to("cpu", torch.float32).numpy())
        self._shape = array.shape[1:]
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 (closed in close)
            offset = start * self._row_bytes()
            view = array.reshape(-1).view(np.uint8).data
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
        array = np.empty((stop - start, *self._shape), dtype=np.float32)
        view = array.reshape(-1).view(np.uint8).data
        offset = start * self._row_bytes()
        while view:
            count = os.preadv(self._file.fileno(), [view], offset)
            assert count > 0, "these images were not written"
            offset, view = offset + count, view[count:]
        return torch.from_numpy(array)

    def close(self) -> None:
        """Give the disk space back."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _row_bytes(self) -> int:
        return int(np.prod(self._shape)) * 4
