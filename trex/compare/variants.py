"""How a method's variant runs on the loaded weights."""

from __future__ import annotations

from copy import deepcopy

from torch import nn

from trex.compare.methods import AttentionSkip, Encoders, EvitPruning, Method, Reuse, TomeMerging
from trex.compare.stepped import MergedTokens, PrunedTokens, SkippedAttention
from trex.compare.tokens import stages
from trex.models.registry import LoadedModel, adapter_of
from trex.models.vit import VitAdapter
from trex.reuse import apply_reuse


def variant(
    loaded: LoadedModel, method: Method, setting: float, encoders: Encoders = ()
) -> nn.Module:
    """The running variant; the original's weights are shared or copied, never changed.

    Args:
        loaded: the original.
        method: one that can run without training.
        setting: the method's.
        encoders: those that reuse or skip.
    """
    model, adapter = loaded.model, loaded.adapter
    if isinstance(method, Reuse):
        return apply_reuse(
            deepcopy(model), method.plan(encoders), method.transform, keep_originals=False
        )
    if isinstance(method, AttentionSkip):
        return SkippedAttention(model, adapter, encoders)
    if isinstance(method, EvitPruning):
        return PrunedTokens(model, adapter, stages(num_encoders(loaded)), setting)
    assert isinstance(method, TomeMerging)
    return MergedTokens(model, adapter, int(setting))


def has_class_token(model: nn.Module) -> bool:
    """Whether a model has exactly one class token in front, which its head reads.

    Tokens are pruned and merged in such models only. Parameters may be on the meta device.
    """
    prefix = getattr(model, "num_prefix_tokens", 1)
    pooled = getattr(model, "global_pool", "token")
    return isinstance(adapter_of(model), VitAdapter) and prefix == 1 and pooled == "token"


def num_encoders(loaded: LoadedModel) -> int:
    """Encoders of the model."""
    names = loaded.adapter.containers(loaded.model)
    return sum(len(list(loaded.model.get_submodule(name).children())) for name in names)
