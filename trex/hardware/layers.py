"""Many single layers at once: for sweeps over shapes, by the code that prices one operation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trex.hardware.chip import Chip
from trex.hardware.matmul import price_matmul, tiles_of
from trex.hardware.network import lay_out
from trex.hardware.prices import Accounting
from trex.hardware.system import Pricer


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerShapes:
    """Matrix products as integer arrays of one length."""

    vectors: Any
    in_features: Any
    out_features: Any
    groups: Any
    kind: Literal["static_matmul", "dynamic_matmul"]
    name: str = "layers"
    part: str = "layer"
    resident_groups: int = 0

    @property
    def elements(self) -> Any:
        """Values each puts out."""
        return self.groups * self.vectors * self.out_features


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerCosts:
    """One entry a layer; sequential, leakage left out (it follows the whole model's latency)."""

    latency_s: NDArray[np.float64]
    energy_j: NDArray[np.float64]
    area_m2: NDArray[np.float64]
    leakage_w: NDArray[np.float64]


def price_layers(
    chip: Chip,
    *,
    vectors: ArrayLike,
    in_features: ArrayLike,
    out_features: ArrayLike,
    groups: ArrayLike = 1,
    kind: Literal["static_matmul", "dynamic_matmul"] = "static_matmul",
    accounting: Accounting = "full",
) -> LayerCosts:
    """Price many matrix products, each by itself.

    Args:
        chip: the chip.
        vectors: input vectors of each layer; scalars are repeated for all layers.
        in_features: rows of each layer's matrix.
        out_features: its columns.
        groups: how many such matrices side by side.
        kind: of all of them.
        accounting: as in `price`.

    Raises:
        ValueError: a size below one.
    """
    sizes = np.broadcast_arrays(
        *(np.atleast_1d(np.asarray(a)) for a in (vectors, in_features, out_features, groups))
    )
    whole = [size.astype(np.int64) for size in sizes]
    if any((size < 1).any() for size in whole):
        raise ValueError("every size must be at least one")
    shapes = LayerShapes(
        vectors=whole[0], in_features=whole[1], out_features=whole[2], groups=whole[3], kind=kind
    )
    pricer = Pricer.of(chip, accounting, "sequential")
    price = price_matmul(shapes, pricer.chip, accounting)
    if chip.network is not None and accounting == "full":  # laid out for each layer by itself
        area_m2 = sum(area for _, area in price.area_m2)
        area_m2 = area_m2 + sum(area for _, area in pricer.shared_area_m2(0))
        links = lay_out(chip.network, tiles_of(shapes, pricer.chip), area_m2)
        price = price_matmul(shapes, pricer.chip, accounting, links=links)
    zero = np.zeros(len(whole[0]))
    return LayerCosts(
        latency_s=zero + sum(b.total_s for b in price.busy) + price.write_s,
        energy_j=zero + sum(joules for _, joules in price.energy_j),
        area_m2=zero + sum(area for _, area in price.area_m2),
        leakage_w=zero + price.leakage_w,
    )
