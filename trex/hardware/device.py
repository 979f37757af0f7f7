"""Devices: what prices plans, be it a chip's model or a machine that was measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from trex.errors import ChipError
from trex.hardware.load import load_chip
from trex.hardware.measured import DEVICE_FILE, MeasuredDevice, read_device

#: `estimate`: computed from a chip's parts; `measured`: fitted to a machine's own latencies
Basis = Literal["estimate", "measured"]


class Device(Protocol):
    """What a chip and a measured machine have in common."""

    @property
    def name(self) -> str:
        """What records call it."""

    @property
    def basis(self) -> Basis:
        """Where its numbers come from."""

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with anything that decides a price."""


def load_device(name: str | Path, overrides: Mapping[str, Any] | None = None) -> Any:
    """What `--hw` names: a shipped chip, a chip's folder or file, or a measured machine's folder.

    Args:
        name: as in `load_chip`; of a measured machine its folder, `FOLDER@BATCH` where it was
            measured with several batch sizes.
        overrides: as in `load_chip`; a measured machine has none.

    Returns:
        A `Chip` or a `MeasuredDevice`.

    Raises:
        ChipError: there is no such chip or machine, or some value of it cannot be right.
    """
    folder, at, batch = str(name).rpartition("@")
    if at and batch.isdecimal() and (Path(folder) / DEVICE_FILE).is_file():
        found = read_device(Path(folder), int(batch))
    elif (Path(name) / DEVICE_FILE).is_file():
        found = read_device(Path(name))
    else:
        return load_chip(name, overrides)
    if overrides:
        raise ChipError(
            f"{name} is a measured machine: no value of it can be set",
            hint="leave --set out, or profile the machine as it should be",
        )
    return found


def is_measured(device: Any) -> bool:
    """Whether a device is a machine that was measured."""
    return isinstance(device, MeasuredDevice)
