"""The model a caller gives: a name, or an object with weights of its own."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trex.api.factories import is_factory, made_by, stored_name
from trex.architecture import Architecture
from trex.errors import DataError, ModelError, RunError, TrexError, WeightsError
from trex.models.adapter import Adapter
from trex.models.answers import first_tensor
from trex.models.bert import TextClassifier
from trex.models.bert.model import config_values
from trex.models.objects import OBJECT, copy_of, is_object, unwrapped
from trex.models.registry import (
    LoadedModel,
    adapter_of,
    architecture,
    architecture_of,
    create,
    load,
)
from trex.models.towers import known
from trex.models.weights import weights_hash
from trex.plan import Plan
from trex.reuse.route import Route, run_model
from trex.store.run import ORIGINAL, Run
from trex.text.config import TextConfig
from trex.training.transforms import DataConfig, InputConfig

#: what a caller may give as a model
Model = str | nn.Module


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelOptions:
    """What is said of a model beside its name; of an object only how it wants its input.

    Attributes:
        weights: a local file; None takes the hub's.
        num_classes: of the head.
        img_size: in pixels a side.
        tokens: of a text model's texts.
        tokenizer: of a text model; None takes the model's.
        mean: of the channels; None takes the model's.
        std: of the channels; None takes the model's.
    """

    weights: str | Path | None = None
    num_classes: int | None = None
    img_size: int | None = None
    tokens: int | None = None
    tokenizer: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @property
    def sizes(self) -> dict[str, Any]:
        """What builds a model beside its name."""
        return {
            "num_classes": self.num_classes,
            "img_size": self.img_size,
            "tokens": self.tokens,
        }

    def refuse(self) -> None:
        """Refuse what an object says itself.

        Raises:
            ModelError: it was given.
        """
        given = {"weights": self.weights, **self.sizes}
        for name, value in given.items():
            if value is not None:
                raise ModelError(
                    f"{name} is given beside a model object, which has its own",
                    hint="leave it out, or give the model's name",
                )


def load_model(model: Model, options: ModelOptions) -> LoadedModel:
    """The original with its weights; an object is copied, and stays as it is.

    A name may be a factory's, `package.module:factory`.

    Raises:
        TrexError: it cannot be had, or some part of it is not understood.
    """
    if isinstance(model, str):
        if is_factory(model):
            made = made_by(model, options.sizes, options.weights)
            return _adopt(made, model, options.sizes)
        return load(model, weights=options.weights, **options.sizes)
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"a {type(model).__name__} is no model", hint="give a name, or a torch.nn.Module"
        )
    options.refuse()
    return _adopt(model)


def architecture_given(model: Model, options: ModelOptions) -> Architecture:
    """What a model computes, without its weights where it has a name.

    Raises:
        ModelError: the name is unknown, or the model cannot be run on its input size.
    """
    if isinstance(model, str) and not is_factory(model):
        return architecture(model, **options.sizes)
    return architecture_of(structure_given(model, options), name_shown(model))


def structure_given(model: Model, options: ModelOptions) -> nn.Module:
    """The model, or one of its name without weights; what prices are made of.

    Raises:
        ModelError: the name is unknown.
    """
    if not isinstance(model, str):
        options.refuse()
        return known(unwrapped(model))
    if is_factory(model):
        return made_by(model, options.sizes)
    return create(model, device="meta", **options.sizes)


def name_shown(model: Model) -> str:
    """What tables call a model that is only priced."""
    if isinstance(model, str):
        return model
    inner = unwrapped(model)
    cfg: Any = getattr(inner, "pretrained_cfg", None) or {}
    return str(cfg.get("architecture") or type(inner).__name__)


def data_config(loaded: LoadedModel, options: ModelOptions) -> InputConfig:
    """The model's preprocessing with the caller's own numbers, or its tokeniser.

    Raises:
        DataError: a number does not fit, the tokeniser cannot be had, or what was given is for
            the other kind of model.
    """
    if isinstance(loaded.model, TextClassifier):
        if options.mean is not None or options.std is not None:
            raise DataError(
                f"{loaded.name} reads texts, which have no channels",
                hint="leave --mean and --std out",
            )
        return TextConfig.of_model(loaded.model, options.tokenizer)
    if options.tokenizer is not None:
        raise DataError(f"{loaded.name} reads images", hint="leave --tokenizer out")
    return DataConfig.of_model(loaded.model, mean=options.mean, std=options.std)


def classes_of(model: nn.Module) -> int | None:
    """Classes of a model's head, where it has one and says so."""
    classes: int | None = getattr(model, "num_classes", None)
    return classes or None


