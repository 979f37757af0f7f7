"""Reuse plans: which encoder takes its attention from which earlier one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, get_args

from trex.errors import PlanError

ReusedTensor = Literal["output", "map"]
REUSED_TENSORS: Final[tuple[ReusedTensor, ...]] = get_args(ReusedTensor)

_ITEM = re.compile(r"(\d+)<-(\d+)(?::([a-z]+))?")


@dataclass(frozen=True, slots=True, order=True)
class Reuse:
    """One consumer: encoder `consumer` reuses the `tensor` of the earlier encoder `source`.

    `output` is softmax(QKᵀ)V of all heads before the projection (TReX); `map` the softmaxed
    attention probabilities, the consumer keeping its own values (Reuse Transformers, PSViT).
    """

    consumer: int
    source: int
    tensor: ReusedTensor = "output"

    def __str__(self) -> str:
        suffix = "" if self.tensor == "output" else f":{self.tensor}"
        return f"{self.consumer}<-{self.source}{suffix}"


@dataclass(frozen=True, slots=True)
class ReusePlan:
    """For every encoder: its own attention, or the earlier producer it reuses.

    Only consumers are stored, ordered by position; every other encoder is a producer. In text:
    `"5<-4 7<-6:map"`; the empty plan is `""`. Plans compare, hash and sort out duplicates by
    value.

    Raises:
        PlanError: an encoder reuses itself, a later encoder or a consumer, or appears twice.
    """

    reuses: tuple[Reuse, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "reuses", tuple(sorted(self.reuses)))
        consumers: set[int] = set()
        for reuse in self.reuses:
            if reuse.consumer in consumers:
                raise PlanError(
                    f"encoder {reuse.consumer} has two sources", hint="name each consumer once"
                )
            consumers.add(reuse.consumer)
        for reuse in self.reuses:
            self._check(reuse, consumers)

    @staticmethod
    def _check(reuse: Reuse, consumers: set[int]) -> None:
        consumer, source = reuse.consumer, reuse.source
        if consumer == 0:
            raise PlanError(
                "encoder 0 cannot reuse: nothing runs before it",
                hint="choose a consumer from 1 on",
            )
        if source < 0 or source == consumer:
            raise PlanError(
                f"encoder {consumer} cannot reuse encoder {source}",
                hint=f"choose a source from 0 to {consumer - 1}",
            )
        if source > consumer:
            raise PlanError(
                f"encoder {consumer} reuses encoder {source}, which runs later",
                hint=f"choose a source from 0 to {consumer - 1}",
            )
        if source in consumers:
            raise PlanError(
                f"encoder {consumer} reuses encoder {source}, which is itself a consumer",
                hint=f"name the producer that encoder {source} reuses instead",
            )
        if reuse.tensor not in REUSED_TENSORS:
            raise PlanError(
                f"encoder {consumer} reuses an unknown tensor {reuse.tensor!r}",
                hint=f"choose one of {', '.join(REUSED_TENSORS)}",
            )

    @classmethod
    def parse(cls, text: str) -> ReusePlan:
        """Read `"5<-4 7<-6:map"`; spaces or commas between items, order free.

        Raises:
            PlanError: `text` is not of this form, or the plan is not valid.
        """
        reuses = []
        for item in text.replace(",", " ").split():
            match = _ITEM.fullmatch(item)
            if match is None:
                raise PlanError(
                    f"{item!r} is not part of a reuse plan",
                    hint='write consumer<-source, for example "5<-4 7<-6", or "7<-6:map"',
                )
            tensor = match[3] or "output"
            reuses.append(Reuse(int(match[1]), int(match[2]), tensor))  # type: ignore[arg-type]
        return cls(tuple(reuses))

    @classmethod
    def nearest(cls, consumers: Iterable[int], tensor: ReusedTensor = "output") -> ReusePlan:
        """Every consumer reuses the nearest producer before it."""
        chosen = set(consumers)
        reuses = []
        for consumer in sorted(chosen):
            source = consumer - 1
            while source in chosen:
                source -= 1
            reuses.append(Reuse(consumer, source, tensor))
        return cls(tuple(reuses))

    @classmethod
    def strided(cls, *, stride: int, start: int, n_reuse: int) -> ReusePlan:
        """Consumers `start`, `start + stride`, …, each reusing the one before it (TReX §IV)."""
        _positive(stride=stride - 1, start=start, n_reuse=n_reuse)
        return cls.nearest(start + stride * k for k in range(n_reuse))

    @classmethod
    def continuous(cls, *, start: int, n_reuse: int) -> ReusePlan:
        """A run of consumers from `start` on, all reusing encoder `start - 1` (TReX §IV)."""
        _positive(start=start, n_reuse=n_reuse)
        return cls.nearest(range(start, start + n_reuse))

    @classmethod
    def pyramid(cls, *, stride: int, run: int, start: int, n_reuse: int) -> ReusePlan:
        """Strided consumers, a run, strided consumers, as many after the run as before (TReX §IV).

        Raises:
            PlanError: what the run leaves of `n_reuse` is not an even number above zero.
        """
        _positive(stride=stride - 1, run=run - 1, start=start, n_reuse=n_reuse)
        sides, odd = divmod(n_reuse - run, 2)
        if odd or sides < 1:
            raise PlanError(
                f"a pyramid of {n_reuse} consumers cannot have a run of {run}",
                hint="the run must leave an even number of consumers, at least two",
            )
        run_start = start + stride * sides
        return cls.nearest(
            [
                *(start + stride * k for k in range(sides)),
                *range(run_start, run_start + run),
                *(run_start + run - 1 + stride * (k + 1) for k in range(sides)),
            ]
        )

    @property
    def n_reuse(self) -> int:
        """How many encoders reuse."""
        return len(self.reuses)

    @property
    def consumers(self) -> tuple[int, ...]:
        """The consumers' indices, ascending."""
        return tuple(r.consumer for r in self.reuses)

    @property
    def sources(self) -> tuple[int, ...]:
        """The producers somebody reuses, ascending, each once."""
        return tuple(sorted({r.source for r in self.reuses}))

    @property
    def key(self) -> str:
        """Twelve hexadecimal digits that name this plan in files, the same on every machine."""
        return hashlib.sha256(str(self).encode()).hexdigest()[:12]

    def reuse_of(self, encoder: int) -> Reuse | None:
        """What `encoder` reuses, or None where it is a producer."""
        return next((r for r in self.reuses if r.consumer == encoder), None)

    def validate(self, num_encoders: int) -> None:
        """Check that the plan fits a model of `num_encoders` encoders.

        Raises:
            PlanError: a consumer does not exist in the model.
        """
        if self.reuses and not num_encoders:
            raise PlanError(
                "the model has no encoders that TReX understands, so none can reuse",
                hint="leave the plan out, or choose a plain vision transformer (docs/models.md)",
            )
        if self.reuses and self.reuses[-1].consumer >= num_encoders:
            raise PlanError(
                f"the plan names encoder {self.reuses[-1].consumer}, but the model has "
                f"{num_encoders} encoders",
                hint=f"encoders are numbered from 0 to {num_encoders - 1}",
            )

    def __str__(self) -> str:
        return " ".join(map(str, self.reuses))

    def __iter__(self) -> Iterator[Reuse]:
        return iter(self.reuses)


