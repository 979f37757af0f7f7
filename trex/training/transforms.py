"""From a picture to a model's input: the model's own preprocessing, and views for fitting."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import timm.data
import torch
from PIL import Image
from timm.data.transforms import str_to_interp_mode
from torch import Tensor, nn
from torchvision import transforms

from trex.errors import DataError

#: Share of a picture's area that a fitting view shows at least.
VIEW_SCALE: Final = (0.35, 1.0)

Transform = Callable[[Image.Image], Tensor]


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
        """What `dataclasses.asdict` made of one, read back from a file."""
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in data.items()
        }
        return cls(**values)


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


def eval_transform(config: DataConfig) -> Transform:
    """The model's own preprocessing: resize, crop the middle, normalise."""
    prepare = timm.data.create_transform(
        input_size=config.input_size,
        interpolation=config.interpolation,
        mean=config.mean,
        std=config.std,
        crop_pct=config.crop_pct,
        crop_mode=config.crop_mode,
    )
    return cast(Transform, transforms.Compose([*_to_channels(config), prepare]))


@dataclass(frozen=True, slots=True)
class FittingViews:
    """Random crops and mirrorings that depend on seed, picture and view alone."""

    count: int
    seed: int
    _augment: Transform

    def __call__(self, image: Image.Image, name: str, view: int) -> Tensor:
        """View number `view` of a picture."""
        key = hashlib.sha256(f"{self.seed}/{view}/{name}".encode()).digest()
        with torch.random.fork_rng(devices=[]):
            # not torch.manual_seed: that would also reseed every accelerator, which is not forked
            torch.default_generator.manual_seed(int.from_bytes(key[:8], "big") >> 1)
            return self._augment(image)


def fitting_views(config: DataConfig, views: int, seed: int) -> FittingViews:
    """Crops of 35 % of a picture's area at least, half of them mirrored; `views` a picture."""
    assert views > 0
    augment = transforms.Compose(
        [
            *_to_channels(config),
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


def _to_channels(config: DataConfig) -> list[nn.Module]:
    return [transforms.Grayscale(1)] if config.input_size[0] == 1 else []
