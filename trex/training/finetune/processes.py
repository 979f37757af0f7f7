"""One process, or several that `torchrun` started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trex.errors import TrainingError

#: While one process writes or looks for the newest state, the others wait.
_PATIENCE: Final = timedelta(hours=2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Processes:
    """Which of how many this is, and where it computes."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """`module` with gradients averaged over the processes."""
        if self.world == 1:
            return module
        devices = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the processes."""
        return self.sum(values) / self.world

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the processes."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def gather(self, texts: list[str]) -> list[str]:
        """Every process's texts."""
        if self.world == 1:
            return texts
        gathered: list[list[str]] = [[] for _ in range(self.world)]
        dist.all_gather_object(gathered, texts)
        return [text for part in gathered for text in part]

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def start_processes(device: str | None) -> Iterator[Processes]:
    """Join the processes `torchrun` started, or be the only one.

    Args:
        device: `cpu`, `cuda`, ...; None takes the accelerator where there is one.

    Raises:
        TrainingError: there is no such device.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    rank, local = int(os.environ.get("RANK", "0")), int(os.environ.get("LOCAL_RANK", "0"))
    chosen = _device(device, local)
    if world == 1:
        yield Processes(rank=0, world=1, device=chosen)
        return
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield Processes(rank=rank, world=world, device=chosen)
    finally:
        dist.destroy_process_group()


def _device(name: str | None, local_rank: int) -> torch.device:
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(
            f"--device {name}: cannot be used: {reason}", hint="use --device cpu"
        ) from error
    if name == "cuda":
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    return device
