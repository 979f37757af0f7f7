"""The whole state of a training, saved so that a kill at any moment loses minutes at most."""

from __future__ import annotations

import io
import logging
import time
import zipfile
from pathlib import Path
from typing import Any

import torch

from trex.files import make_folder, write_atomic
from trex.training.finetune.recipe import Checkpoints

_logger = logging.getLogger(__name__)


class CheckpointFolder:
    """States by step; only the newest few are kept.

    Args:
        folder: is created with the first state.
        settings: when and how many.
    """

    def __init__(self, folder: Path, settings: Checkpoints) -> None:
        self._folder = folder
        self._settings = settings
        self._saved_at = time.monotonic()

    def due(self, step: int) -> bool:
        """Whether the state should be saved after so many steps."""
        if self._settings.steps is not None and step % self._settings.steps == 0:
            return True
        return time.monotonic() - self._saved_at >= 60 * self._settings.minutes

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write a state, and remove those that are too many.

        Raises:
            StorageError: it cannot be written; the earlier ones stay.
        """
        make_folder(self._folder)
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomic(self._folder / f"step-{step:09d}.pt", buffer.getvalue())
        self._saved_at = time.monotonic()
        for file in self._files()[: -self._settings.keep]:
            file.unlink(missing_ok=True)

    def newest(self) -> dict[str, Any] | None:
        """The newest undamaged state, or None. Only plain values are read, never code."""
        for file in reversed(self._files()):
            try:
                return _read(file)
            except Exception as error:  # unpicklers of damaged files raise nearly anything
                reason = (str(error).splitlines() or [""])[0] or type(error).__name__
                _logger.warning("%s cannot be read (%s): taking the one before", file, reason)
        return None

    @property
    def newest_file(self) -> Path | None:
        """Where the newest state is."""
        return files[-1] if (files := self._files()) else None

    def remove(self) -> None:
        """Remove all states, once what they were for is written."""
        for file in self._files():
            file.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("step-*.pt"))


def _read(file: Path) -> dict[str, Any]:
    """A state whose every byte has the checksum it was written with.

    `torch.save` writes a zip archive, and `torch.load` does not look at its checksums.
    """
    data = file.read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"the checksum of {damaged} is wrong")
    state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or "step" not in state:
        raise ValueError("it is not the state of a training")
    return state
