"""Reuse: turning a model and a plan into a running variant, and fitting it in closed form."""

from trex.reuse.apply import (
    ReuseSequential,
    apply_reuse,
    consumers_of,
    remove_reuse,
    reuse_of,
    set_grad_checkpointing,
)
from trex.reuse.transforms import TransformationBlock

__all__ = [
    "ReuseSequential",
    "TransformationBlock",
    "apply_reuse",
    "consumers_of",
    "remove_reuse",
    "reuse_of",
    "set_grad_checkpointing",
]
