"""All methods by the names the command line knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from trex.compare.designs import DepthFirstSoftmax, FusedQk, ReTransformer, WeightSharing
from trex.compare.methods import (
    AttentionSkip,
    BlockReuse,
    DynamicVit,
    EvitPruning,
    FittedMapReuse,
    FittedReuse,
    IdentityReuse,
    MapReuse,
    Method,
    MixedMapReuse,
)
from trex.compare.planned import ClassRows, DiffRate, SharedRows, TomeMerging
from trex.config import did_you_mean
from trex.errors import ModelError

METHODS: Final[dict[str, Method]] = {
    method.name: method
    for method in (
        FittedReuse(), FittedMapReuse(), MixedMapReuse(), BlockReuse(), IdentityReuse(),
        MapReuse(), AttentionSkip(), TomeMerging(), DiffRate(), SharedRows(), ClassRows(),
        EvitPruning(), DynamicVit(), WeightSharing(), ReTransformer(), FusedQk(),
        DepthFirstSoftmax(),
    )
}  # fmt: skip

#: The name of all other models together.
BACKBONES_NAME: Final = "backbones"
NAMES: Final = (*METHODS, BACKBONES_NAME)


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """Methods' names, each once.

    Raises:
        ModelError: one is unknown.
    """
    for name in names:
        if name not in NAMES:
            raise ModelError(f"no method is called {name!r}", hint=did_you_mean(name, list(NAMES)))
    return tuple(dict.fromkeys(names))
