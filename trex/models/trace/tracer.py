"""Runs a model once on tensors without data and returns what it computed."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from trex.architecture import Architecture
from trex.errors import ModelError
from trex.models.trace.naming import described, named
from trex.models.trace.recorder import Recorder


def trace_architecture(
    model: nn.Module, input_size: tuple[int, int, int], name: str
) -> Architecture:
    """Every operation `model` runs on one image, in evaluation mode, in order.

    The model may be on any device, the meta device too; it is not changed, and neither weights
    nor much memory are needed. Fused attention counts as what it computes. Parts that do not
    depend on the image (bias tables, re-parametrised weights) are constants of a deployed model
    and free. `uncounted` of the result names every operator that was not understood.

    Args:
        model: takes images (batch, channels, height, width).
        input_size: channels, height, width of one image.
        name: the architecture's name, also in errors.

    Raises:
        ModelError: the forward pass fails without data, for example because the model branches
            on values, or does not take images of this size.
    """
    size = "×".join(map(str, input_size))
    if len(input_size) != 3 or min(input_size) < 1:
        raise ModelError(
            f"{name} cannot be traced on an image of {size}",
            hint="give channels, height and width, for example (3, 224, 224)",
        )
    try:
        twin = _without_data(model).eval()
    except Exception as error:
        raise ModelError(
            f"{name} cannot be traced: it cannot be copied ({_first_line(error)})",
            hint="trace the model before compiling, scripting, sharding or quantising it",
        ) from error
    with torch.inference_mode():
        image = torch.empty(1, *input_size, dtype=_image_type(model), device="meta")
        recorder = Recorder(twin, image)
        try:
            with recorder.following_modules(), recorder:
                twin(image)
        except Exception as error:
            raise ModelError(
                f"{name} cannot be traced on an image of {size}: "
                f"{recorder.module or 'the model itself'} fails ({_first_line(error)})",
                hint="check the image size; tracing has shapes but no values, so the forward "
                "pass must not branch on values or move tensors to a device by name",
            ) from error
    operations = named(recorder.records)
    counted_macs = sum(operation.macs for operation in operations)
    return Architecture(
        model=name, body=operations, uncounted=described(recorder.unknown, counted_macs)
    )


def _without_data(model: nn.Module) -> nn.Module:
    """A copy on the meta device, never holding the weights twice.

    A copy, because models keep caches on themselves (attention biases by device).
    """
    data: dict[int, Tensor] = {}
    for parameter in model.parameters():
        data[id(parameter)] = nn.Parameter(
            torch.empty_like(parameter, device="meta"), parameter.requires_grad
        )
    for buffer in model.buffers():
        data[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, data)


def _image_type(model: nn.Module) -> torch.dtype:
    types = (parameter.dtype for parameter in model.parameters())
    return next(filter(lambda t: t.is_floating_point, types), torch.get_default_dtype())


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
