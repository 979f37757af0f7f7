"""Putting a model's encoders on a non-ideal chip, and taking them back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from timm.layers import Attention
from timm.models.vision_transformer import LayerScale  # its own in timm's oldest versions
from torch import Tensor, nn

from trex.errors import DataError, ModelError
from trex.hardware.chip import Chip
from trex.models.bert.adapter import BertConsumer
from trex.models.bert.model import EncoderBlock
from trex.models.registry import adapter_of
from trex.models.vit import ReusedAttention
from trex.noise.attention import NonIdealAttention, NonIdealProduct, NonIdealProducts
from trex.noise.linear import Instance, NonIdealLinear
from trex.noise.physics import MODES, Mode, NoiseSettings, Physics
from trex.reuse.apply import reusing_containers

_STATE = "_non_ideal"
_DIGITAL = (nn.LayerNorm, LayerScale)


@dataclass(frozen=True, slots=True)
class _Change:
    """A child `name` of `parent` that is replaced, or added where `old` is None."""

    parent: nn.Module
    name: str
    old: nn.Module | None
    new: nn.Module


@dataclass(frozen=True, slots=True)
class _State:
    """What `remove_non_ideal` and `set_noise` need; in no `state_dict`."""

    instance: Instance
    changes: list[_Change]


def make_non_ideal(
    model: nn.Module,
    chip: Chip,
    images: Iterable[Tensor],
    *,
    settings: NoiseSettings | None = None,
    mode: Mode = "fast",
    seed: int = 0,
) -> nn.Module:
    """Let the model's encoders compute as `chip` does, in place, and return the model.

    Their linear layers and the two products of their attention go onto crossbars; stem, head,
    norms, softmax, GELU, biases and residuals stay digital and exact. Parameters stay the
    model's own, under their names, and can be trained through the noise.

    Args:
        model: an original or a reusing variant of a family TReX knows.
        chip: static layers go onto its `static_array`, Kᵀ and V onto its `dynamic_array`.
        images: batches (B, C, H, W), prepared for the model, that set the ranges of inputs and
            converters; some dozens of images will do, and labels are not needed.
        settings: what the chip file does not say.
        mode: `fast`, statistically equivalent, or `exact`, bit by bit.
        seed: of the chip instance.

    Raises:
        ChipError: the chip file lacks what the noise needs.
        DataError: there are no images, or the model is not finite on them.
        ModelError: some part of the encoders is not understood, or the model is on a chip already.
    """
    _check_mode(mode)
    if hasattr(model, _STATE):
        raise ModelError(
            "the model is on a non-ideal chip already",
            hint="call trex.noise.remove_non_ideal first, or set_noise for another draw",
        )
    settings = settings or NoiseSettings()
    static = Physics.of(chip.static_array, settings, static=True)
    dynamic = Physics.of(chip.dynamic_array, settings, static=False)
    instance = Instance(seed=seed, mode=mode)
    changes = list(_changes(model, static, dynamic, instance))
    for change in changes:
        setattr(change.parent, change.name, change.new)
    setattr(model, _STATE, _State(instance, changes))
    try:
        _calibrate(model, images)
    except BaseException:
        remove_non_ideal(model)
        raise
    return model


def remove_non_ideal(model: nn.Module) -> nn.Module:
    """Put the plain layers back, in place, with the weights of now; a plain model stays."""
    state: _State | None = getattr(model, _STATE, None)
    if state is not None:
        for change in state.changes:
            if change.old is None:
                delattr(change.parent, change.name)
            else:
                change.old.train(change.new.training)
                setattr(change.parent, change.name, change.old)
        delattr(model, _STATE)
    return model


def set_noise(model: nn.Module, *, seed: int | None = None, mode: Mode | None = None) -> None:
    """Another chip instance (`seed`), or another mode; the calibration stays.

    The noise of reads and writes starts over: a forward after it depends on the seed, the mode
    and the batches since, and on nothing else.

    Raises:
        ModelError: the model is not on a non-ideal chip, or the mode is unknown.
    """
    state: _State | None = getattr(model, _STATE, None)
    if state is None:
        raise ModelError(
            "the model is not on a non-ideal chip",
            hint="call trex.noise.make_non_ideal first",
        )
    if mode is not None:
        _check_mode(mode)
        state.instance.mode = mode
    if seed is not None:
        state.instance.seed = seed
    state.instance.noise.reseed(state.instance.seed)


def _check_mode(mode: str) -> None:
    if mode not in MODES:
        raise ModelError(f"{mode!r} is not a mode", hint=f"choose {' or '.join(MODES)}")


def _encoders(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every encoder with its name in the model."""
    reusing = reusing_containers(model)
    adapter = reusing[0][1].adapter if reusing else adapter_of(model)
    for container in adapter.containers(model):
        for position, block in enumerate(cast(nn.Sequential, model.get_submodule(container))):
            yield f"{container}.{position}", block


def _changes(
    model: nn.Module, static: Physics, dynamic: Physics, instance: Instance
) -> Iterator[_Change]:
    index = 0

    def linear(layer: nn.Linear, matrices: int = 1) -> NonIdealLinear:
        nonlocal index
        index += 1
        return NonIdealLinear(layer, static, instance, index, matrices)

    def walk(parent: nn.Module, where: str) -> Iterator[_Change]:
        for name, child in list(parent.named_children()):
            if type(child) is Attention:
                parts: Any = child
                products = NonIdealProducts(dynamic, instance, parts.num_heads)
                qkv, proj = linear(parts.qkv, 3), linear(parts.proj)
                yield _Change(parent, name, child, NonIdealAttention(child, qkv, proj, products))
            elif isinstance(child, nn.Linear):
                yield _Change(parent, name, child, linear(child))
            elif any(True for _ in child.parameters(recurse=False)):
                if not isinstance(child, _DIGITAL):
                    raise ModelError(
                        f"{where}.{name} is a {type(child).__name__}, which a chip cannot hold",
                        hint="non-ideal accuracy knows linear layers, attention and norms",
                    )
            else:
                yield from walk(child, f"{where}.{name}")
                if isinstance(child, ReusedAttention) and hasattr(child, "v"):
                    own = NonIdealProducts(dynamic, instance, child.num_heads, own_scores=False)
                    yield _Change(child, "products", None, own)

    for where, block in _encoders(model):
        if isinstance(block, EncoderBlock | BertConsumer):
            raise ModelError(
                f"{where} is an encoder of texts, whose attention's products cannot err here",
                hint="non-ideal accuracy knows timm's attention",
            )
        yield from walk(block, where)


def _calibrate(model: nn.Module, images: Iterable[Tensor]) -> None:
    """One pass of the plain model over the images, then every layer's ranges and moments."""
    device = next(model.parameters()).device
    training = [(module, module.training) for module in model.modules()]
    seen = 0
    try:
        model.eval()
        with torch.no_grad():
            for batch in images:
                model(batch.to(device))
                seen += len(batch)
            if not seen:
                raise DataError(
                    "there are no images to calibrate the chip on", hint="give some dozens"
                )
            for module in model.modules():
                if isinstance(module, NonIdealLinear | NonIdealProduct):
                    module.calibrate()
    finally:
        for module, was in training:
            module.training = was


def non_ideal_layers(model: nn.Module) -> dict[str, NonIdealLinear | NonIdealProduct]:
    """The model's layers on crossbars, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, NonIdealLinear | NonIdealProduct)
    }


def is_non_ideal(model: nn.Module) -> bool:
    """Whether the model is on a non-ideal chip."""
    return hasattr(cast(Any, model), _STATE)
