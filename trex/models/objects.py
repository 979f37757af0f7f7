"""Model objects that a caller already has: their names, and whether a name builds them."""

from __future__ import annotations

from copy import deepcopy
from typing import Final

from torch import nn

from trex.errors import ModelError

#: in front of the class, where no name builds a model
OBJECT: Final = "object:"


def is_object(name: str) -> bool:
    """Whether a model's name says that only its owner has it."""
    return name.startswith(OBJECT)


def no_name_builds(name: str) -> ModelError:
    """The error where such a model would have to be built."""
    shown = name.removeprefix(OBJECT)
    return ModelError(
        f"{shown} is a model of your own, which no name builds",
        hint=f"name its factory again: --model {shown}"
        if ":" in shown
        else "in Python, give the model itself: trex.load(FOLDER, model), "
        "trex.evaluate(RUN, data, model=model), trex.export(RUN, OUT, format='onnx', model=model)",
    )


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
