"""Dynamic bundles: a folder with one model and several plans, its weights once.

dynamic.json          the base model, the plans with what they cost, the preprocessing
model.safetensors     the base's parameters, and what every plan has beside them, in half
                      precision unless told otherwise; equal tensors of several plans once
tokenizer.json        of a text model
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from trex.errors import BundleError, TrexError
from trex.exporters.bundle import CONFIG, DYNAMIC, WEIGHTS, load_bundle
from trex.files import make_folder, parse_json, write_atomic
from trex.models.registry import create
from trex.models.weights import weights_hash
from trex.runtime.dynamic import BASE, PLAN, DynamicModel, Point, own_tensors
from trex.store.fields import Amount, Fields, Positive, Text, read_fields
from trex.store.schemas import ModelArguments
from trex.store.tensors import state_hash
from trex.text.config import TextConfig
from trex.text.tokenizer import FILE as TOKENIZER
from trex.training.transforms import InputConfig, input_config_from_json
from trex.versions import VERSION

SCHEMA: Final = 1
_HINT: Final = "write it again with `trex dynamic`"
#: what decides how the bundle runs; the fingerprint changes with any of it
_RUNNING: Final = ("model", "model_args", "plans", "weights_sha256", "data")


class _PriceFields(Fields):
    latency_s: Positive


class _PartFields(Fields):
    latency_s: list[Amount]
    energy_j: list[Amount] | None = None


class _PlanFields(Fields):
    name: Annotated[str, Field(min_length=1, max_length=200)]
    plan: Text
    estimate: _PriceFields
    parts: _PartFields
    measured: dict[str, Any] | None = None
    #: a tensor's name in the variant -> in the file
    tensors: dict[str, Text]


class _DynamicFields(Fields):
    model: Text
    model_args: ModelArguments
    baseline: _PriceFields
    plans: Annotated[list[_PlanFields], Field(min_length=1)]
    base_weights_sha256: Text
    weights_sha256: Text
    data: dict[str, Any]
    fingerprint: Text


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """What a dynamic bundle is made of.

    Attributes:
        name: the base model's, as `trex.models.registry.create` takes it.
        arguments: what else builds it.
        base: the original, or the weights that a shared training left.
        base_weights_sha256: of the original.
        data_config: the preprocessing.
        baseline: what the original costs.
        variants: every plan with a model that runs it.
    """

    name: str
    arguments: dict[str, Any]
    base: nn.Module
    base_weights_sha256: str
    data_config: InputConfig
    baseline: dict[str, Any]
    variants: Sequence[tuple[Point, nn.Module]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """Bytes of a bundle's tensors.

    Attributes:
        base: of the base's parameters.
        plans: of every plan's own tensors, by name; one that several share counts to the first.
    """

    base: int
    plans: dict[str, int]

    @property
    def total(self) -> int:
        """All of them."""
        return self.base + sum(self.plans.values())


def save_dynamic(
    folder: Path,
    contents: Contents,
    *,
    half: bool = True,
    extra: Mapping[str, Any] | None = None,
) -> Sizes:
    """Write a dynamic bundle, and say what it takes.

    Args:
        folder: is created; files of an earlier dynamic bundle in it are replaced.
        contents: what goes into it.
        half: whether plans' own tensors are kept in fp16; a tensor that fp16 cannot hold stays.
        extra: anything that should travel along.

    Raises:
        PlanError: a variant is not of this base.
        BundleError: two plans share a name, or the folder holds a plain bundle.
        StorageError: it cannot be written.
    """
    names = [point.name for point, _ in contents.variants]
    if len(set(names)) < len(names):
        raise BundleError("two plans share a name", hint="give every plan a name of its own")
    if (folder / CONFIG).exists():
        raise BundleError(f"{folder} holds a plain bundle", hint="choose another folder")
    state = {BASE + n: t.detach().cpu() for n, t in contents.base.state_dict().items()}
    base_bytes = sum(map(_bytes, state.values()))
    known: dict[str, str] = {}
    listed, sizes = [], {}
    for point, variant in contents.variants:
        places: dict[str, str] = {}
        sizes[point.name] = 0
        for name, value in own_tensors(contents.base, point.plan, variant).items():
            value = _packed(value.cpu().contiguous(), half)
            content = state_hash({"": value})
            if content not in known:
                known[content] = f"{PLAN}{point.name}.{name}"
                state[known[content]] = value
                sizes[point.name] += _bytes(value)
            places[name] = known[content]
        listed.append({**asdict(point), "tensors": places})
    state = {name: value.contiguous() for name, value in state.items()}
    config = {
        "schema": SCHEMA,
        "trex_version": VERSION,
        "model": contents.name,
        "model_args": contents.arguments,
        "baseline": contents.baseline,
        "plans": listed,
        "base_weights_sha256": contents.base_weights_sha256,
        "weights_sha256": state_hash(state),
        "data": asdict(contents.data_config),
        **(extra or {}),
    }
    config["fingerprint"] = _fingerprint(config)
    make_folder(folder)
    if isinstance(contents.data_config, TextConfig):
        write_atomic(folder / TOKENIZER, contents.data_config.load().to_str().encode())
    write_atomic(folder / WEIGHTS, save(state))
    write_atomic(folder / DYNAMIC, json.dumps(config, indent=2) + "\n")
    return Sizes(base=base_bytes, plans=sizes)


def is_dynamic(folder: Path) -> bool:
    """Whether a folder holds a dynamic bundle."""
    return (folder / DYNAMIC).is_file()


def load_dynamic_config(folder: Path) -> dict[str, Any]:
    """A dynamic bundle's configuration.

    Raises:
        BundleError: it is missing, damaged, of another version, or the bundle is a plain one.
    """
    file = folder / DYNAMIC
    try:
        config = parse_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        plain = (folder / CONFIG).is_file()
        raise BundleError(
            f"{folder} is a plain bundle, of one plan"
            if plain
            else f"{folder} is not a dynamic bundle: it has no {DYNAMIC}",
            hint="load it with trex.load; `trex dynamic` makes bundles of several plans of a run",
        ) from None
    except (OSError, ValueError) as error:
        raise BundleError(f"{file} cannot be read: {error}", hint=_HINT) from None
    if not isinstance(config, dict) or config.get("schema") != SCHEMA:
        found = config.get("schema") if isinstance(config, dict) else None
        raise BundleError(
            f"{file} is of schema {found}, this TReX reads {SCHEMA}",
            hint="use the version of TReX that wrote it",
        )
    read_fields(_DynamicFields, config, file, BundleError, _HINT)
    if config["fingerprint"] != _fingerprint(config):
        raise BundleError(
            f"{file} was changed after it was written",
            hint=f"{_HINT}; {', '.join(_RUNNING)} belong together",
        )
    return config


def load_dynamic(folder: str | Path) -> DynamicModel:
    """The model of a dynamic bundle, in evaluation mode; its dearest plan is active.

    Raises:
        BundleError: the bundle is incomplete or damaged, or a plain one.
    """
    folder = Path(folder)
    config = load_dynamic_config(folder)
    state = _read(folder / WEIGHTS)
    if state_hash(state) != config["weights_sha256"]:
        raise BundleError(
            f"{folder / WEIGHTS} is not the file that belongs to {DYNAMIC}", hint=_HINT
        )
    own = {name.removeprefix(BASE): t for name, t in state.items() if name.startswith(BASE)}
    try:
        base = create(config["model"], **config["model_args"])
        expected = {name: tensor.shape for name, tensor in base.state_dict().items()}
        if expected != {name: tensor.shape for name, tensor in own.items()}:
            raise BundleError(f"{folder / WEIGHTS} does not hold this model's weights", hint=_HINT)
        base.load_state_dict(own)
        extras = {
            listed["name"]: {name: state[place] for name, place in listed["tensors"].items()}
            for listed in config["plans"]
        }
        model = DynamicModel(base, points_of(config), extras, config["baseline"])
    except KeyError as error:
        raise BundleError(f"{folder / WEIGHTS} has no tensor {error}", hint=_HINT) from None
    except BundleError:
        raise
    except TrexError as error:
        raise BundleError(f"{folder / DYNAMIC}: {error.message}", hint=_HINT) from error
    return model.eval()


def points_of(config: Mapping[str, Any]) -> list[Point]:
    """A dynamic bundle's plans."""
    fields = tuple(Point.__slots__)
    return [
        Point(**{name: listed[name] for name in fields if name in listed})
        for listed in config["plans"]
    ]


