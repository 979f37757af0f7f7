"""Files of tensors that carry a hash of what is in them: damage is seen when they are read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from trex.errors import RunError
from trex.files import parse_json, write_atomic

#: a file's metadata: whose tensors these are, and their hash
_OF: Final = "of"
_HASH: Final = "sha256"


def state_hash(state: Mapping[str, Tensor]) -> str:
    """16 hexadecimal digits that change with any name, type, shape or value of a state dict."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, of: str) -> None:
    """Write tensors, at once, with their hash and whose they are.

    Raises:
        StorageError: they cannot be written; what was there before stays.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    metadata = {_OF: of, _HASH: state_hash(state)}
    write_atomic(path, safetensors.torch.save(state, metadata=metadata))


def read_tensors(path: Path, *, of: str) -> dict[str, Tensor]:
    """Tensors by name, as they were written.

    Files of version 0.1 carry no hash: they are read unchecked.

    Raises:
        RunError: the file is missing, damaged, or holds somebody else's tensors.
    """
    try:
        data = path.read_bytes()
        tensors: dict[str, Tensor] = safetensors.torch.load(data)
        metadata = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__")
    except FileNotFoundError:
        raise RunError(
            f"{path} is missing",
            hint="it was pruned, or another machine measured it: use that one's run folder",
        ) from None
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}", hint="check the path") from None
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise _damaged(path, str(error)) from None
    if metadata is None:
        return tensors
    if metadata.get(_OF) != of:
        raise _damaged(path, f"it holds the tensors of {metadata.get(_OF)}, not of {of}")
    if metadata.get(_HASH) != state_hash(tensors):
        raise _damaged(path, "its contents do not have the hash they were written with")
    return tensors


def _damaged(path: Path, reason: str) -> RunError:
    return RunError(
        f"{path} is damaged: {reason}",
        hint="restore the file, or fit its plan again with `trex fit`",
    )
