"""Reading a checkpoint file and finding the weights in it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from trex.errors import WeightsError

#: Where training scripts put the weights, averaged ones first: accuracies are published of those.
_NESTS: Final = ("state_dict_ema", "model_ema", "state_dict", "model")
#: What DistributedDataParallel and torch.compile put before every name.
_WRAPPERS: Final = ("module.", "_orig_mod.")


def read_checkpoint(path: Path) -> Mapping[str, Any]:
    """The contents of a safetensors file, or of anything `torch.save` wrote.

    Only tensors and plain values are unpickled, and `argparse.Namespace`, which DeiT's and timm's
    training scripts store beside the weights.

    Raises:
        WeightsError: the file is missing, unreadable, or needs code to be unpickled.
    """
    if not path.is_file():
        raise WeightsError(
            f"{path}: {'is a folder, not a file' if path.is_dir() else 'no such file'}",
            hint="give the path of a .safetensors, .pth, .pt, .pth.tar or .bin file",
        )
    try:
        if path.suffix == ".safetensors":
            contents: Any = safetensors.torch.load_file(path)
        else:
            with torch.serialization.safe_globals([argparse.Namespace]):
                contents = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or foreign file can raise nearly anything
        raise _unreadable(path, error) from error
    if not isinstance(contents, Mapping):
        raise WeightsError(
            f"{path}: holds a {type(contents).__name__}, not weights by name",
            hint="save model.state_dict()",
        )
    return contents


def _unreadable(path: Path, error: Exception) -> WeightsError:
    try:
        classes = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # not a file that torch.save wrote
        classes = []
    classes = [name for name in classes if name != "argparse.Namespace"]
    if classes:
        return WeightsError(
            f"{path}: would run code to load {', '.join(classes[:3])}, which TReX does not do",
            hint="load it where you trust it, and save model.state_dict() alone",
        )
    reason = (str(error).splitlines() or [""])[0] or type(error).__name__
    # of what is no file of theirs, unpicklers say a byte, or advise to run its code
    if not isinstance(error, (OSError, RuntimeError, safetensors.SafetensorError)):
        reason = "neither torch.save nor safetensors wrote it"
    return WeightsError(
        f"{path}: is damaged or not a checkpoint: {reason}",
        hint="fetch it again; .pth.tar files must not be unpacked",
    )


def unwrap_checkpoint(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of a flat or nested checkpoint, without what wrappers put before the names.

    Raises:
        WeightsError: there are no weights where they could be.
    """
    found = checkpoint
    while nests := [key for key in _NESTS if found.get(key) and isinstance(found[key], Mapping)]:
        found = found[nests[0]]
    weights = {_plain(name): value for name, value in found.items() if isinstance(value, Tensor)}
    if not weights:
        raise WeightsError(
            f"the checkpoint holds no weights, only {', '.join(map(str, found)) or 'nothing'}",
            hint=f"save a state dict, on its own or under {', '.join(_NESTS)}",
        )
    return weights


def _plain(name: str) -> str:
    while name.startswith(_WRAPPERS):
        name = name.split(".", 1)[1]
    return name
