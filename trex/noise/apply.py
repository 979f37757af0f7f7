"""Putting a model's encoders on a non-ideal chip, and taking them back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from timm.models.vision_transformer import LayerScale  # its own in timm's oldest versions
from torch import Tensor, nn

from trex.errors import DataError, ModelError
from trex.hardware.chip import Chip
from trex.models.adapter import Adapter
from trex.models.attention import ReusedAttention
from trex.models.registry import adapter_of
from trex.noise.attention import NonIdealProduct, NonIdealProducts
from trex.noise.linear import Instance, NonIdealLinear
from trex.noise.physics import MODES, Mode, NoiseSettings, Physics
from trex.reuse.apply import planned_containers
from trex.reuse.route import encoders_of

_STATE = "_non_ideal"
#: what has parameters and stays exact; of a consumer's attention itself, its heads' weights
_DIGITAL = (nn.LayerNorm, LayerScale, ReusedAttention)


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
    #: in the order in which they were made
    changes: list[_Change] = field(default_factory=list)

    def change(self, block: nn.Module, path: str, new: nn.Module) -> None:
        """Replace or add what `block` has at `path`."""
        where, _, name = path.rpartition(".")
        parent = block.get_submodule(where)
        self.changes.append(_Change(parent, name, getattr(parent, name, None), new))
        setattr(parent, name, new)


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
    norms, softmax, GELU, biases and residuals stay digital and exact, and so do average maps, what
    is mixed into them and the scores of class rows of its own. Parameters stay the
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
    planned = planned_containers(model)
    adapter = planned[0][1].adapter if planned else adapter_of(model)
    encoders = list(encoders_of(model, adapter))
    for where, block in encoders:
        _check_encoder(adapter, where, block)
    state = _State(Instance(seed=seed, mode=mode))
    setattr(model, _STATE, state)
    try:
        for _, block in encoders:
            _replace_products(state, adapter, block, dynamic)
            _replace_linears(state, adapter, block, static)
        _calibrate(model, images)
    except BaseException:
        remove_non_ideal(model)
        raise
    return model


def remove_non_ideal(model: nn.Module) -> nn.Module:
    """Put the plain layers back, in place, with the weights of now; a plain model stays."""
    state: _State | None = getattr(model, _STATE, None)
    if state is not None:
        for change in reversed(state.changes):
            if change.old is None:
                delattr(change.parent, change.name)
            else:
                change.old.training = change.new.training
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


def _check_encoder(adapter: Adapter, where: str, block: nn.Module) -> None:
    """See that everything with parameters goes onto arrays, or is one of `_DIGITAL`.

    Raises:
        ModelError: something does not.
    """
    if adapter.no_products:
        raise ModelError(
            f"{where} is {adapter.no_products}, whose attention's products cannot err here",
            hint="non-ideal accuracy knows timm's attention",
        )
    on_arrays = {linear.path for linear in adapter.linears(block)}
    for path, part in block.named_modules():
        known = nn.Linear if path in on_arrays else _DIGITAL
        if any(True for _ in part.parameters(recurse=False)) and not isinstance(part, known):
            raise ModelError(
                f"{where}.{path} is a {type(part).__name__}, which a chip cannot hold",
                hint="non-ideal accuracy knows linear layers, attention and norms",
            )


def _replace_products(state: _State, adapter: Adapter, block: nn.Module, dynamic: Physics) -> None:
    """Before the linear layers, which an attention's stand-in shares with it."""
    at = adapter.products(block)
    if at is None:
        return
    products = NonIdealProducts(dynamic, state.instance, at.heads, own_scores="scores" in at.parts)
    if at.stepwise is not block.get_submodule(at.path):
        state.change(block, at.path, at.stepwise)
    state.change(block, f"{at.path}.products", products)


def _replace_linears(state: _State, adapter: Adapter, block: nn.Module, static: Physics) -> None:
    for path, parts in adapter.linears(block):
        layer = cast(nn.Linear, block.get_submodule(path))
        index = 1 + sum(isinstance(change.new, NonIdealLinear) for change in state.changes)
        new = NonIdealLinear(layer, static, state.instance, index, len(parts))
        state.change(block, path, new)


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