def load(folder: str | Path, base: nn.Module | None = None) -> nn.Module:
    """What a bundle holds, running: a variant, or of a dynamic bundle a `DynamicModel`.

    Args:
        folder: what `trex search`, `trex export`, `trex finetune` or `trex dynamic` wrote.
        base: of a plain bundle, turn this original into the variant instead of building one.

    Raises:
        BundleError: the bundle is incomplete or damaged, or `base` is not its original, or is
            given for a dynamic bundle.
    """
    if not is_dynamic(Path(folder)):
        return load_bundle(folder, base)
    if base is not None:
        raise BundleError(
            f"{folder} is a dynamic bundle, which holds its base", hint="leave base out"
        )
    return load_dynamic(folder)


def contents_of(folder: Path, model: DynamicModel) -> Contents:
    """What a loaded dynamic bundle is made of, to write it again.

    Raises:
        BundleError: as `load_dynamic_config`.
    """
    config = load_dynamic_config(folder)
    return Contents(
        name=config["model"],
        arguments=config["model_args"],
        base=model.base,
        base_weights_sha256=config["base_weights_sha256"],
        data_config=input_config_from_json(config["data"]),
        baseline=config["baseline"],
        variants=[(point, model.variant(point.name)) for point in model.points],
    )


def is_original(config: Mapping[str, Any], model: DynamicModel) -> bool:
    """Whether a bundle's base is the original, and no training has changed it."""
    return weights_hash(model.base) == str(config["base_weights_sha256"])


def _packed(value: Tensor, half: bool) -> Tensor:
    """In fp16 where that was asked for and holds every value."""
    if not half or value.dtype not in (torch.float32, torch.float64):
        return value
    packed = value.half()
    return packed if bool(packed.isfinite().all()) else value


def _bytes(value: Tensor) -> int:
    return value.numel() * value.element_size()


def _fingerprint(config: Mapping[str, Any]) -> str:
    text = json.dumps([config[name] for name in _RUNNING], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read(file: Path) -> dict[str, Tensor]:
    try:
        return dict(load_file(file))
    except FileNotFoundError:
        raise BundleError(f"{file.parent} has no {file.name}", hint=_HINT) from None
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        raise BundleError(f"{file} cannot be read: {error}", hint=_HINT) from None
