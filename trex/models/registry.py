"""From a model's name to the model, its adapter, its architecture and its weights."""

from __future__ import annotations

import contextlib
import difflib
import re
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, cast

import timm
import torch
from torch import nn

from trex.architecture import Architecture
from trex.errors import ModelError, WeightsError
from trex.models.adapter import Adapter, PlannedEncoders
from trex.models.bert.adapter import BertAdapter
from trex.models.bert.model import TextClassifier, config_values
from trex.models.bert.names import create_text_model, is_text_model, text_models, weights_in
from trex.models.lvvit.adapter import LvvitAdapter
from trex.models.metaformer import MetaformerAdapter
from trex.models.naflex import NaflexAdapter
from trex.models.objects import is_object, no_name_builds
from trex.models.pit import PitAdapter
from trex.models.placed import BeitAdapter, EvaAdapter, RelPosAdapter
from trex.models.shvit import ShvitAdapter
from trex.models.swin import SwinAdapter
from trex.models.towers import TowerAdapter
from trex.models.trace import trace_architecture
from trex.models.uniform.adapter import UniformAdapter
from trex.models.vit import VitAdapter
from trex.models.vlm import DeepseekAdapter, QwenAdapter
from trex.models.volo import VoloAdapter
from trex.models.weights import KeyReport, load_weights, weights_hash

