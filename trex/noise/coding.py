"""Whole numbers on cells and on input lines: slices of weights, bits of inputs.

Letters in tensor names: … leading dimensions, I inputs (rows), O outputs (columns), S slices,
K input bits, V input vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trex.noise.physics import Encoding, Physics


@dataclass(frozen=True, slots=True)
class InputCode:
    """How integers enter an array, a bit of all rows at a time.

    `signed` integers lie in ±(2^(bits-1) − 1), others in 0 … 2^bits − 1. Differential: the bits of
    the magnitude, on lines driven by the sign: −1, 0 or 1. Offset: two's complement, 0 or 1.
    """

    bits: int
    signed: bool
    encoding: Encoding

    @property
    def limits(self) -> tuple[int, int]:
        """The least and the greatest integer."""
        if self.signed:
            return 1 - (1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1
        return 0, (1 << self.bits) - 1

    @property
    def weights(self) -> tuple[int, ...]:
        """What each bit counts, from the lowest; Σ weight · plane is the integer."""
        if not self.signed:
            return tuple(1 << k for k in range(self.bits))
        low = tuple(1 << k for k in range(self.bits - 1))
        return low if self.encoding == "differential" else (*low, -(1 << (self.bits - 1)))

    def plane(self, integers: Tensor, k: int) -> Tensor:
        """What the lines carry when bit `k` is fed; same shape, float."""
        number = integers.to(torch.int32)
        if self.encoding == "offset":
            return ((number >> k) & 1).to(integers.dtype)
        return ((number.abs() >> k) & 1).to(integers.dtype) * integers.sign()

    def power_table(self, device: torch.device) -> Tensor:
        """Σ_k weight_k² · plane_k², by `table_index`."""
        index = torch.arange(1 << self.bits, device=device)
        total = torch.zeros(len(index), device=device)
        for k, weight in enumerate(self.weights):
            total += weight**2 * ((index >> k) & 1)
        return total

    def table_index(self, integers: Tensor) -> Tensor:
        """Where an integer stands in a table of all of them."""
        number = integers.to(torch.int32)
        if self.encoding == "offset":
            return number & ((1 << self.bits) - 1)
        return number.abs_()

    def active_bits(self, tiles: Tensor) -> Tensor:
        """How many row tiles feed anything at each bit, (…, V, K) from (…, V, tiles, rows).

        From the largest magnitude of a tile alone: below its highest bit all bits count as fed,
        above none does. In two's complement all are fed but where the tile is zero.
        """
        largest = tiles.abs().amax(dim=-1)
        if self.encoding == "offset" and self.signed:
            first = torch.ones(len(self.weights), device=tiles.device)
        else:
            first = torch.tensor(self.weights, device=tiles.device)
        return (largest.unsqueeze(-1) >= first.to(tiles.dtype)).sum(dim=-2, dtype=tiles.dtype)


@dataclass(frozen=True, slots=True)
class WeightCode:
    """How integers of ±(2^(bits-1) − 1) lie in cells of `cell_bits`, a slice a cell.

    Differential: slices of the magnitude, with the sign of the weight, on one column of a pair;
    the other column's cell is at Gmin. Offset: slices of the integer + 2^(bits-1).
    """

    bits: int
    cell_bits: int
    encoding: Encoding

    @classmethod
    def of(cls, physics: Physics) -> WeightCode:
        """The code of an array."""
        return cls(physics.weight_bits, physics.cell_bits, physics.encoding)

    @property
    def limit(self) -> int:
        """The greatest magnitude."""
        return (1 << (self.bits - 1)) - 1

    @property
    def offset(self) -> int:
        """What is added to every integer before it is stored."""
        return 1 << (self.bits - 1) if self.encoding == "offset" else 0

    @property
    def weights(self) -> tuple[int, ...]:
        """What a level of each slice counts; Σ weight · slice is the integer + offset."""
        stored_bits = self.bits if self.encoding == "offset" else self.bits - 1
        return tuple(1 << s for s in range(0, stored_bits, self.cell_bits))

    def slices(self, integers: Tensor) -> Tensor:
        """Levels of the cells, (S, …), float; differential ones carry the weight's sign."""
        number = integers.to(torch.int32)
        stored = number + self.offset if self.encoding == "offset" else number.abs()
        mask = (1 << self.cell_bits) - 1
        levels = torch.stack([(stored // weight) & mask for weight in self.weights])
        levels = levels.to(integers.dtype)
        return levels if self.encoding == "offset" else levels * integers.sign()

    def all_integers(self, device: torch.device) -> Tensor:
        """−limit … limit, the order of tables by integer."""
        return torch.arange(-self.limit, self.limit + 1, device=device, dtype=torch.float32)


def to_tiles(inputs: Tensor, rows: int) -> Tensor:
    """(…, V, I) to (…, V, tiles, rows), zeros in the last tile's rest."""
    missing = -inputs.shape[-1] % rows
    padded = torch.nn.functional.pad(inputs, (0, missing)) if missing else inputs
    return torch.unflatten(padded, -1, (-1, rows))
