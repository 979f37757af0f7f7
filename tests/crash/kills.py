"""Killing a process at a chosen write: before it is whole on disk, or before it has its name."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from typing import Final

FORK = multiprocessing.get_context("fork")
#: a write that does not reach the disk whole; one that does, and gets no name
WAYS: Final = ("torn", "unnamed")


def run_to_the_end(main: Callable[[list[str]], int], command: list[str]) -> int:
    """The exit code of a command in a process of its own."""
    process = FORK.Process(target=_exit_with, args=(main, command))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def kill_at_write(
    main: Callable[[list[str]], int], command: list[str], number: int, way: str
) -> bool:
    """Run a command and kill it at its `number`th write; whether it came so far."""
    process = FORK.Process(target=_killed_at, args=(main, command, number, way))
    process.start()
    process.join()
    return process.exitcode == -signal.SIGKILL


def kill_after(main: Callable[[list[str]], int], command: list[str], seconds: float) -> bool:
    """Run a command and kill it after a while; whether it was still running."""
    process = FORK.Process(target=_exit_with, args=(main, command))
    process.start()
    time.sleep(seconds)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    return process.exitcode == -signal.SIGKILL


def _exit_with(main: Callable[[list[str]], int], command: list[str]) -> None:
    os._exit(main(command))


def _killed_at(
    main: Callable[[list[str]], int], command: list[str], number: int, way: str
) -> None:
    """Every write ends in `os.fsync`, of a file that has its name or gets it next."""
    real, seen = os.fsync, 0

    def fsync(descriptor: int) -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            if way == "torn":
                os.ftruncate(descriptor, max(0, os.fstat(descriptor).st_size - 7))
            else:
                real(descriptor)
            os.kill(os.getpid(), signal.SIGKILL)
        real(descriptor)

    os.fsync = fsync
    _exit_with(main, command)


def drop_capabilities() -> None:
    """From now on what a file's mode forbids is forbidden, to root too (capset(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    nothing = (ctypes.c_uint32 * 6)()
    if os.geteuid() == 0 and libc.capset(header, nothing) != 0:
        raise OSError(ctypes.get_errno(), "capset")
