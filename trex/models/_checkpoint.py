"""Finding the weights in a checkpoint file's contents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from torch import Tensor

from trex.errors import WeightsError

#: Where training scripts put the weights, averaged ones first: accuracies are published of those.
_NESTS: Final = ("state_dict_ema", "model_ema", "state_dict", "model")


def unwrap_checkpoint(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights by name, out of a flat or nested checkpoint, without a `module.` prefix.

    Raises:
        WeightsError: there are no weights where they could be.
    """
    nest = next((key for key in _NESTS if isinstance(checkpoint.get(key), Mapping)), None)
    found = checkpoint if nest is None else checkpoint[nest]
    weights = {
        name.removeprefix("module."): value
        for name, value in found.items()
        if isinstance(value, Tensor)
    }
    if not weights:
        raise WeightsError(
            f"the checkpoint holds no weights, only {', '.join(checkpoint) or 'nothing'}",
            hint=f"save a state dict, on its own or under {', '.join(_NESTS)}",
        )
    return weights
