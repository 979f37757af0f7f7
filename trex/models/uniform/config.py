"""TReX's reuse config for UniForm: a JSON file, and the running variant that it describes.

The format is TReX's own, since no file of the public UniForm code can say that one encoder reuses
another's attention. `reuse_config.schema.json` is its JSON Schema; docs/uniform.md explains it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

import timm
import torch
from pydantic import Field, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from trex.config import Document, StrictModel, read_document
from trex.errors import BundleError, PlanError, TrexError
from trex.plan import Plan, Reuse, ReusedTensor
from trex.store.tensors import state_hash

FORMAT: Final = "trex-uniform-reuse"
VERSION: Final = 1
CONFIG: Final = "reuse_config.json"

#: UniForm's maps are neither mixed nor averaged
UniformTransform = Literal["none", "linear", "block", "linear_own"]
Positive = Annotated[int, Field(ge=1)]
Side = Annotated[int, Field(ge=16, multiple_of=16)]


class ReusingEncoder(StrictModel):
    """One encoder that reuses another's attention; both are numbered over all stages."""

    encoder: Positive = Field(description="the encoder that reuses")
    source: int = Field(ge=0, description="an earlier encoder of its stage, which does not reuse")
    tensor: ReusedTensor = Field(description="its windows' maps, or its attention's output")
    transform: UniformTransform = Field(description="what stands before the encoder's projection")


class WeightsFile(StrictModel):
    """The variant's weights, beside the config."""

    file: str = Field(
        pattern=r"^[^/\\]+\.safetensors$", description="a safetensors file in the same folder"
    )
    sha256: str = Field(
        pattern="^[0-9a-f]{16}$",
        description="first 16 digits, over the tensors as trex.store.tensors.state_hash has it",
    )


class Preprocessing(StrictModel):
    """How images are resized and normalised, in timm's terms."""

    mean: tuple[float, ...] = Field(description="of every channel, of values from 0 to 1")
    std: tuple[Annotated[float, Field(gt=0)], ...] = Field(description="of every channel")
    interpolation: Literal[
        "nearest", "nearest-exact", "bilinear", "bicubic", "box", "hamming", "lanczos"
    ] = Field(description="of resizing")
    crop_pct: float = Field(gt=0, le=1, description="part of the resized image that is kept")
    crop_mode: Literal["center", "border", "squash"] = Field(description="of the crop")


class UniformReuseConfig(StrictModel):
    """A UniForm whose encoders reuse attention within their stages, as TReX builds it."""

    format: Literal["trex-uniform-reuse"] = Field(description="the name of this format")
    version: Literal[1] = Field(description="raised whenever an older reader would go wrong")
    model: Literal["uniform_t", "uniform_s", "uniform_m", "uniform_l"] = Field(
        description="the base model"
    )
    num_classes: Positive = Field(description="outputs of the classifier")
    in_chans: Positive = Field(description="channels of an image")
    img_size: tuple[Side, Side] = Field(description="height and width, multiples of 16")
    reuse: tuple[ReusingEncoder, ...] = Field(description="every other encoder is as it was")
    weights: WeightsFile
    preprocessing: Preprocessing

    @model_validator(mode="after")
    def _numbers_for_every_channel(self) -> UniformReuseConfig:
        for name in ("mean", "std"):
            if (found := len(getattr(self.preprocessing, name))) != self.in_chans:
                raise ValueError(
                    f"preprocessing.{name} has {found} numbers for {self.in_chans} channels"
                )
        return self

    @property
    def plan(self) -> Plan:
        """Who reuses whom, through what.

        Raises:
            PlanError: a source runs later or reuses itself, or an encoder is named twice.
        """
        return Plan(tuple(Reuse(r.encoder, r.source, r.tensor, r.transform) for r in self.reuse))


def read_config(path: str | Path) -> UniformReuseConfig:
    """A reuse config, from its file or the folder it lies in.

    Raises:
        BundleError: it is missing, of another format or a newer version, or not valid.
    """
    return _validated(read_document(_file(Path(path)), BundleError))


def from_config(path: str | Path) -> nn.Module:
    """The variant a reuse config describes, with its weights, in evaluation mode.

    Args:
        path: the config's file, or the folder it lies in.

    Raises:
        BundleError: the config is not valid or does not fit the model, or the weights are
            missing, damaged or of another variant.
    """
    file = _file(Path(path))
    document = read_document(file, BundleError)
    config = _validated(document)
    state = _weights(file.parent / config.weights.file)
    if state_hash(state) != config.weights.sha256:
        raise BundleError(
            f"{file.parent / config.weights.file} does not hold the weights {file.name} names",
            hint="export the variant again",
        )
    try:
        odd = first_misfit(config, state)
    except PlanError as error:
        raise document.problem(("reuse",), error.message, error.hint) from error
    except TrexError as error:
        raise document.problem((), error.message, error.hint) from error
    if odd is not None:
        raise BundleError(
            f"{file.parent / config.weights.file} holds weights of another variant than "
            f"{file.name} describes; first difference: {odd}",
            hint="model, sizes and reuse must be those the weights were exported with",
        )
    model = _build(config)
    model.load_state_dict(state)
    return model.eval()


def first_misfit(config: UniformReuseConfig, state: Mapping[str, Tensor]) -> str | None:
    """The first name that weights and the variant a config describes do not share in its shape.

    Raises:
        PlanError: the reuse does not fit the model.
        ModelError: the sizes do not make one.
    """
    with torch.device("meta"):
        model = _build(config)
    expected = {name: value.shape for name, value in model.state_dict().items()}
    found = {name: value.shape for name, value in state.items()}
    names = sorted(expected.keys() | found.keys())
    return next((name for name in names if expected.get(name) != found.get(name)), None)


def _build(config: UniformReuseConfig) -> nn.Module:
    # trex.reuse builds on all models, this one included
    from trex.reuse import apply_plan

    model: nn.Module = timm.create_model(
        config.model,
        num_classes=config.num_classes,
        in_chans=config.in_chans,
        img_size=config.img_size,
    )
    return apply_plan(model, config.plan, keep_originals=False)


def _file(path: Path) -> Path:
    return path / CONFIG if path.is_dir() else path


def _validated(document: Document) -> UniformReuseConfig:
    if document.data.get("format") != FORMAT:
        raise document.problem(
            ("format",), f"is not {FORMAT!r}", "give what `trex export --format uniform` wrote"
        )
    version = document.data.get("version")
    if isinstance(version, int) and version > VERSION:
        raise document.problem(
            ("version",),
            f"is {version}, this TReX reads up to {VERSION}",
            "use the version of TReX that wrote it",
        )
    config = document.validate(UniformReuseConfig)
    try:
        _ = config.plan
    except PlanError as error:
        raise document.problem(("reuse",), error.message, error.hint) from error
    return config


def _weights(file: Path) -> dict[str, Tensor]:
    try:
        return dict(load_file(file))
    except FileNotFoundError:
        raise BundleError(f"{file} is missing", hint="it belongs beside the config") from None
    except (OSError, SafetensorError) as error:
        raise BundleError(f"{file} cannot be read: {error}", hint="export it again") from None
