"""What `--hw` names: a chip, or a machine that `trex profile` measured. No heavy imports here."""

from __future__ import annotations

import argparse
import logging
from typing import TYPE_CHECKING, Any

from trex.commands._arguments import ACCOUNTINGS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trex.hardware import Chip, DeviceAccounting, MeasuredDevice

_logger = logging.getLogger(__name__)


def add_device(parser: argparse.ArgumentParser, accounting: str) -> None:
    """The flags; `accounting`: of a chip, where none is given."""
    parser.add_argument(
        "--hw", required=True, metavar="DEVICE",
        help="a shipped chip, a path, or what trex profile wrote (FOLDER, or FOLDER@BATCH)",
    )  # fmt: skip
    parser.add_argument(
        "--accounting",
        choices=ACCOUNTINGS,
        help=f"of a chip ({accounting}); paper: the published equations; full: everything it must "
        "do",
    )
    add_force(parser)


def add_force(parser: argparse.ArgumentParser) -> None:
    """The flag alone."""
    parser.add_argument(
        "--force",
        action="store_true",
        help="take a measured machine's latencies though it is another machine, or was measured "
        "with another model",
    )


def device_of(
    args: argparse.Namespace, overrides: Mapping[str, Any] | None = None
) -> Chip | MeasuredDevice:
    """The device; a measured one must be this machine, unless `--force` says otherwise.

    Raises:
        ChipError: there is no such device, or some value of it cannot be right.
        BenchError: it is another machine, or has fewer processors than it was measured with.
        ExportError: its runtime is not installed.
    """
    from dataclasses import replace

    from trex.bench.profile import check_here
    from trex.errors import BenchError
    from trex.hardware import MeasuredDevice, load_device
    from trex.hardware.accuracy import warning_of

    device: Chip | MeasuredDevice = load_device(args.hw, overrides)
    if not isinstance(device, MeasuredDevice):
        if warning := warning_of(device):
            _logger.warning("%s", warning)
        return device
    try:
        check_here(device)
    except BenchError as error:
        if not args.force:
            raise
        _logger.warning("%s; going on, as --force says", error.message)
    return replace(device, forced=args.force)


def accounting_of(
    args: argparse.Namespace, device: Chip | MeasuredDevice, usual: DeviceAccounting
) -> DeviceAccounting:
    """What prices are of: a chip's accounting, or the measured machine's only one.

    Raises:
        ChipError: an accounting was asked of a machine.
    """
    from trex.hardware import MeasuredDevice

    if not isinstance(device, MeasuredDevice):
        asked: DeviceAccounting = args.accounting or usual
        return asked
    refuse_flags(args, device, ("accounting",))
    return device.pricer().accounting


def refuse_flags(args: argparse.Namespace, device: MeasuredDevice, flags: tuple[str, ...]) -> None:
    """Refuse flags that only chips have.

    Raises:
        ChipError: one was given.
    """
    from trex.errors import ChipError

    for name in flags:
        if getattr(args, name):
            raise ChipError(
                f"{device.name} is a measured machine, which has no --{name}",
                hint="leave it out, or give a chip with --hw",
            )