def original_of_run(run: Run, model: nn.Module) -> LoadedModel:
    """The object that a run was made with, as the run calls it.

    Raises:
        WeightsError: it holds other weights.
        RunError: it is another model.
    """
    settings = run.manifest().settings
    found = _adopt(model)
    if found.weights_sha256 != settings.weights_sha256:
        raise WeightsError(
            f"the {type(model).__name__} holds other weights than {run.path} was made with",
            hint=f"load {run.path / ORIGINAL} into it: the run keeps the original's weights there"
            if (run.path / ORIGINAL).exists()
            else f"give the model of hash {settings.weights_sha256}",
        )
    if found.name != settings.model and not is_object(found.name):
        raise RunError(
            f"the model given is {found.name}, {run.path} was made with {settings.model}",
            hint="give the model that the run was made with",
        )
    return LoadedModel(
        name=settings.model,
        arguments=settings.model_args.as_json(),
        model=found.model,
        adapter=found.adapter,
        weights_source=found.weights_source,
        weights_sha256=found.weights_sha256,
        report=None,
    )


def _adopt(
    given: nn.Module, factory: str | None = None, sizes: dict[str, Any] | None = None
) -> LoadedModel:
    """An object, copied and checked.

    Args:
        given: the object.
        factory: what made it, where the caller named that.
        sizes: that it was made with.

    Raises:
        ModelError: no adapter fits, or the adapter's steps do not answer like the model.
    """
    model = known(copy_of(given))
    shown = name_shown(given)
    adapter = adapter_of(model, shown)
    inputs = _inputs_for(model)
    _check_steps(model, adapter, inputs, shown)
    if isinstance(model, TextClassifier):
        name: str = model.config.model_type
        arguments: dict[str, Any] = {
            "num_classes": model.num_classes,
            "tokens": model.tokens,
            "config": config_values(model),
        }
    else:
        name, arguments = name_of(model, inputs)
        if factory is not None and is_object(name):
            given_sizes = {key: value for key, value in (sizes or {}).items() if value is not None}
            name, arguments = stored_name(factory), given_sizes
    return LoadedModel(
        name=name,
        arguments=arguments,
        model=model,
        adapter=adapter,
        weights_source=ORIGINAL,
        weights_sha256=weights_hash(model),
        report=None,
    )


def _inputs_for(model: nn.Module) -> Tensor:
    """Two inputs of noise, or of words."""
    generator = torch.Generator().manual_seed(0)
    if isinstance(model, TextClassifier):
        ids = torch.randint(5, model.config.vocab_size, (2, model.tokens), generator=generator)
        return torch.stack((ids, torch.ones_like(ids)), dim=-2)
    return torch.randn(2, *DataConfig.of_model(model).input_size, generator=generator)


def _check_steps(model: nn.Module, adapter: Adapter, inputs: Tensor, name: str) -> None:
    """See that the adapter's way through the model is the model's own.

    Raises:
        ModelError: it is not.
    """
    route = Route.of(Plan(), adapter.layout(model))
    try:
        with torch.no_grad():
            own = first_tensor(model(inputs))
            _, logits = run_model(deepcopy(model), adapter, route, inputs)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{name} cannot be run on {tuple(inputs.shape)}: {reason}",
            hint="give a model that takes images of the size it says",
        ) from error
    if logits.shape != own.shape or not torch.allclose(
        logits, own, rtol=1e-3, atol=1e-4 * float(own.abs().max())
    ):
        raise ModelError(
            f"{name} computes otherwise than a {adapter.family} of its parts",
            hint="a forward or hooks that do more than the class's own cannot be planned",
        )


def same_answers(first: nn.Module, second: nn.Module, inputs: Tensor) -> bool:
    """Whether two models, or a model and one built by name, answer alike but for rounding."""
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
    return f"{OBJECT}{getattr(model, 'made_from', type(model).__name__)}", {}


def _shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state.items()}
