"""The original as a teacher: run on every batch, or once on a fixed set of views."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from trex.errors import StorageError
from trex.files import parse_json, write_atomic
from trex.reuse.route import State
from trex.training.finetune.network import Observed, Outputs
from trex.training.finetune.views import Key, Views, ViewSource, collate

_BATCH: Final = 50

_Rows = np.ndarray[Any, np.dtype[np.float16]]


class Teacher(Protocol):
    """What the original puts out for a batch of views."""

    def __call__(self, views: Views, images: Tensor) -> Outputs:
        """Outputs for `images`, which are `views.images` where they lie now, perhaps mixed."""


class LiveTeacher:
    """Runs the original on every batch."""

    def __init__(self, original: Observed) -> None:
        self._original = original.eval()

    def __call__(self, views: Views, images: Tensor) -> Outputs:
        """One forward without gradients."""
        with torch.no_grad():
            outputs: Outputs = self._original(images)
        return outputs


class CachedTeacher:
    """Logits and final tokens of every view in a file, in fp16.

    Args:
        folder: of the cache; a cache for other settings in it is replaced.
        settings: everything the cached values depend on.
        n_images: of the training images.
        views: of every image.
        with_tokens: whether final tokens are kept as well.
    """

    def __init__(
        self,
        folder: Path,
        settings: dict[str, object],
        *,
        n_images: int,
        views: int,
        with_tokens: bool,
    ) -> None:
        self._file = folder / "teacher.f16"
        self._header = folder / "teacher.json"
        self._settings = json.loads(json.dumps({**settings, "with_tokens": with_tokens}))
        self._n_images, self._views, self._with_tokens = n_images, views, with_tokens
        self._shapes: list[tuple[int, ...]] = []
        self._rows: _Rows | None = None

    def fill(
        self,
        original: nn.Module,
        source: ViewSource,
        device: torch.device,
        progress: Callable[[int], object],
    ) -> None:
        """Run the original on all views that are not in the file yet.

        Raises:
            StorageError: the disk is full or not writable.
        """
        keys = [Key(i, v) for v in range(self._views) for i in range(self._n_images)]
        done = self._rows_done()
        try:
            with self._file.open("ab" if done else "wb") as file:
                for start in range(done, len(keys), _BATCH):
                    batch = collate([source[key] for key in keys[start : start + _BATCH]])
                    rows = self._run(original, batch.images.to(device))
                    if not start:
                        self._write_header()
                    file.write(rows.tobytes())
                    file.flush()
                    progress(len(rows))
        except OSError as error:
            raise StorageError(
                f"{self._file}: cannot be written: {error.strerror}",
                hint="free some space, cache fewer views, or use the teacher live",
            ) from error

    def open(self) -> None:
        """Read from the filled file."""
        self._shapes = [tuple(s) for s in parse_json(self._header.read_text())["shapes"]]
        self._rows = np.memmap(self._file, np.float16, "r").reshape(-1, self._row_length())

    @property
    def stored_bytes(self) -> int:
        """Size on disk."""
        return self._file.stat().st_size

    def remove(self) -> None:
        """Give the disk space back."""
        self._rows = None
        for file in (self._file, self._header):
            file.unlink(missing_ok=True)

    def __call__(self, views: Views, images: Tensor) -> Outputs:
        """Rows of the file; where no tokens are kept, the stream is empty."""
        assert self._rows is not None, "the cache was not opened"
        numbers = [key.view * self._n_images + key.image for key in views.keys]
        rows = torch.from_numpy(self._rows[numbers]).to(images.device, torch.float32)
        sizes = [int(np.prod(shape)) for shape in self._shapes]
        parts = [
            part.reshape(-1, *shape)
            for part, shape in zip(torch.split(rows, sizes, dim=1), self._shapes, strict=True)
        ]
        stream = parts[1] if self._with_tokens else rows[:, :0]
        return Outputs(parts[0], stream, State(stream), {}, None)

    def _run(
        self, original: nn.Module, images: Tensor
    ) -> np.ndarray[tuple[int, ...], np.dtype[np.float16]]:
        with torch.no_grad():
            outputs: Outputs = original(images)
        kept: Sequence[Tensor] = (outputs.logits_BC, outputs.stream)[: 1 + self._with_tokens]
        self._shapes = [tuple(part.shape[1:]) for part in kept]
        flat = torch.cat([part.flatten(1) for part in kept], dim=1)
        return np.ascontiguousarray(flat.to("cpu", torch.float16).numpy())

    def _row_length(self) -> int:
        return sum(int(np.prod(shape)) for shape in self._shapes)

    def _write_header(self) -> None:
        header = {"settings": self._settings, "shapes": self._shapes}
        write_atomic(self._header, json.dumps(header) + "\n")

    def _rows_done(self) -> int:
        """Complete rows of an earlier, interrupted filling; what is torn is cut off."""
        if not self._header.exists() or not self._file.exists():
            return 0
        header = parse_json(self._header.read_text())
        if header["settings"] != self._settings:
            return 0
        self._shapes = [tuple(shape) for shape in header["shapes"]]
        row_bytes = 2 * self._row_length()
        rows = self._file.stat().st_size // row_bytes
        with self._file.open("r+b") as file:
            file.truncate(rows * row_bytes)
        return rows
