"""Model objects that a caller already has: their names, and whether a name builds them."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Final

import torch
from torch import Tensor, nn

from trex.errors import ModelError, TrexError

#: in front of the class, where no name builds a model
OBJECT: Final = "object:"

#: what of a class decides what a model computes, beside everything that begins with `forward`
_COMPUTES: Final = ("__call__", "_pos_embed", "pool", "_pool", "attn_pool", "_call_impl")


def is_object(name: str) -> bool:
    """Whether a model's name says that only its owner has it."""
    return name.startswith(OBJECT)


def no_name_builds(name: str) -> ModelError:
    """The error where such a model would have to be built."""
    return ModelError(
        f"{name.removeprefix(OBJECT)} is a model of your own, which no name builds",
        hint="in Python, give the model itself: trex.load(FOLDER, model), "
        "trex.evaluate(RUN, data, model=model), trex.export(RUN, OUT, format='onnx', model=model)",
    )


def computes_like(model: nn.Module, bases: tuple[type[nn.Module], ...]) -> bool:
    """Whether a model is one of these classes, or a subclass that computes what its base does."""
    own = type(model)
    base = next((cls for cls in own.__mro__ if cls in bases), None)
    if base is None:
        return False
    added = own.__mro__[: own.__mro__.index(base)]
    changed = {name for cls in added for name in vars(cls) if hasattr(base, name)}
    return not any(name.startswith("forward") or name in _COMPUTES for name in changed)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside torch.compile, DataParallel and DistributedDataParallel."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(
            model, nn.DataParallel | nn.parallel.DistributedDataParallel
        ):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def copy_of(model: nn.Module) -> nn.Module:
    """A copy on the CPU, in float32 and evaluation mode; the caller's stays as it is.

    Raises:
        ModelError: it cannot be copied, or holds what is not a finite number.
    """
    try:
        copy = deepcopy(unwrapped(model)).cpu().float().eval()
    except (RuntimeError, NotImplementedError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"the {type(model).__name__} cannot be copied: {reason}",
            hint="give a model with weights, not on the meta device, outside a training step",
        ) from error
    for name, value in copy.state_dict().items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ModelError(
                f"{name} of the {type(model).__name__} holds what is not a finite number",
                hint="give the model as it was before its training broke down",
            )
    return copy


def same_answers(first: nn.Module, second: nn.Module, inputs: Tensor) -> bool:
    """Whether two models, or a model and one built by name, answer alike but for rounding."""
    from trex.models.adapter import first_tensor

    with torch.no_grad():
        ours, theirs = (first_tensor(model(inputs)) for model in (first, second))
    return ours.shape == theirs.shape and bool(
        torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4 * float(ours.abs().max()))
    )


def name_of(model: nn.Module, inputs: Tensor) -> tuple[str, dict[str, Any]]:
    """The name and arguments that `trex.models.registry.create` builds a model's like with.

    A model that timm made says what it is called; it is built once more, given the same weights,
    and run beside the model. What answers otherwise, and what timm did not make, has no such name:
    it is called `object:` and its class.

    Args:
        model: in evaluation mode, on the CPU.
        inputs: two at least.
    """
    from trex.models.registry import create

    cfg: Any = getattr(model, "pretrained_cfg", None) or {}
    name = cfg.get("architecture")
    classes = getattr(model, "num_classes", None)
    if isinstance(name, str) and isinstance(classes, int) and inputs.ndim == 4:
        state = model.state_dict()
        side = inputs.shape[-1] if inputs.shape[-1] == inputs.shape[-2] else None
        for size in dict.fromkeys((None, side)):
            arguments: dict[str, Any] = {"num_classes": classes, "img_size": size}
            try:
                built = create(name, **arguments)
            except TrexError:
                continue
            if type(built) is not type(model) or _shapes(built.state_dict()) != _shapes(state):
                continue
            built.load_state_dict(state)
            if same_answers(model, built, inputs):
                return name, arguments
    return f"{OBJECT}{type(model).__name__}", {}


def _shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state.items()}
