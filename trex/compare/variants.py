"""How a method's variant runs on the loaded weights."""

from __future__ import annotations

from copy import deepcopy

from torch import nn

from trex.compare.methods import AttentionSkip, Encoders, EvitPruning, Method, Reuse
from trex.compare.stepped import PrunedTokens, SkippedAttention
from trex.compare.tokens import stages
from trex.models.registry import LoadedModel, adapter_of
from trex.plan import Plan
from trex.reuse import apply_plan


def running(loaded: LoadedModel, plan: Plan) -> nn.Module:
    """A plan on a copy of the original, nothing fitted."""
    return apply_plan(deepcopy(loaded.model), plan, keep_originals=False)


def variant(
    loaded: LoadedModel, method: Method, setting: float, encoders: Encoders = ()
) -> nn.Module:
    """The running variant; the original's weights are shared or copied, never changed.

    Args:
        loaded: the original.
        method: one that can run without training and is not a plan already.
        setting: the method's.
        encoders: those that reuse or skip.
    """
    model, adapter = loaded.model, loaded.adapter
    if isinstance(method, Reuse):
        return running(loaded, method.plan(encoders, adapter.layout(model)))
    if isinstance(method, AttentionSkip):
        return SkippedAttention(model, adapter, encoders)
    assert isinstance(method, EvitPruning)
    return PrunedTokens(model, adapter, stages(num_encoders(loaded)), setting)


def has_class_token(model: nn.Module) -> bool:
    """Whether a model has exactly one class token in front, which its head reads.

    Tokens are pruned in such models only, and not where encoders are told tokens' places, which
    the published method does not fuse. Parameters may be on the meta device.
    """
    adapter = adapter_of(model)
    one = adapter.class_tokens(model) == adapter.layout(model).protected == 1
    return one and not adapter.place_argument


def num_encoders(loaded: LoadedModel) -> int:
    """Encoders of the model."""
    return len(loaded.adapter.layout(loaded.model).stages)
