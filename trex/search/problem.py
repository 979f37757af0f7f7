"""What is searched for, and with how much work."""

from __future__ import annotations

import logging
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, NamedTuple

from tqdm import tqdm

from trex.fit.calibration import FitSettings
from trex.fit.choose import MOST_IMAGES
from trex.fit.refine import RefineSettings
from trex.hardware import Chip, DeviceAccounting, MeasuredDevice
from trex.models.registry import LoadedModel
from trex.plan import Plan
from trex.progress import is_told, tell
from trex.search.space import SearchSpace
from trex.training.data import ImageSet
from trex.training.finetune.task import check_head
from trex.training.transforms import InputConfig

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneSettings:
    """Short trainings by successive halving: a rung for every number of candidates."""

    #: the best so many are trained, fewer from rung to rung
    candidates: tuple[int, ...] = ()
    #: images that each of them is trained on, more from rung to rung
    images: tuple[int, ...] = ()
    #: a `trex.training.finetune.Recipe` as plain values
    recipe: dict[str, Any] = field(default_factory=dict)

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the rungs' studies, for people."""
        return tuple(f"fine-tuned on {images} images" for images in self.images)


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchSettings:
    """How much work a search does, and how it is spread."""

    seed: int = 0
    #: how plans are chosen
    strategy: Literal["exact", "optuna", "paper", "random", "given"] = "exact"
    #: whether plans are spread over all prices within the budget
    pareto: bool = False
    #: what proposes plans where the strategy is `optuna`
    sampler: Literal["tpe", "nsga2"] = "tpe"
    #: candidates fitted and measured
    evaluations: int = 32
    #: of these, those proposed after others were measured; the others come from the solver
    moves: int = 0
    #: the best so many are compared once more, on images that chose nothing before
    confirmed: int = 0
    #: of these, the best so many are refined and compared once more
    refined_candidates: int = 0
    #: the share of the calibration images that candidates are compared on
    select_share: float = 0.4
    #: the share that only the confirmed ones are compared on
    fresh_share: float = 0.0
    #: images the surrogate is measured with, fitted and compared ones together
    surrogate_images: int = 300
    #: images that how to fit is chosen with
    choice_images: int = MOST_IMAGES
    #: augmented views of every image in the winner's final fit, beside the image itself
    final_views: int = 2
    fit: FitSettings = field(default_factory=FitSettings)
    #: of the winner
    refine: RefineSettings = field(default_factory=RefineSettings)
    finetuning: FinetuneSettings = field(default_factory=FinetuneSettings)

    def as_json(self) -> dict[str, object]:
        """Plain values; what version 0.1 did not know is left out where it changes nothing."""
        values = asdict(self)
        usual = {"moves": 0, "confirmed": 0, "fresh_share": 0.0, "choice_images": MOST_IMAGES}
        for name, value in usual.items():
            if values[name] == value:
                del values[name]
        return values


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """Everything one search needs to know.

    Attributes:
        plans: those that the strategy `given` measures; others choose from the space.

    Raises:
        ModelError: candidates are to be fine-tuned, and the model has no head.
    """

    loaded: LoadedModel
    device: Chip | MeasuredDevice
    accounting: DeviceAccounting
    space: SearchSpace
    images: ImageSet
    data_config: InputConfig
    settings: SearchSettings
    plans: tuple[Plan, ...] = ()

    def __post_init__(self) -> None:
        if self.settings.finetuning.images:
            check_head(self.loaded.model)


@contextmanager
def progress_bar(
    label: str, total: int, unit: str = "images", passes: int = 0
) -> Iterator[Callable[[int], object]]:
    """A progress bar in a terminal, lines in a log elsewhere; yields what advances it.

    Where a callback is told (`trex.progress`), there is no bar. Lines come every few per cent,
    with the time left. What the step took, without what bars inside
    it took, is added up in `taken`.

    Args:
        label: of the step.
        total: of what is advanced by.
        unit: of that.
        passes: through encoders that one of it takes, where the work does not count them itself.
    """
    _logger.info("%s: %s%s", label, f"{total:,} ", unit)
    started, passed, before = time.monotonic(), _passed.value, _sum()
    lines = _Lines(label, total, started)
    done, hidden = 0, True if is_told() else None
    with tqdm(
        total=total, desc=label, unit=f" {unit}", file=sys.stderr, disable=hidden, unit_scale=True
    ) as bar:

        def advance(steps: int) -> None:
            nonlocal done
            done += steps
            bar.update(steps)
            count_passes(passes * steps)
            tell(label, done, total, unit)
            if bar.disable:
                lines.advance(steps)

        try:
            yield advance
        finally:
            so_far, inside = taken.get(label, Taken(0.0, 0)), _sum()
            taken[label] = Taken(
                so_far.seconds + time.monotonic() - started - (inside.seconds - before.seconds),
                so_far.passes + _passed.value - passed - (inside.passes - before.passes),
            )


class Taken(NamedTuple):
    """What a step of a search took.

    Attributes:
        seconds: of wall time.
        passes: images that went through one encoder, counted once an encoder.
    """

    seconds: float
    passes: int


#: by label, of all bars of this process
taken: dict[str, Taken] = {}
#: what this process and those forked from it passed
_passed = multiprocessing.Value("q", 0)


def _sum() -> Taken:
    return Taken(sum(t.seconds for t in taken.values()), sum(t.passes for t in taken.values()))


def count_passes(passes: int) -> None:
    """Count images that went through one encoder, for the step whose bar is shown."""
    with _passed.get_lock():
        _passed.value += passes


class _Lines:
    """Progress as lines of a log, at most one every few seconds and per cent."""

    def __init__(self, label: str, total: int, started: float) -> None:
        self._label, self._total, self._started = label, total, started
        self._done = 0
        self._said_share, self._said_at = 0.0, started

    def advance(self, steps: int) -> None:
        """Count, and say it where it is time to."""
        self._done += steps
        now, share = time.monotonic(), self._done / max(self._total, 1)
        if share - self._said_share < _SHARE or now - self._said_at < _SECONDS:
            return
        self._said_share, self._said_at = share, now
        left = (now - self._started) * (1.0 / share - 1.0)
        _logger.info(
            "%s: %.0f %%, %s left", self._label, 100 * min(share, 1.0), duration(max(left, 0.0))
        )


#: between two lines of progress
_SHARE: Final = 0.05
_SECONDS: Final = 5.0


def duration(seconds: float) -> str:
    """`45 s`, or `3 min 20 s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
