"""Search spaces: which plans a search may choose from."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from trex.architecture import Architecture, Transform
from trex.config import FieldProblem, StrictModel, read_document
from trex.datafiles import find, shipped
from trex.errors import SpaceError
from trex.hardware import Form
from trex.plan import ReusedTensor, ReusePlan
from trex.reuse.fit import Candidate

#: Every plan of a space is costed; more than this many are not enumerated.
MOST_PLANS: Final = 1_000_000

Index = Annotated[int, Field(ge=0)]


class SpaceFile(StrictModel):
    """A file under `search_spaces/`."""

    #: one line for people
    description: str
    #: which producer a consumer reuses: the nearest before it
    source: Literal["nearest"] = "nearest"
    #: what consumers may reuse
    tensors: Annotated[tuple[ReusedTensor, ...], Field(min_length=1)] = ("output",)
    #: with which transforms
    transforms: Annotated[tuple[Transform, ...], Field(min_length=1)] = ("linear",)
    #: the encoders that may reuse; all but the first where not given
    consumers: tuple[Index, ...] | None = None
    #: the most consumers in a row
    max_run: Annotated[int, Field(ge=1)] | None = None
    #: the most consumers in all
    max_reuse: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> SpaceFile:
        for name in ("tensors", "transforms", "consumers"):
            items: Sequence[object] = getattr(self, name) or ()
            if len(set(items)) < len(items):
                raise FieldProblem((name,), "names something twice", "name each once")
        if self.consumers is not None and 0 in self.consumers:
            raise FieldProblem(
                ("consumers",), "names encoder 0, which has nothing to reuse", "begin with 1"
            )
        return self


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchSpace:
    """A space for one model: every consumer reuses the nearest producer of its stage.

    All consumers of a plan share one form (tensor and transform).
    """

    name: str
    forms: tuple[Form, ...]
    #: per encoder: whether it may reuse
    may_reuse: tuple[bool, ...]
    stages: tuple[int, ...]
    max_run: int
    max_reuse: int

    @classmethod
    def load(cls, name: str | Path, architecture: Architecture) -> SearchSpace:
        """A shipped space, or a file's, for a model.

        Raises:
            SpaceError: the file is missing or malformed, or does not fit the model.
        """
        path = find("search_spaces", name, ".yaml", SpaceError)
        document = read_document(path, SpaceError)
        file = document.validate(SpaceFile)
        encoders = architecture.encoders
        if not encoders:
            raise SpaceError(
                f"{architecture.model} has no encoders TReX can let reuse attention",
                hint="`trex cost` still prices it",
            )
        if file.consumers and max(file.consumers) >= len(encoders):
            raise document.problem(
                ("consumers",),
                f"names encoder {max(file.consumers)}, but {architecture.model} has "
                f"{len(encoders)} encoders",
                hint=f"encoders are numbered from 0 to {len(encoders) - 1}",
            )
        stages = tuple(encoder.stage for encoder in encoders)
        allowed = range(len(encoders)) if file.consumers is None else file.consumers
        return cls(
            name=path.stem,
            forms=tuple(itertools.product(file.tensors, file.transforms)),
            may_reuse=tuple(
                i in allowed and i > 0 and stages[i - 1] == stages[i] for i in range(len(encoders))
            ),
            stages=stages,
            max_run=file.max_run or len(encoders),
            max_reuse=len(encoders) if file.max_reuse is None else file.max_reuse,
        )

    @property
    def num_encoders(self) -> int:
        """Encoders of the model."""
        return len(self.may_reuse)

    @property
    def size(self) -> int:
        """How many plans the space holds."""
        return 1 + len(self.forms) * (len(self.masks()) - 1)

    def masks(self) -> NDArray[np.bool_]:
        """Every choice of consumers, one row a choice, (choices, encoders); the empty one first.

        Raises:
            SpaceError: there are more than `MOST_PLANS` plans.
        """
        free = [i for i, allowed in enumerate(self.may_reuse) if allowed]
        if len(self.forms) * 2 ** len(free) > MOST_PLANS:
            raise SpaceError(
                f"the space holds up to {len(self.forms) * 2 ** len(free):,} plans",
                hint=f"name fewer consumers, so that at most {MOST_PLANS:,} are left",
            )
        numbers = np.arange(2 ** len(free), dtype=np.int64)
        masks = np.zeros((len(numbers), self.num_encoders), dtype=np.bool_)
        for bit, encoder in enumerate(free):
            masks[:, encoder] = numbers >> bit & 1
        keep = masks.sum(1) <= self.max_reuse
        keep &= _longest_run(masks) <= self.max_run
        kept: NDArray[np.bool_] = masks[keep]
        return kept

    def plan(self, mask: NDArray[np.bool_], tensor: ReusedTensor) -> ReusePlan:
        """The plan of one row of `masks`."""
        return ReusePlan.nearest(np.flatnonzero(mask).tolist(), tensor)

    def candidate(self, mask: NDArray[np.bool_], form: Form) -> Candidate:
        """The same with its transforms."""
        tensor, transform = form
        plan = self.plan(mask, tensor)
        return Candidate(plan=plan, transforms=dict.fromkeys(plan.consumers, transform))


def shipped_spaces() -> list[str]:
    """Names of the spaces that come with TReX."""
    return list(shipped("search_spaces", ".yaml"))


def _longest_run(masks: NDArray[np.bool_]) -> NDArray[np.int64]:
    longest = np.zeros(len(masks), dtype=np.int64)
    current = np.zeros(len(masks), dtype=np.int64)
    for column in masks.T:
        current = np.where(column, current + 1, 0)
        np.maximum(longest, current, out=longest)
    return longest
