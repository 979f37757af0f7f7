"""From a picture to a model's input: the model's own preprocessing, and views for fitting."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, cast

import timm.data
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from timm.data.transforms import str_to_interp_mode
from torch import Tensor, nn
from torchvision import transforms

from trex.errors import DataError
from trex.store.fields import read_fields
from trex.text.config import TextConfig, TextTransform

#: Share of a picture's area that a fitting view shows at least.
VIEW_SCALE: Final = (0.35, 1.0)
#: Least and most share of a view's area that a second picture covers.
PASTED_SHARE: Final = (0.25, 0.75)

#: from what a source reads, a picture or a text, to a model's input
Transform = Callable[[Any], Tensor]


_Side = Annotated[int, Field(ge=1, le=100_000)]


class _Stored(BaseModel):
    """A `DataConfig` in a file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    input_size: Annotated[list[_Side] | tuple[_Side, ...], Field(min_length=3, max_length=3)]
    mean: Annotated[list[float] | tuple[float, ...], Field(min_length=1)]
    std: Annotated[list[float] | tuple[float, ...], Field(min_length=1)]
    interpolation: Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos", "random"]
    crop_pct: Annotated[float, Field(gt=0.0, le=10.0)]
    crop_mode: Literal["center", "border", "squash"]


class _StoredText(BaseModel):
    """A `TextConfig` in a file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    tokens: Annotated[int, Field(ge=1, le=1_000_000)]
    tokenizer: str
    tokenizer_sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """How a model wants its images.

    Attributes:
        input_size: channels, height and width.
        mean: of every channel, subtracted from values between 0 and 1.
        std: of every channel, the difference is divided by it.
        interpolation: of resizing: bicubic, bilinear, ...
        crop_pct: the part of the resized picture that is kept.
        crop_mode: center, border or squash, as timm has them.
    """

    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float
    crop_mode: str

    def __post_init__(self) -> None:
        channels = self.input_size[0]
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != channels or not all(map(math.isfinite, values)):
                raise DataError(
                    f"--{name} {' '.join(map(str, values))} is not {channels} numbers",
                    hint=f"give one number for each of the model's {channels} channels",
                )
        if min(self.std) <= 0:
            raise DataError(
                f"--std {' '.join(map(str, self.std))} has a number that is not positive",
                hint="give standard deviations of values between 0 and 1",
            )

    @classmethod
    def of_model(
        cls,
        model: nn.Module,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> DataConfig:
        """What timm knows of the model, at the size it was built for, with the user's own numbers.

        Raises:
            DataError: there are not as many means or deviations as channels.
        """
        known = timm.data.resolve_model_data_config(model)
        channels, height, width = known["input_size"]
        return cls(
            input_size=(_channels(model) or channels, *(_image_size(model) or (height, width))),
            mean=tuple(known["mean"] if mean is None else mean),
            std=tuple(known["std"] if std is None else std),
            interpolation=known["interpolation"],
            crop_pct=known["crop_pct"],
            crop_mode=known["crop_mode"],
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> DataConfig:
        """What `dataclasses.asdict` made of one, read back from a file.

        Raises:
            DataError: it is not that.
        """
        read_fields(_Stored, data, "the stored preprocessing", DataError, "restore the file")
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in data.items()
        }
        return cls(**values)


#: how a model wants what it reads
InputConfig = DataConfig | TextConfig


def input_config_from_json(data: Mapping[str, Any]) -> InputConfig:
    """What `dataclasses.asdict` made of one, read back from a file.

    Raises:
        DataError: it is not that.
    """
    if "tokenizer" not in data:
        return DataConfig.from_json(data)
    read_fields(_StoredText, data, "the stored preprocessing", DataError, "restore the file")
    return TextConfig(**data)


def _image_size(model: nn.Module) -> tuple[int, int] | None:
    for owner in (model, getattr(model, "patch_embed", None)):
        size: tuple[int, int] | None = getattr(owner, "img_size", None)
        if size is not None:
            return size
    return None


def _channels(model: nn.Module) -> int | None:
    config: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    try:
        first = model.get_submodule(config.get("first_conv") or "patch_embed.proj")
    except AttributeError:
        return None
    return cast("int | None", getattr(first, "in_channels", None))


def reads_texts(transform: Transform) -> bool:
    """Whether a transform is of texts, not of pictures."""
    return isinstance(transform, TextTransform)


def eval_transform(config: InputConfig) -> Transform:
    """The model's own preprocessing: resize, crop the middle, normalise; or tokenise."""
    if isinstance(config, TextConfig):
        return config.transform()
    prepare = timm.data.create_transform(
        input_size=config.input_size,
        interpolation=config.interpolation,
        mean=config.mean,
        std=config.std,
        crop_pct=config.crop_pct,
        crop_mode=config.crop_mode,
    )
    return cast(Transform, transforms.Compose([*to_channels(config), prepare]))


