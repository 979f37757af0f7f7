"""Other models on the same chip: priced here, their accuracy only as published."""

from __future__ import annotations

from dataclasses import replace

from trex.compare.published import Backbone
from trex.compare.target import ModelOnDevice, Price, alike
from trex.errors import ChipError
from trex.hardware import MeasuredDevice, workload
from trex.models.registry import architecture_of, create


def price_backbone(target: ModelOnDevice, backbone: Backbone) -> Price:
    """A whole other model on the target's chip, under its accounting.

    Raises:
        ChipError: the accounting has no terms for what the model is made of, or the device is a
            machine, which was measured with another model.
        ModelError: the installed timm does not have the model.
    """
    if isinstance(target.device, MeasuredDevice):
        raise ChipError(
            f"{target.device.name} was measured with {target.model.model} alone",
            hint="time other models beside it with trex bench",
        )
    model = create(backbone.model, device="meta")
    other = replace(
        target,
        model=architecture_of(model, backbone.model),
        parameters=sum(p.numel() for p in model.parameters()),
    )
    if target.accounting != "full" and not alike(other.model):
        raise ChipError(
            f"{target.accounting} accounting has terms for ViT encoders only",
            hint="use full accounting",
        )
    return other.price_work(workload(other.model))
