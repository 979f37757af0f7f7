"""The device a caller gives: a chip, or a machine that `trex profile` measured."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from trex.bench.profile import check_here
from trex.errors import BenchError, ChipError
from trex.hardware import Chip, DeviceAccounting, MeasuredDevice, load_device
from trex.hardware.chip import warning_of

_logger = logging.getLogger(__name__)

#: what a caller may give as a device: a shipped chip's name, a path, `FOLDER@BATCH`, or one loaded
DeviceGiven = str | Path | Chip | MeasuredDevice


def open_machine(device: DeviceGiven, *, force: bool = False) -> MeasuredDevice:
    """A measured machine, for a run's page.

    Raises:
        ChipError: it is a chip, or missing or malformed.
        BenchError: it was measured elsewhere.
    """
    found = open_device(device, force=force)
    if not isinstance(found, MeasuredDevice):
        raise ChipError(
            f"{found.name} is a chip: a run's page tells what its own chip costs",
            hint="give a machine that trex profile measured, or none",
        )
    return found


def open_device(
    device: DeviceGiven, overrides: Mapping[str, Any] | None = None, *, force: bool = False
) -> Chip | MeasuredDevice:
    """The device; a measured one must be this machine, unless `force` says otherwise.

    Args:
        device: its name, path, or the device itself.
        overrides: field -> value of a chip's file.
        force: take a measured machine's latencies though it is another machine, or was measured
            with another model.

    Raises:
        ChipError: there is no such device, or some value of it cannot be right.
        BenchError: it is another machine, or has fewer processors than it was measured with.
        ExportError: its runtime is not installed.
    """
    found: Chip | MeasuredDevice
    found = load_device(device, overrides) if isinstance(device, str | Path) else device
    if not isinstance(found, MeasuredDevice):
        for warning in filter(None, (warning_of(found), *found.warnings)):
            _logger.warning("%s", warning)
        return found
    try:
        check_here(found)
    except BenchError as error:
        if not force:
            raise
        _logger.warning("%s; going on, as --force says", error.message)
    return replace(found, forced=force)


def accounting_of(
    asked: DeviceAccounting | None, device: Chip | MeasuredDevice, usual: DeviceAccounting
) -> DeviceAccounting:
    """What prices are of: a chip's accounting, or the measured machine's only one.

    Raises:
        ChipError: an accounting was asked of a machine.
    """
    if not isinstance(device, MeasuredDevice):
        return asked or usual
    refuse_flags(device, accounting=asked)
    return device.pricer().accounting


def refuse_flags(device: MeasuredDevice, **flags: object) -> None:
    """Refuse what only chips have.

    Raises:
        ChipError: it was given.
    """
    for name, given in flags.items():
        if given:
            raise ChipError(
                f"{device.name} is a measured machine, which has no --{name}",
                hint="leave it out, or give a chip with --hw",
            )
