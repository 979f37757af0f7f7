"""Where searches look for `Run`; it lives in `trex.store.run`."""

from trex.store.run import FIT, SCHEMA, V0_1, Run

__all__ = ["FIT", "SCHEMA", "V0_1", "Run"]
