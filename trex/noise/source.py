"""Where noise comes from: one seed for a chip instance."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class NoiseSource:
    """Standard normal numbers; the same seed gives the same sequence on a device."""

    def __init__(self, *seed: int) -> None:
        self._generators: dict[torch.device, torch.Generator] = {}
        self.reseed(*seed)

    def reseed(self, *seed: int) -> None:
        """Start over from one or more numbers that name the sequence."""
        self._state = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]) >> 1
        self._generators.clear()

    def __call__(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """Independent N(0, 1)."""
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._state)
        return torch.randn(shape, generator=self._generators[device], device=device)
