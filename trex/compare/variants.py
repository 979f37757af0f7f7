"""How a method's variant runs on the loaded weights."""

from __future__ import annotations

from copy import deepcopy

from torch import nn

from trex.compare.methods import AttentionSkip, Encoders, EvitPruning, Method, Reuse, TomeMerging
from trex.compare.stepped import MergedTokens, PrunedTokens, SkippedAttention
from trex.compare.tokens import stages
from trex.errors import ModelError
from trex.models.registry import LoadedModel
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

    Raises:
        ModelError: the method cannot run on this model.
    """
    model, adapter = loaded.model, loaded.adapter
    if isinstance(method, Reuse):
        return apply_reuse(
            deepcopy(model), method.plan(encoders), method.transform, keep_originals=False
        )
    if isinstance(method, AttentionSkip):
        return SkippedAttention(model, adapter, encoders)
    check_class_token(loaded)
    if isinstance(method, EvitPruning):
        return PrunedTokens(model, adapter, stages(num_encoders(loaded)), setting)
    assert isinstance(method, TomeMerging)
    return MergedTokens(model, adapter, int(setting))


def check_class_token(loaded: LoadedModel) -> None:
    """Methods that prune tokens need exactly one class token in front, which the head reads.

    Raises:
        ModelError: the model is another.
    """
    prefix = getattr(loaded.model, "num_prefix_tokens", 1)
    pooled = getattr(loaded.model, "global_pool", "token")
    if not isinstance(loaded.adapter, VitAdapter) or prefix != 1 or pooled != "token":
        raise ModelError(
            f"{loaded.name} has no single class token, by which tokens are pruned and merged",
            hint="leave the token methods out with --methods",
        )


def num_encoders(loaded: LoadedModel) -> int:
    """Encoders of the model."""
    names = loaded.adapter.containers(loaded.model)
    return sum(len(list(loaded.model.get_submodule(name).children())) for name in names)