_ADAPTERS: Final[tuple[Adapter, ...]] = (
    VitAdapter(),
    NaflexAdapter(),
    EvaAdapter(),
    QwenAdapter(),
    DeepseekAdapter(),
    BeitAdapter(),
    RelPosAdapter(),
    LvvitAdapter(),
    UniformAdapter(),
    ShvitAdapter(),
    SwinAdapter(),
    MetaformerAdapter(),
    PitAdapter(),
    VoloAdapter(),
    BertAdapter(),
    TowerAdapter(),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedModel:
    """A model ready to use, and where its weights came from."""

    name: str
    #: what `create` was given beside the name
    arguments: dict[str, Any]
    model: nn.Module
    adapter: Adapter
    #: the file's path, "hub", "random", or the name that a run folder keeps them under
    weights_source: str
    #: of the weights in memory, whatever file they came from
    weights_sha256: str
    report: KeyReport | None

    def own_base(self) -> nn.Module | None:
        """A copy for bundles to be loaded into, where no name builds the model; else None."""
        return deepcopy(self.model) if is_object(self.name) else None


def create(
    name: str,
    *,
    num_classes: int | None = None,
    img_size: int | None = None,
    tokens: int | None = None,
    config: dict[str, Any] | None = None,
    pretrained: bool = False,
    device: Literal["cpu", "meta"] = "cpu",
) -> nn.Module:
    """A model by name, in evaluation mode: timm's, or a text classifier of `transformers`.

    Args:
        name: timm's name; for texts `bert_base_uncased` and its like, a folder that
            `save_pretrained` wrote, or `transformers/ORGANISATION/NAME`.
        num_classes: of the head; None takes the model's own, 0 leaves it out.
        img_size: of images, in pixels a side.
        tokens: of texts.
        config: of a text model, as `transformers` has it; the name is then only a name.
        pretrained: with the hub's weights.
        device: `meta` saves the memory where nobody needs values.

    Raises:
        ModelError: nobody knows the name, it is of a caller's own model, or the model cannot be
            built with these arguments.
        WeightsError: pretrained weights cannot be had.
    """
    if is_object(name):
        raise no_name_builds(name)
    if config is not None or is_text_model(name):
        if img_size is not None:
            raise ModelError(f"{name} reads texts", hint="give --tokens in place of --img-size")
        return create_text_model(
            name,
            num_classes=num_classes,
            tokens=tokens,
            config=config,
            pretrained=pretrained,
            device=device,
        )
    if tokens is not None:
        raise ModelError(f"{name} is no text model", hint="leave --tokens out")
    base = full_name(name)
    if not timm.is_model(base):
        known = [*timm.list_models(), *text_models()]
        near = difflib.get_close_matches(base.split(".")[0], known, n=3, cutoff=0.5)
        raise ModelError(
            f"no model is called {name!r}",
            hint=f"did you mean {' or '.join(near)}?"
            if near
            else "timm.list_models() lists names",
        )
    arguments: dict[str, Any] = {}
    if num_classes is not None and num_classes < 0:
        raise ModelError(
            f"{name} cannot have {num_classes} classes",
            hint="give at least 1, or 0 for its features alone",
        )
    if img_size is not None and img_size < 1:  # timm's oldest versions build such models
        raise ModelError(f"{name} cannot take images of {img_size} pixels", hint="give at least 1")
    if num_classes is not None:
        arguments["num_classes"] = num_classes
    if img_size is not None:
        arguments["img_size"] = img_size
    if pretrained:
        return _pretrained(base, arguments).eval()
    try:
        return _build(base, arguments, device).eval()
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise ModelError(
            f"timm cannot build {name} with {arguments}: {error}", hint="check size and classes"
        ) from error


def full_name(name: str) -> str:
    """Timm's name of a model that was called by its beginning: `deit_tiny_patch16_224`.

    Of `deit_tiny`, that is: by all that comes before patch and image sizes. Other names, timm's
    own among them, come back as they are, but for a `timm/` in front.

    Raises:
        ModelError: several models begin like that, and differ in patch or image size.
    """
    base = name.removeprefix("timm/")
    if not base or timm.is_model(base):
        return base
    sized = re.compile(re.escape(base) + r"(_patch\d+)?_\d+")
    fitting = [known for known in timm.list_models() if sized.fullmatch(known)]
    if len(fitting) > 1:
        raise ModelError(
            f"{len(fitting)} models are called {name!r} and a size",
            hint=f"choose {' or '.join(fitting[:6])}{', …' if len(fitting) > 6 else ''}",
        )
    return fitting[0] if fitting else base


def _build(name: str, arguments: dict[str, Any], device: str) -> nn.Module:
    if device == "meta":
        # Without memory where timm can; its oldest versions read values while they build.
        with contextlib.suppress(RuntimeError, NotImplementedError), torch.device("meta"):
            return build(name, arguments, pretrained=False)
    return build(name, arguments, pretrained=False).to(device)


def build(name: str, arguments: dict[str, Any], *, pretrained: bool = False) -> nn.Module:
    """Timm's model, told which size of images it will see; some are built for none."""
    make = partial(timm.create_model, name, pretrained=pretrained)
    if "img_size" not in arguments:
        return cast(nn.Module, make(**arguments))
    size, known = arguments["img_size"], timm.get_pretrained_cfg(name)
    height, width = (size, size) if isinstance(size, int) else size
    channels = known.input_size[0] if known else 3
    make = partial(make, pretrained_cfg_overlay={"input_size": (channels, height, width)})
    try:
        return cast(nn.Module, make(**arguments))
    except TypeError as error:
        if "'img_size'" not in str(error):
            raise
    others = {key: value for key, value in arguments.items() if key != "img_size"}
    return cast(nn.Module, make(**others))


def _pretrained(name: str, arguments: dict[str, Any]) -> nn.Module:
    try:
        return build(name, arguments, pretrained=True)
    except Exception as error:  # hub clients raise errors of many libraries
        raise WeightsError(
            f"the pretrained weights of {name} cannot be had: {type(error).__name__}: {error}",
            hint="check the network, or give a local file with --weights",
        ) from error


def load(
    name: str,
    *,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    img_size: int | None = None,
    tokens: int | None = None,
    config: dict[str, Any] | None = None,
) -> LoadedModel:
    """A model with weights: of a local file, or the hub's where `weights` is None.

    A folder of `transformers` holds its weights: as a name it needs no others.

    Raises:
        ModelError: the name is unknown, or TReX does not understand some part of the model.
        WeightsError: the file or the hub's weights cannot be loaded completely.
    """
    if config is None and not is_text_model(name):
        name = full_name(name)
    folder = Path(name if weights is None else weights)
    if is_text_model(str(folder)) and folder.is_dir():
        weights = weights_in(folder)
    model = create(
        name,
        num_classes=num_classes,
        img_size=img_size,
        tokens=tokens,
        config=config,
        pretrained=weights is None,
    )
    adapter = adapter_of(model, name)
    report = None if weights is None else load_weights(model, Path(weights), model_name=name)
    arguments: dict[str, Any] = {"num_classes": num_classes, "img_size": img_size}
    if isinstance(model, TextClassifier):
        # enough to build it where neither folder nor hub can be reached
        arguments = {
            "num_classes": model.num_classes,
            "tokens": model.tokens,
            "config": config_values(model),
        }
    return LoadedModel(
        name=name,
        arguments=arguments,
        model=model,
        adapter=adapter,
        weights_source="hub" if weights is None else str(Path(weights).absolute()),
        weights_sha256=weights_hash(model),
        report=report,
    )


def adapter_of(model: nn.Module, name: str = "") -> Adapter:
    """The adapter of the model's family, after it has looked at every part of the model.

    Raises:
        ModelError: no family is responsible, or some part is not understood.
    """
    name = name or type(model).__name__
    _refuse_variants(model, name)
    for adapter in _ADAPTERS:
        if adapter.owns(model):
            adapter.check(model, name)
            return adapter
    raise ModelError(
        f"{name} is a {type(model).__name__}, a family in which TReX cannot reuse attention",
        hint="supported: " + "; ".join(a.family for a in _ADAPTERS),
    )


def architecture(
    name: str,
    *,
    num_classes: int | None = None,
    img_size: int | None = None,
    tokens: int | None = None,
) -> Architecture:
    """What the model computes, without its weights; any timm model, reuse or not, or a text model.

    Raises:
        ModelError: the name is unknown, or the model cannot be run on its input size.
    """
    return architecture_of(
        create(name, num_classes=num_classes, img_size=img_size, tokens=tokens, device="meta"),
        name,
    )


def architecture_of(model: nn.Module, name: str) -> Architecture:
    """The same, of a model that exists; without encoders where TReX does not understand its own.

    Raises:
        ModelError: it is a variant that reuses already, or cannot be run on its input size.
    """
    _refuse_variants(model, name)
    try:
        adapter = adapter_of(model, name)
    except ModelError:
        if isinstance(model, TextClassifier):  # only image models can be traced
            raise
        size = timm.data.resolve_model_data_config(model)["input_size"]
        return trace_architecture(model, size, name)
    return adapter.architecture(model, name)


def _refuse_variants(model: nn.Module, name: str) -> None:
    if any(isinstance(module, PlannedEncoders) for module in model.modules()):
        raise ModelError(
            f"{name} runs a plan already",
            hint="give the original, or undo the plan with trex.remove_plan",
        )
