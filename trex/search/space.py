"""Search spaces: which plans a search may choose from."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from trex.architecture import Architecture
from trex.config import Document, FieldProblem, StrictModel, read_document
from trex.datafiles import find, shipped
from trex.errors import SpaceError
from trex.plan import TRANSFORMS, Form, Plan, Reuse, ReusedTensor, Transform
from trex.search.terms import Choices

#: Spaces of more plans than this are not enumerated.
MOST_PLANS: Final = 1_000_000

Source = Literal["nearest", "any"]
Index = Annotated[int, Field(ge=0)]


class SpaceFile(StrictModel):
    """A file under `search_spaces/`."""

    #: one line for people
    description: str
    #: which producer a consumer may reuse: the nearest before it, or any earlier one
    source: Source = "nearest"
    #: what consumers may reuse
    tensors: Annotated[tuple[ReusedTensor, ...], Field(min_length=1)] = ("output",)
    #: with which transforms
    transforms: Annotated[tuple[Transform, ...], Field(min_length=1)] = ("linear",)
    #: whether the consumers of one plan may differ in tensor and transform
    mixed: bool = False
    #: the encoders that may reuse; all but the first where not given
    consumers: Annotated[tuple[Index, ...], Field(min_length=1)] | None = None
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
        if "average" in self.transforms:
            raise FieldProblem(
                ("transforms",), "names average, which has no source to choose",
                "name it in a plan of your own: trex fit --plan",
            )  # fmt: skip
        if "map" not in self.tensors and "mixed" in self.transforms:
            raise FieldProblem(
                ("transforms",), "names mixed, which is of maps", "add map to tensors"
            )
        if self.consumers is not None and 0 in self.consumers:
            raise FieldProblem(
                ("consumers",), "names encoder 0, which has nothing to reuse", "begin with 1"
            )
        if self.consumers and self.max_reuse == 0:
            raise FieldProblem(
                ("max_reuse",),
                "is 0, but consumers are named",
                "allow at least 1, or name no consumers",
            )
        return self


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchSpace:
    """A space for one model. Sources and consumers are always of one stage.

    Unless it is `mixed`, all consumers of a plan share one form (tensor and transform).
    """

    name: str
    forms: tuple[Form, ...]
    #: per encoder: whether it may reuse
    may_reuse: tuple[bool, ...]
    stages: tuple[int, ...]
    max_run: int
    max_reuse: int
    source: Source = "nearest"
    mixed: bool = False

    @classmethod
    def load(
        cls,
        name: str | Path,
        architecture: Architecture,
        overrides: Mapping[str, Any] | None = None,
    ) -> SearchSpace:
        """A shipped space, or a file's, for a model.

        Args:
            name: of a shipped space, or a path.
            architecture: the model.
            overrides: fields of `SpaceFile` that replace the file's.

        Raises:
            SpaceError: the file is missing or malformed, contradicts itself, or does not fit the
                model; so do the overrides.
        """
        path = find("search_spaces", name, ".yaml", SpaceError)
        document = read_document(path, SpaceError)
        file = document.validate(SpaceFile)
        if overrides:
            document = document.with_values(overrides)
            file = document.validate(SpaceFile)
        return cls._of(path.stem, file, document, architecture)

    @classmethod
    def _of(
        cls, name: str, file: SpaceFile, document: Document, architecture: Architecture
    ) -> SearchSpace:
        encoders = architecture.encoders
        if not encoders:
            raise SpaceError(
                f"{architecture.model} has no encoders TReX can let reuse attention",
                hint="`trex cost` still prices it",
            )
        stages = tuple(encoder.stage for encoder in encoders)
        if "mixed" in file.transforms and architecture.layout.no_map_rows:
            raise document.problem(
                ("transforms",),
                f"names mixed, but {architecture.model} cannot mix maps: "
                f"{architecture.layout.no_map_rows}",
                hint=f"name some of {', '.join(TRANSFORMS)}",
            )
        able = [i for i in range(1, len(encoders)) if stages[i - 1] == stages[i]]
        for consumer in file.consumers or ():
            if consumer >= len(encoders):
                raise document.problem(
                    ("consumers",),
                    f"names encoder {consumer}, but {architecture.model} has "
                    f"{len(encoders)} encoders",
                    hint=f"encoders are numbered from 0 to {len(encoders) - 1}",
                )
            if consumer not in able:
                raise document.problem(
                    ("consumers",),
                    f"names encoder {consumer}, the first of its stage of {architecture.model}",
                    hint=f"name some of {', '.join(map(str, able))}",
                )
        allowed = able if file.consumers is None else file.consumers
        return cls(
            name=name,
            source=file.source,
            mixed=file.mixed,
            forms=tuple(
                (tensor, transform)
                for tensor, transform in itertools.product(file.tensors, file.transforms)
                if tensor == "map" or transform in TRANSFORMS
            ),
            may_reuse=tuple(i in allowed for i in range(len(encoders))),
            stages=stages,
            max_run=file.max_run or len(encoders),
            max_reuse=len(encoders) if file.max_reuse is None else file.max_reuse,
        )

    @classmethod
    def without_choice(cls, plans: Sequence[Plan], architecture: Architecture) -> SearchSpace:
        """The space in which nothing is chosen, in the forms of plans that are given."""
        stages = architecture.layout.stages
        forms = dict.fromkeys(reuse.form for plan in plans for reuse in plan.reuses)
        return cls(
            name="given",
            forms=tuple(sorted(forms)),
            may_reuse=(False,) * len(stages),
            stages=stages,
            max_run=0,
            max_reuse=0,
        )

    @property
    def num_encoders(self) -> int:
        """Encoders of the model."""
        return len(self.may_reuse)

    @property
    def size(self) -> int:
        """How many plans the space holds; counted, not enumerated."""
        if self.mixed:
            return self._count(len(self.forms))
        return 1 + len(self.forms) * (self._count(1) - 1)

    def _count(self, num_forms: int) -> int:
        """Plans whose consumers choose among so many forms each."""
        # (producers in this stage, consumers in a row, consumers) -> plans so far
        states = {(0, 0, 0): 1}
        for encoder, may_reuse in enumerate(self.may_reuse):
            new_stage = encoder > 0 and self.stages[encoder - 1] != self.stages[encoder]
            after: defaultdict[tuple[int, int, int], int] = defaultdict(int)
            for (before, run, reuses), plans in states.items():
                producers = 0 if new_stage else before
                after[producers + 1, 0, reuses] += plans
                if may_reuse and run < self.max_run and reuses < self.max_reuse:
                    sources = 1 if self.source == "nearest" else producers
                    after[producers, run + 1, reuses + 1] += plans * sources * num_forms
            states = after
        return sum(states.values())

    def choices(self) -> Choices:
        """What every encoder may do: sources from the nearest back, each in every form."""
        table: list[tuple[Reuse | None, ...]] = []
        for encoder, may_reuse in enumerate(self.may_reuse):
            sources = [
                s for s in reversed(range(encoder)) if self.stages[s] == self.stages[encoder]
            ]
            reuses = [
                Reuse(encoder, s, *form) for s in sources if may_reuse for form in self.forms
            ]
            table.append((None, *reuses))
        return Choices(of=tuple(table), forms=self.forms)

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
        return masks[self.allows(masks)]

    def allows(self, consumes: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which sets of consumers, (plans, encoders), are not too many, in all and in a row."""
        few: NDArray[np.bool_] = consumes.sum(1) <= self.max_reuse
        return few & (_longest_run(consumes) <= self.max_run)


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
