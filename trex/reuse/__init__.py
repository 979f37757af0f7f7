"""Plans on models: a model and a plan become a running variant."""

from trex.reuse.apply import (
    PlanSequential,
    apply_plan,
    apply_reuse,
    consumers_of,
    plan_of,
    remove_plan,
    remove_reuse,
    set_grad_checkpointing,
)
from trex.reuse.transforms import TransformationBlock

__all__ = [
    "PlanSequential",
    "TransformationBlock",
    "apply_plan",
    "apply_reuse",
    "consumers_of",
    "plan_of",
    "remove_plan",
    "remove_reuse",
    "set_grad_checkpointing",
]
