"""What travels between arrays, the global buffer and the units beside it, on a chip of tiles.

A tile's own bus brings inputs to its arrays and takes their outputs away. A tree of wires
connects all tiles with the buffer. It is laid out for the model as it is, whatever plan runs: with
`n` tiles on an area `A` the buffer has ⌈√n⌉ channels, as many as cross the middle of an
area-universal fat tree (Leiserson, IEEE Trans. Computers C-34, 1985), and a tile lies √A − √(A/n)
of wire away, the way from the root of an H-tree to any of its leaves. Q, K and V read the same
vectors: these are fetched once, and every further tile that takes them is one tile's edge more of
wire. Kᵀ and V are fetched and brought to all copies of their arrays before their first product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from trex.hardware.chip import Network

#: What the network's root is called in prices; as a resource it takes the bus's place.
NETWORK: Final = "network"
TILE_LINK: Final = "tile_link"


@dataclass(frozen=True, kw_only=True, slots=True)
class Links:
    """A network as long and as wide as one model needs it; arrays for many layers by themselves.

    Attributes:
        network: figures a bit and metre.
        tiles: that are connected.
        distance_m: from the buffer to any of them.
        pitch_m: a tile's edge.
        bits_per_s: at the buffer, all channels together.
    """

    network: Network
    tiles: Any
    distance_m: Any
    pitch_m: Any
    bits_per_s: Any


def lay_out(network: Network, tiles: Any, area_m2: Any) -> Links:
    """The links of a chip of so many tiles on so much area, everything on it included."""
    edge_m, across = area_m2**0.5, tiles**0.5
    pitch_m = edge_m / across
    return Links(
        network=network,
        tiles=tiles,
        distance_m=edge_m - pitch_m,
        pitch_m=pitch_m,
        bits_per_s=-(-across // 1) * network.channel_bits_per_s,
    )
