"""Variants for timm: `trex_variant`, a model that is another one under a plan.

timm.create_model("trex_variant", base="deit_tiny_patch16_224", plan="5<-4 3~40")
timm.create_model("local-dir:exported", pretrained=True)  # after `import trex.models`
"""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.models import build_model_with_cfg, register_model
from torch import nn

from trex.errors import ModelError


def trex_variant(
    pretrained: bool = False, base: str = "", plan: str = "", **kwargs: Any
) -> nn.Module:
    """A base model of timm's under a plan.

    Args:
        pretrained: with the weights that `pretrained_cfg` names: the variant's own, not the
            base's. `timm.create_model("local-dir:FOLDER")` gives it the folder's.
        base: a name that timm knows.
        plan: in text.
        **kwargs: the base's own (num_classes, img_size, drop_path_rate), and timm's.

    Raises:
        ModelError: there is no such base, or features of single encoders are asked for.
        PlanError: the base cannot run the plan, perhaps at this `img_size`.
    """
    import timm

    from trex.models.weights import filter_of

    if not base or not timm.is_model(base):
        raise ModelError(
            f"trex_variant needs a base model that timm knows, not {base!r}",
            hint='give base="deit_tiny_patch16_224", or load an exported folder by local-dir:',
        )
    if kwargs.get("features_only"):
        raise ModelError(
            "a variant has no features_only: its encoders exchange attention and cannot run apart",
            hint="use forward_features, or features_only of the base model",
        )
    build = partial(_build, base, plan)
    model: nn.Module = build_model_with_cfg(
        build,
        "trex_variant",
        pretrained,
        pretrained_filter_fn=lambda state, model: filter_state(
            filter_of(model, base), state, model
        ),
        **kwargs,
    )
    return model


def filter_state(convert: Any, state: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """A state dict through the base's own conversion, which may take the model or not."""
    import inspect

    if convert is None:
        return state
    takes_model = len(inspect.signature(convert).parameters) > 1
    converted: dict[str, Any] = convert(state, model) if takes_model else convert(state)
    return converted


def _build(base: str, plan: str, **kwargs: Any) -> nn.Module:
    from trex.models.registry import build
    from trex.reuse import apply_plan

    return apply_plan(build(base, kwargs), plan, keep_originals=False)


register_model(trex_variant)