def uniform_plans(num_encoders: int, n_reuse: int) -> list[ReusePlan]:
    """The paper's candidates: every strided, pyramid and continuous plan that fits.

    For 9 encoders and 4 consumers these are the 11 patterns of the paper's example.
    """
    if n_reuse == 0:
        return [ReusePlan()]
    plans: dict[ReusePlan, None] = {}

    def add(plan: ReusePlan) -> bool:
        fits = plan.reuses[-1].consumer < num_encoders
        if fits:
            plans.setdefault(plan)
        return fits

    for stride in range(2, num_encoders):
        for start in range(1, num_encoders):
            if n_reuse == 1 or not add(
                ReusePlan.strided(stride=stride, start=start, n_reuse=n_reuse)
            ):
                break
    for stride in range(2, num_encoders):
        for run in range(2, n_reuse - 1):
            if (n_reuse - run) % 2:
                continue
            for start in range(1, num_encoders):
                if not add(
                    ReusePlan.pyramid(stride=stride, run=run, start=start, n_reuse=n_reuse)
                ):
                    break
    for start in range(1, num_encoders):
        if not add(ReusePlan.continuous(start=start, n_reuse=n_reuse)):
            break
    return list(plans)


def _positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            least = 2 if name in ("stride", "run") else 1
            raise PlanError(f"{name} is too small", hint=f"give {name} of at least {least}")
