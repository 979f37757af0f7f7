"""What a chip's converters and cells leave of a model's accuracy: figures measured beforehand.

`accuracy.yaml` beside a `chip.yaml` holds them, each with the command that measured it. A figure
counts for a chip whose arrays err in the same way: another converter finds its own or none.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import Field

from trex.config import StrictModel, read_document
from trex.errors import ChipError
from trex.files import write_atomic

ACCURACY_FILE: Final = "accuracy.yaml"

#: Points of top-1 that a chip may cost a model and still be called one that keeps it.
MOST_POINTS_LOST: Final = 3.0

_HEAD: Final = """\
# What the chip leaves of a model's accuracy: shares of the images. `of` says which converters and
# cells a figure holds for (`Chip.errors_key`). `trex check CHIP ... --keep` writes this file.
"""

Share = Annotated[float, Field(ge=0, le=1)]


class FigureSpec(StrictModel):
    """One measurement; see `AccuracyFigure`. `of` is the key of the arrays' errors."""

    of: str = Field(pattern="^[0-9a-f]{16}$")
    what: str = Field(min_length=1)
    model: str = Field(min_length=1)
    data: str = Field(min_length=1)
    images: int = Field(ge=1)
    range_images: int = Field(ge=1)
    mode: Literal["fast", "exact"]
    draws: int = Field(ge=1)
    ideal_top1: Share
    top1: Share
    top1_std: float | None = Field(default=None, ge=0, le=1)
    agreement: Share | None = None
    mean_kl: float | None = None
    command: str = Field(min_length=1)


class AccuracySpec(StrictModel):
    """A chip's figures."""

    figures: tuple[FigureSpec, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class AccuracyFigure:
    """How a model answers on a chip, next to itself without the chip's errors.

    Attributes:
        what: the converters and cells, in words.
        model: that was measured.
        data: the labelled images, by the last part of their path.
        images: how many were answered.
        range_images: others, that set the ranges of inputs and converters.
        mode: `fast` or `exact`, of the simulation.
        draws: chip instances.
        ideal_top1: share of right first guesses without errors.
        top1: the same on the chip, the mean of the instances.
        top1_std: its standard deviation over them; None of one.
        agreement: share of images with the same first guess; None where it was not kept.
        mean_kl: of the chip's probabilities from the ideal ones, in nats an image, or None.
        command: that measured it.
        stored: whether it was measured beforehand.
    """

    what: str
    model: str
    data: str
    images: int
    range_images: int
    mode: Literal["fast", "exact"]
    draws: int
    ideal_top1: float
    top1: float
    top1_std: float | None
    agreement: float | None
    mean_kl: float | None
    command: str
    stored: bool

    @property
    def points_lost(self) -> float:
        """Points of top-1 that the chip costs."""
        return 100 * (self.ideal_top1 - self.top1)

    @property
    def keeps(self) -> bool:
        """Whether it costs the model at most `MOST_POINTS_LOST`."""
        return self.points_lost <= MOST_POINTS_LOST + 1e-9

    @property
    def fails(self) -> bool:
        """Whether less than half of what the model knows is left."""
        return self.top1 < self.ideal_top1 / 2

    @property
    def grade(self) -> str:
        """`good`, `weak` where more than `MOST_POINTS_LOST` are lost, or `FAILS`."""
        if self.keeps:
            return "good"
        return "FAILS" if self.fails else "weak"

    def __str__(self) -> str:
        spread = "" if self.top1_std is None else f" +- {100 * self.top1_std:.1f}"
        instances = f"{self.draws} chip instance{'s' if self.draws > 1 else ''}"
        return (
            f"{self.model} answers {100 * self.top1:.1f}{spread} % right, "
            f"{100 * self.ideal_top1:.1f} % without the chip's errors ({self.images} images of "
            f"{self.data}, {instances}, {self.mode}, {'stored' if self.stored else 'measured'})"
        )

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        graded = {"points_lost": self.points_lost, "keeps": self.keeps, "fails": self.fails}
        return {**fields, **graded}


def stored_accuracy(folder: Path, key: str) -> tuple[AccuracyFigure, ...]:
    """The figures beside a chip's file that hold for arrays of these errors, in their order.

    Raises:
        ChipError: the file is not valid.
    """
    return tuple(_figure(spec) for spec in _read(folder / ACCURACY_FILE) if spec.of == key)


def keep_accuracy(folder: Path, key: str, figure: AccuracyFigure) -> Path:
    """Write a figure beside a chip's file, in place of one of the same arrays, model and images.

    Raises:
        ChipError: what is there is not valid.
        StorageError: it cannot be written.
    """
    path = folder / ACCURACY_FILE
    values = {name: getattr(figure, name) for name in FigureSpec.model_fields if name != "of"}
    new = FigureSpec(of=key, **values)
    same = ("of", "model", "data", "images", "mode")
    others = [old for old in _read(path) if any(getattr(old, f) != getattr(new, f) for f in same)]
    content = [spec.model_dump(exclude_none=True) for spec in (*others, new)]
    text = yaml.safe_dump({"figures": content}, sort_keys=False, width=1000)
    write_atomic(path, _HEAD + text)
    return path


def _read(path: Path) -> tuple[FigureSpec, ...]:
    if not path.is_file():
        return ()
    return read_document(path, ChipError).validate(AccuracySpec).figures


def _figure(spec: FigureSpec) -> AccuracyFigure:
    return AccuracyFigure(**spec.model_dump(exclude={"of"}), stored=True)