@dataclass(frozen=True, slots=True)
class FittingViews:
    """Random views of pictures that depend on seed, picture names and view number alone.

    The first of every four views is a crop, the next two are crops with a part of another
    picture's crop pasted in, the fourth is the mean of two crops. Targets come from the original
    model, so a view needs no label; mixing pictures makes class tokens more varied, which measured
    better than as many plain crops (docs/fitting.md).
    """

    count: int
    seed: int
    _augment: Transform

    def __call__(self, image: Image.Image, name: str, view: int) -> Tensor:
        """The crop behind view number `view` of a picture."""
        with torch.random.fork_rng(devices=[]):
            # not torch.manual_seed: that would also reseed every accelerator, which is not forked
            torch.default_generator.manual_seed(self._key("crop", name, view))
            return self._augment(image)

    def mixes(self, view: int) -> bool:
        """Whether view number `view` takes in a second picture."""
        return view % 4 != 0

    def partner(self, name: str, view: int, n: int) -> int:
        """The number, of `n` pictures, of the one that is mixed in."""
        return self._key("partner", name, view) % n

    def mix(self, first: Tensor, second: Tensor, name: str, view: int) -> Tensor:
        """Two crops (channels, height, width) as one."""
        if view % 4 == 3:
            return (first + second) / 2
        generator = torch.Generator().manual_seed(self._key("box", name, view))
        height, width = first.shape[-2:]
        least, most = PASTED_SHARE
        share = least + (most - least) * torch.rand(1, generator=generator).item()
        side = share**0.5
        rows, columns = max(1, int(side * height)), max(1, int(side * width))
        top = int(torch.randint(height - rows + 1, (1,), generator=generator))
        left = int(torch.randint(width - columns + 1, (1,), generator=generator))
        mixed = first.clone()
        box = (..., slice(top, top + rows), slice(left, left + columns))
        mixed[box] = second[box]
        return mixed

    def _key(self, purpose: str, name: str, view: int) -> int:
        digest = hashlib.sha256(f"{self.seed}/{purpose}/{view}/{name}".encode()).digest()
        return int.from_bytes(digest[:8], "big") >> 1


def fitting_views(config: DataConfig, views: int, seed: int) -> FittingViews:
    """`views` of every picture, from crops of 35 % of its area at least, half of them mirrored."""
    assert views > 0
    augment = transforms.Compose(
        [
            *to_channels(config),
            transforms.RandomResizedCrop(
                config.input_size[1:],
                scale=VIEW_SCALE,
                interpolation=str_to_interp_mode(config.interpolation),
            ),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(config.mean, config.std),
        ]
    )
    return FittingViews(views, seed, augment)


def to_channels(config: DataConfig) -> list[nn.Module]:
    """What turns a picture in RGB into as many channels as the model takes."""
    return [transforms.Grayscale(1)] if config.input_size[0] == 1 else []
