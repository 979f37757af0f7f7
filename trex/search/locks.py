"""Where searches look for locks; they live in `trex.store.locks`."""

from trex.store.locks import LOCKS, file_lock

__all__ = ["LOCKS", "file_lock"]
