"""Search spaces: which plans a search may choose from, as an automaton over encoders.

Every encoder has a list of choices: its form (own attention, or reuse of a source's tensor), how
many pairs of tokens it merges, and whether its tokens share rows. Which of them a plan may take
depends on what it did before: the tokens left, the producers that can still be reused, the groups
of tokens at hand. `Space.legal` says so for many beginnings of plans at once, `Space.follow` goes
on with some of them. Counting, listing, drawing, checking and solving all go through these two.

A plan is a row of choice numbers, many plans are an integer matrix (plans, encoders).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from trex.architecture import Architecture
from trex.config import Document, FieldProblem, StrictModel, read_document
from trex.datafiles import find, shipped
from trex.errors import PlanError, SpaceError
from trex.plan import (
    TRANSFORMS,
    Form,
    Layout,
    Merge,
    Plan,
    Reuse,
    ReusedTensor,
    Rows,
    Transform,
)

#: Spaces of more plans than this are not enumerated.
MOST_PLANS: Final = 1_000_000
#: A choice's source: the nearest producer, whichever that is.
NEAREST: Final = -1
#: A choice's share of rows: by the groups that an earlier encoder matched.
TAKEN: Final = -1

Source = Literal["nearest", "any"]
Index = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
Axis = Literal["merging", "rows"]
Numbers = NDArray[np.intp]


class MergingFile(StrictModel):
    """Which encoders may merge tokens. Shares are of the tokens that can merge."""

    #: the encoders that may; all that can where not given
    encoders: Annotated[tuple[Index, ...], Field(min_length=1)] | None = None
    #: pairs come in multiples of this share
    step: Share = 0.04
    #: the most that one encoder merges
    most: Share = 0.25
    #: the least that must be left in the end
    least: Share = 0.2


class RowsFile(StrictModel):
    """Which encoders' tokens may share rows."""

    #: the encoders that may; all that can where not given
    encoders: Annotated[tuple[Index, ...], Field(min_length=1)] | None = None
    #: of the rows there are, beside those of class tokens
    shares: Annotated[tuple[Share, ...], Field(min_length=1)] = (0.5, 0.25, 0.125)
    #: whether encoders may take the groups of an earlier one
    groups: bool = True


class SpaceFile(StrictModel):
    """A file under `search_spaces/`."""

    #: one line for people
    description: str
    #: which producer a consumer may reuse: the nearest before it, or any earlier one
    source: Source = "nearest"
    #: what consumers may reuse
    tensors: tuple[ReusedTensor, ...] = ("output",)
    #: with which transforms; of maps too where `map_transforms` is not given
    transforms: Annotated[tuple[Transform, ...], Field(min_length=1)] = ("linear",)
    #: of maps
    map_transforms: Annotated[tuple[Transform, ...], Field(min_length=1)] | None = None
    #: whether the consumers of one plan may differ in tensor and transform
    mixed: bool = False
    #: the encoders that may reuse; all but the first where not given
    consumers: Annotated[tuple[Index, ...], Field(min_length=1)] | None = None
    #: the most consumers in a row
    max_run: Annotated[int, Field(ge=1)] | None = None
    #: the most consumers in all
    max_reuse: Annotated[int, Field(ge=0)] | None = None
    #: none where it is not given
    merging: MergingFile | None = None
    #: none where it is not given
    rows: RowsFile | None = None
    #: dead rows are left out of the last encoder, and consumers of mixed and average maps compute
    #: their class rows, wherever the model can
    class_rows: bool = False
    #: leave out what the model cannot do, rather than refuse
    where_possible: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> SpaceFile:
        for name in ("tensors", "transforms", "map_transforms", "consumers"):
            items: Sequence[object] = getattr(self, name) or ()
            if len(set(items)) < len(items):
                raise FieldProblem((name,), "names something twice", "name each once")
        if "map" not in self.tensors:
            for transform in ("mixed", "average"):
                if transform in self.transforms and not self.where_possible:
                    raise FieldProblem(
                        ("transforms",),
                        f"names {transform}, which is of maps",
                        "add map to tensors",
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


class Choice(NamedTuple):
    """What one encoder does.

    Attributes:
        form: 0 is attention of its own; others as the space numbers them, from 1.
        source: of a consumer, `NEAREST` or an encoder.
        pairs: of tokens that it merges.
        share: 0 is rows of its own; others as the space numbers its shares, from 1; `TAKEN`.
    """

    form: int = 0
    source: int = NEAREST
    pairs: int = 0
    share: int = 0


class Choices(NamedTuple):
    """Many choices: the same as arrays."""

    form: Numbers
    source: Numbers
    pairs: Numbers
    share: Numbers

    def take(self, numbers: Any) -> Choices:
        """Some of them."""
        return Choices(*(values[numbers] for values in self))


@dataclass(frozen=True, slots=True)
class Beginnings:
    """Many plans up to some encoder, and what decides how they may go on; an entry each.

    Attributes:
        rows: (plans, encoders), choice numbers; 0 from that encoder on.
        gone: (plans, 1 + encoders), tokens merged before each encoder up to that one.
        groups: rows that the groups at hand share; 0 where there are none.
        groups_of: the encoder that matched them; -1.
        producers: a bit for each producer that can be reused.
        run: consumers in a row.
        reuses: consumers.
        form: of the first consumer; 0.
    """

    rows: Numbers
    gone: Numbers
    groups: Numbers
    groups_of: Numbers
    producers: Numbers
    run: Numbers
    reuses: Numbers
    form: Numbers

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, which: Any) -> Beginnings:
        """Some of them."""
        return Beginnings(*(getattr(self, field.name)[which] for field in fields(self)))


@dataclass(frozen=True, slots=True)
class Steps:
    """What many plans do in one encoder, resolved: as `PlanPricer.encoder` takes them.

    Attributes:
        forms: 0 of their own attention.
        sources: the encoder reused; a producer's, and that of an average map, is itself.
        gone: tokens merged before it.
        since: of these, merged since its source's attention.
        pairs: that it merges.
        shared: rows that its tokens share; 0.
        taken: whether by an earlier encoder's groups.
        own_class: whether a consumer of maps computes its class rows.
        only_class: whether no other rows are computed.
    """

    forms: Numbers
    sources: Numbers
    gone: Numbers
    since: Numbers
    pairs: Numbers
    shared: Numbers
    taken: NDArray[np.bool_]
    own_class: NDArray[np.bool_]
    only_class: bool


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """A space for one model. Sources and consumers are always of one stage.

    Unless it is `mixed`, all consumers of a plan share one form (tensor and transform).

    Attributes:
        layout: of the model.
        forms: of consumers.
        may_reuse: per encoder.
        pairs: per encoder, the numbers of pairs it may merge, rising; none where it may not.
        least_tokens: that merging must leave.
        shares: per encoder, of rows.
        groups: whether groups can be taken.
        class_rows: whether dead rows are left out, and class rows of mixed maps are computed.
        left_out: what of the file the model cannot do, in words.
    """

    name: str
    layout: Layout
    forms: tuple[Form, ...]
    may_reuse: tuple[bool, ...]
    max_run: int
    max_reuse: int
    source: Source = "nearest"
    mixed: bool = False
    pairs: tuple[tuple[int, ...], ...] = ()
    least_tokens: int = 0
    shares: tuple[tuple[float, ...], ...] = ()
    groups: bool = False
    class_rows: bool = False
    left_out: tuple[str, ...] = ()

    @classmethod
    def load(
        cls,
        name: str | Path,
        architecture: Architecture,
        overrides: Mapping[str, Any] | None = None,
        *,
        only: Axis | None = None,
        keep_tokens: bool = False,
    ) -> SearchSpace:
        """A shipped space, or a file's, for a model.

        Args:
            name: of a shipped space, or a path.
            architecture: the model.
            overrides: fields of `SpaceFile` that replace the file's; `merging.step` names a field
                of a part.
            only: no reuse, and of merging and shared rows this alone.
            keep_tokens: without merging.

        Raises:
            SpaceError: the file is missing or malformed, contradicts itself, or does not fit the
                model; so do the overrides.
        """
        path = find("search_spaces", name, ".yaml", SpaceError)
        document = read_document(path, SpaceError)
        file = document.validate(SpaceFile)
        if overrides:
            if "transforms" in overrides:
                overrides = {"map_transforms": None, **overrides}
            document = document.with_values(overrides)
            file = document.validate(SpaceFile)
        if only is not None or keep_tokens:
            file = _axes(file, document, only, keep_tokens)
        return _fitting(path.stem, file, document, architecture)

    @classmethod
    def without_choice(cls, plans: Sequence[Plan], architecture: Architecture) -> SearchSpace:
        """The space in which nothing is chosen, in the forms of plans that are given."""
        layout = architecture.layout
        forms = dict.fromkeys(reuse.form for plan in plans for reuse in plan.reuses)
        return cls(
            name="given",
            layout=layout,
            forms=tuple(sorted(forms)),
            may_reuse=(False,) * len(layout.stages),
            max_run=0,
            max_reuse=0,
        )

    def settings(self) -> dict[str, object]:
        """What a run must have been started with; told as by version 0.1 where it could."""
        fields = asdict(self)
        del fields["layout"], fields["left_out"]
        fields["stages"] = self.layout.stages
        if not self.joint:
            for name in ("pairs", "least_tokens", "shares", "groups", "class_rows"):
                del fields[name]
        return fields

    @property
    def num_encoders(self) -> int:
        """Encoders of the model."""
        return len(self.may_reuse)

    @property
    def merges(self) -> bool:
        """Whether any encoder may merge."""
        return any(self.pairs)

    @property
    def shares_rows(self) -> bool:
        """Whether any encoder's tokens may share rows."""
        return any(self.shares)

    @property
    def joint(self) -> bool:
        """Whether plans may do more than reuse."""
        return self.merges or self.shares_rows or self.class_rows

    @property
    def dead_rows(self) -> bool:
        """Whether the last encoder computes class rows only."""
        layout = self.layout
        return self.class_rows and bool(layout.class_rows) and not layout.no_class_rows

    @cached_property
    def choices(self) -> tuple[tuple[Choice, ...], ...]:
        """What every encoder may do, legal or not; the first does nothing."""
        return tuple(tuple(self._choices_of(e)) for e in range(self.num_encoders))

    @cached_property
    def arrays(self) -> tuple[Choices, ...]:
        """The same as arrays."""
        return tuple(
            Choices(*(np.array(values, dtype=np.intp) for values in zip(*of, strict=True)))
            for of in self.choices
        )

    @property
    def width(self) -> int:
        """The most choices any encoder has."""
        return max(map(len, self.choices))

    def _choices_of(self, encoder: int) -> Iterator[Choice]:
        last = encoder == self.num_encoders - 1
        only_class = last and self.dead_rows
        pairs = (0,) if only_class or not self.pairs else (0, *self.pairs[encoder])
        shares = () if only_class or not self.shares else self.shares[encoder]
        rows = [0, *range(1, 1 + len(shares))]
        if shares and self.groups:
            rows.append(TAKEN)
        for share, merged in itertools.product(rows, pairs):
            yield Choice(share=share, pairs=merged)
        if not self.may_reuse[encoder]:
            return
        stages = self.layout.stages
        if self.source == "nearest":
            sources: Sequence[int] = (NEAREST,)
        else:
            sources = [s for s in reversed(range(encoder)) if stages[s] == stages[encoder]]
        for number, (tensor, transform) in enumerate(self.forms, start=1):
            if only_class and tensor == "map":
                continue
            for source in (NEAREST,) if transform == "average" else sources:
                for merged in pairs:
                    yield Choice(number, source, merged)

    # ---- the automaton

    def begin(self) -> Beginnings:
        """The one beginning of all plans."""
        encoders = self.num_encoders
        one = np.zeros(1, dtype=np.intp)
        return Beginnings(
            np.zeros((1, encoders), dtype=np.intp),
            np.zeros((1, 1 + encoders), dtype=np.intp),
            one, one - 1, one, one, one, one,
        )  # fmt: skip

    def nearest(self, producers: Numbers) -> Numbers:
        """The nearest of some producers, given as bits; -1 where there is none."""
        found = np.full(len(producers), -1, dtype=np.intp)
        some = producers > 0
        found[some] = np.frexp(producers[some].astype(np.float64))[1] - 1
        return found

    def legal(self, encoder: int, of: Beginnings) -> NDArray[np.bool_]:
        """Which choices beginnings may go on with: (plans, choices)."""
        choice, layout = self.arrays[encoder], self.layout
        left = (layout.tokens - of.gone[:, encoder])[:, None]
        good = np.ones((len(of), len(choice.form)), dtype=np.bool_)
        if self.merges:
            most = (left - layout.protected) // 2
            can = (choice.pairs <= most) & (left - choice.pairs >= self.least_tokens)
            good &= can | (choice.pairs == 0)
        if self.shares_rows:
            taken = choice.share == TAKEN
            good &= ~taken | (of.groups > 0)[:, None]
            rows, tokens = self._rows_of(encoder, of), self._attending(encoder, of)
            few = rows < tokens[:, None]
            for share in range(2, rows.shape[1]):  # of shares that leave as many rows, the first
                few[:, share] &= (rows[:, 1:share] != rows[:, share, None]).all(axis=1)
            good &= (choice.share <= 0) | few[:, np.maximum(choice.share, 0)]
        consumes = choice.form > 0
        if consumes.any():
            average = np.array([False, *(t == "average" for _, t in self.forms)])[choice.form]
            named = np.maximum(choice.source, 0)
            there = np.where(
                choice.source == NEAREST,
                (of.producers > 0)[:, None],
                (of.producers[:, None] >> named) & 1 > 0,
            )
            free = (of.run < self.max_run) & (of.reuses < self.max_reuse)
            can = (there | average) & free[:, None]
            if not self.mixed:
                can &= (of.form == 0)[:, None] | (of.form[:, None] == choice.form)
            good &= ~consumes | can
        return good

    def follow(self, encoder: int, of: Beginnings, numbers: Numbers) -> Beginnings:
        """Each beginning, an encoder further by the choice of a number."""
        choice = self.arrays[encoder].take(numbers)
        rows, gone = of.rows.copy(), of.gone.copy()
        rows[:, encoder] = numbers
        gone[:, encoder + 1] = gone[:, encoder] + choice.pairs
        consumes = choice.form > 0
        own = choice.share > 0
        shared = self._rows_of(encoder, of)[np.arange(len(of)), np.maximum(choice.share, 0)]
        stages = self.layout.stages
        ends = encoder + 1 == self.num_encoders or stages[encoder] != stages[encoder + 1]
        lost = (choice.pairs > 0) | ends
        producers = np.where(consumes, of.producers, of.producers | (1 << encoder))
        return Beginnings(
            rows=rows,
            gone=gone,
            groups=np.where(lost, 0, np.where(own, shared, of.groups)),
            groups_of=np.where(lost, -1, np.where(own, encoder, of.groups_of)),
            producers=producers * (not ends),
            run=np.where(consumes, of.run + 1, 0),
            reuses=of.reuses + consumes,
            form=np.where(of.form > 0, of.form, choice.form),
        )

    def steps(self, encoder: int, of: Beginnings, numbers: Numbers) -> Steps:
        """What each beginning does in the next encoder by the choice of a number."""
        choice = self.arrays[encoder].take(numbers)
        consumes = choice.form > 0
        average = np.array([False, *(t == "average" for _, t in self.forms)])[choice.form]
        nearest = self.nearest(of.producers)
        sources = np.where(choice.source == NEAREST, nearest, choice.source)
        sources = np.where(consumes & ~average, sources, encoder)
        gone = of.gone[:, encoder]
        taken = choice.share == TAKEN
        rows = self._rows_of(encoder, of)[np.arange(len(of)), np.maximum(choice.share, 0)]
        own_class = np.array([False, *map(self.own_class, self.forms)])[choice.form]
        return Steps(
            forms=choice.form,
            sources=sources,
            gone=gone,
            since=gone - of.gone[np.arange(len(of)), sources],
            pairs=choice.pairs,
            shared=np.where(taken, of.groups, np.where(choice.share > 0, rows, 0)),
            taken=taken,
            own_class=own_class,
            only_class=self.dead_rows and encoder == self.num_encoders - 1,
        )

    def own_class(self, form: Form) -> bool:
        """Whether consumers of a form compute their class rows."""
        return self.class_rows and form[1] in ("mixed", "average") and self.layout.class_tokens > 0

    def _attending(self, encoder: int, of: Beginnings) -> Numbers:
        """(plans,): tokens that attend to each other; 0 where the image's size says how many."""
        windows = self.layout.windows
        if windows:
            return np.full(len(of), windows[encoder], dtype=np.intp)
        return self.layout.tokens - of.gone[:, encoder]

    def _rows_of(self, encoder: int, of: Beginnings) -> Numbers:
        """(plans, 1 + shares): the rows that each share leaves; 0 for rows of their own."""
        tokens, protected = self._attending(encoder, of), self.layout.protected
        shares = np.array([0.0, *(self.shares[encoder] if self.shares else ())])
        rows = np.maximum(np.rint(shares * (tokens - protected)[:, None]), 1).astype(np.intp)
        rows[:, 0] = 0
        rows[:, 1:] += protected
        return rows

    # ---- whole plans

    def all_rows(self) -> Numbers:
        """Every plan of the space, each once, the one that does nothing first.

        Raises:
            SpaceError: there are more than `MOST_PLANS`.
        """
        if self.size > MOST_PLANS:
            raise SpaceError(
                f"the space holds {self.size:,} plans",
                hint=f"allow less, so that at most {MOST_PLANS:,} are left",
            )
        plans = self.begin()
        for encoder in range(self.num_encoders):
            at, numbers = np.nonzero(self.legal(encoder, plans))
            plans = self.follow(encoder, plans.take(at), numbers)
        return plans.rows

    def consumes(self, rows: Any) -> NDArray[np.bool_]:
        """(plans, encoders): which encoders reuse, of plans given as rows of choice numbers."""
        rows = np.asarray(rows, dtype=np.intp)
        return np.stack([of.form[at] > 0 for of, at in zip(self.arrays, rows.T, strict=True)], 1)

    def holds(self, rows: Any) -> NDArray[np.bool_]:
        """Which rows of choice numbers, (plans, encoders), are plans of the space."""
        rows = np.asarray(rows, dtype=np.intp)
        good = np.ones(len(rows), dtype=np.bool_)
        plans = self.begin().take(np.zeros(len(rows), dtype=np.intp))
        for encoder, numbers in enumerate(rows.T):
            there = numbers < len(self.choices[encoder])
            numbers = np.where(there, numbers, 0)
            legal = self.legal(encoder, plans)[np.arange(len(rows)), numbers]
            good &= there & legal
            plans = self.follow(encoder, plans, np.where(legal, numbers, 0))
        return good

    def walk(self, rows: Any) -> Iterator[tuple[Beginnings, Steps]]:
        """For every encoder, plans up to it and what they do in it.

        Args:
            rows: (plans, encoders), plans of the space.
        """
        rows = np.asarray(rows, dtype=np.intp)
        plans = self.begin().take(np.zeros(len(rows), dtype=np.intp))
        for encoder, numbers in enumerate(rows.T):
            yield plans, self.steps(encoder, plans, numbers)
            plans = self.follow(encoder, plans, numbers)

    def plan(self, row: Any) -> Plan:
        """The plan of one row."""
        reuses, merges, rows = [], [], []
        for encoder, (before, step) in enumerate(self.walk(np.asarray(row)[None])):
            if form := int(step.forms[0]):
                reuses.append(Reuse(encoder, int(step.sources[0]), *self.forms[form - 1]))
            merges.append(Merge(encoder, int(step.pairs[0])))
            if step.only_class or step.own_class[0]:
                rows.append(Rows(encoder))
            elif step.taken[0]:
                rows.append(Rows(encoder, 0, int(before.groups_of[0])))
            elif step.shared[0]:
                rows.append(Rows(encoder, int(step.shared[0])))
        return Plan(tuple(reuses), tuple(merges), tuple(rows))

    def row(self, plan: Plan) -> Numbers:
        """A plan as a row.

        Raises:
            PlanError: it is no plan of the space; names the encoder.
        """
        if plan.named_encoders > self.num_encoders:
            raise _outside(plan.named_encoders - 1, plan)
        row = np.zeros(self.num_encoders, dtype=np.intp)
        state = self.begin()
        for encoder in range(self.num_encoders):
            here = plan.at(encoder)
            numbers = np.flatnonzero(self.legal(encoder, state)[0])
            steps = self.steps(encoder, state.take(np.zeros(len(numbers), dtype=np.intp)), numbers)
            reuse = here.reuse
            form = 0
            if reuse is not None:
                form = 1 + self.forms.index(reuse.form) if reuse.form in self.forms else -1
            same = (steps.forms == form) & (steps.pairs == here.pairs)
            if reuse is not None:
                same &= steps.sources == reuse.source
            same &= (steps.own_class | steps.only_class) == here.class_rows
            if not here.class_rows:
                same &= (steps.shared == here.shared) & (
                    steps.taken == (here.groups_of is not None)
                )
                if here.groups_of is not None:
                    same &= state.groups_of[0] == here.groups_of
            found = numbers[same]
            if not len(found):
                raise _outside(encoder, plan)
            row[encoder] = found[0]
            state = self.follow(encoder, state, found[:1])
        return row

    def with_class_rows(self, plan: Plan, *, dead: bool = True) -> Plan:
        """A plan of reuse with the class rows that its encoders compute in this space.

        Without the `dead` rows of the last encoder; these change no answer.
        """
        rows = [Rows(reuse.consumer) for reuse in plan.reuses if self.own_class(reuse.form)]
        if dead and self.dead_rows:
            rows.append(Rows(self.num_encoders - 1))
        return Plan(plan.reuses, rows=tuple(rows))

    # ---- counting and drawing

    @cached_property
    def size(self) -> int:
        """How many plans the space holds; counted, not enumerated."""
        return int(sum(self._counted[-1].ways))

    @cached_property
    def _counted(self) -> list[_Counted]:
        layers = [_Counted(self.begin(), np.array([1], dtype=object), None)]
        for encoder in range(self.num_encoders):
            before = layers[-1]
            at, numbers = np.nonzero(self.legal(encoder, before.states))
            after = self.follow(encoder, before.states.take(at), numbers)
            _, first, to = np.unique(
                self._keys(encoder + 1, after), axis=0, return_index=True, return_inverse=True
            )
            to = to.reshape(-1)
            ways = np.zeros(len(first), dtype=object)
            np.add.at(ways, to, before.ways[at])
            layers.append(_Counted(after.take(first), ways, (at, numbers, to)))
        return layers

    def _keys(self, encoder: int, of: Beginnings) -> Numbers:
        """(plans, numbers): beginnings of equal numbers may go on in the same ways."""
        counts = of.reuses if self.max_reuse < self.num_encoders else of.reuses * 0
        run = of.run if self.max_run < self.num_encoders else of.run * 0
        form = of.form * (not self.mixed)
        # how many sources there are, or whether there is one: which they are makes no difference
        producers = np.array([int(bits).bit_count() for bits in of.producers], dtype=np.intp)
        if self.source == "nearest":
            producers = np.minimum(producers, 1)
        here = self.layout.windows if self.shares_rows else ()
        groups = of.groups > 0 if here or not self.merges else of.groups
        return np.stack(
            [of.gone[:, encoder], groups, producers, run, counts, form], axis=1
        ).astype(np.intp)

    def draw(self, rng: np.random.Generator, count: int) -> Numbers:
        """Plans drawn with repetitions, each as likely as any other: (count, encoders)."""
        layers = self._counted
        whole = np.asarray([float(ways) for ways in layers[-1].ways])
        at = rng.choice(len(whole), size=count, p=whole / whole.sum())
        rows = np.zeros((count, self.num_encoders), dtype=np.intp)
        for encoder in reversed(range(self.num_encoders)):
            step = layers[encoder + 1].step
            assert step is not None
            come, numbers, to = step
            order = np.argsort(to, kind="stable")
            ends = np.searchsorted(to[order], np.arange(len(layers[encoder + 1].ways) + 1))
            ways = np.array([float(w) for w in layers[encoder].ways])[come[order]]
            for state in np.unique(at):
                part = order[ends[state] : ends[state + 1]]
                chances = ways[ends[state] : ends[state + 1]]
                here = np.flatnonzero(at == state)
                chosen = rng.choice(part, size=len(here), p=chances / chances.sum())
                rows[here, encoder] = numbers[chosen]
                at[here] = -1 - come[chosen]
            at = -1 - at
        return self._with_sources(rows, rng) if self.source == "any" else rows

    def _with_sources(self, rows: Numbers, rng: np.random.Generator) -> Numbers:
        """Plans whose consumers take any of the sources there are.

        Beginnings that are counted together have as many producers, not the same ones.
        """
        plans = self.begin().take(np.zeros(len(rows), dtype=np.intp))
        for encoder, numbers in enumerate(rows.T):
            choice = self.arrays[encoder]
            wanted = choice.take(numbers[:, None])
            same = (choice.form == wanted.form) & (choice.pairs == wanted.pairs)
            same &= (choice.share == wanted.share) & self.legal(encoder, plans)
            rows[:, encoder] = np.where(same, rng.random(same.shape), -1.0).argmax(axis=1)
            plans = self.follow(encoder, plans, rows[:, encoder])
        return rows


class _Counted(NamedTuple):
    """The states before an encoder, in how many ways each is reached, and from where."""

    states: Beginnings
    ways: NDArray[Any]
    step: tuple[Numbers, Numbers, Numbers] | None


def shipped_spaces() -> list[str]:
    """Names of the spaces that come with TReX."""
    return list(shipped("search_spaces", ".yaml"))


def _outside(encoder: int, plan: Plan) -> PlanError:
    return PlanError(
        f'"{plan}" is not in the search space: what it does in encoder {encoder} is not',
        hint="give another --space, or measure the plan with `trex fit`",
    )


def _axes(file: SpaceFile, document: Document, only: Axis | None, keep_tokens: bool) -> SpaceFile:
    """A space with one axis alone, or without merging."""
    changed: dict[str, Any] = {}
    if only is not None:
        changed |= {"max_reuse": 0, "consumers": None}
        changed |= {"rows" if only == "merging" else "merging": None}
        if getattr(file, only) is None:
            raise document.problem(
                (only,), "is not in the space", hint=f"choose a space that says {only}"
            )
    if keep_tokens:
        changed["merging"] = None
    return file.model_copy(update=changed)


def _fitting(
    name: str, file: SpaceFile, document: Document, architecture: Architecture
) -> SearchSpace:
    """A file's space for a model."""
    encoders, layout = architecture.encoders, architecture.layout
    if not encoders:
        raise SpaceError(
            f"{architecture.model} has no encoders TReX can let reuse attention",
            hint="`trex cost` still prices it",
        )
    stages = tuple(encoder.stage for encoder in encoders)
    left_out: list[str] = []

    def cannot(field: str, what: str, why: str, hint: str) -> None:
        if not file.where_possible:
            raise document.problem((field,), f"{what}: {why}", hint=hint)
        left_out.append(f"{what}: {why}")

    of_maps = file.transforms if file.map_transforms is None else file.map_transforms
    of_tensor = {"output": [t for t in file.transforms if t in TRANSFORMS], "map": of_maps}
    forms = [(tensor, transform) for tensor in file.tensors for transform in of_tensor[tensor]]
    mixes = [form for form in forms if form[1] in ("mixed", "average")]
    if mixes and layout.no_map_rows:
        cannot(
            "transforms",
            f"names {mixes[0][1]}, but {architecture.model} cannot mix maps",
            layout.no_map_rows,
            f"name some of {', '.join(TRANSFORMS)}",
        )
        forms = [form for form in forms if form not in mixes]
    of_map = [form for form in forms if form[0] == "map"]
    if of_map and layout.no_maps:
        cannot(
            "tensors",
            f"names map, but encoders of {architecture.model} cannot exchange maps",
            layout.no_maps,
            "name output alone",
        )
        forms = [form for form in forms if form not in of_map]
    able = [i for i in range(1, len(encoders)) if stages[i - 1] == stages[i]]
    every = range(len(encoders))
    for field, named in (
        ("consumers", file.consumers),
        ("merging", file.merging and file.merging.encoders),
        ("rows", file.rows and file.rows.encoders),
    ):
        for encoder in named or ():
            if encoder >= len(encoders):
                raise document.problem(
                    (field,),
                    f"names encoder {encoder}, but {architecture.model} has "
                    f"{len(encoders)} encoders",
                    hint=f"encoders are numbered from 0 to {len(encoders) - 1}",
                )
            if field == "consumers" and encoder not in able:
                raise document.problem(
                    (field,),
                    f"names encoder {encoder}, the first of its stage of {architecture.model}",
                    hint=f"name some of {', '.join(map(str, able))}",
                )
    pairs: tuple[tuple[int, ...], ...] = ()
    least = 0
    if file.merging is not None:
        if layout.no_merging:
            cannot(
                "merging",
                f"{architecture.model} cannot merge tokens",
                layout.no_merging,
                "leave merging out of the space",
            )
        else:
            free = layout.tokens - layout.protected
            step = max(1, round(file.merging.step * free))
            numbers = tuple(range(step, max(step, round(file.merging.most * free)) + 1, step))
            least = layout.protected + max(1, round(file.merging.least * free))
            merging = file.merging.encoders
            pairs = tuple(numbers if merging is None or i in merging else () for i in every)
    shares: tuple[tuple[float, ...], ...] = ()
    if file.rows is not None:
        unknown = layout.windows and not all(layout.windows)
        if unknown:
            cannot(
                "rows",
                f"rows of {architecture.model} are not known",
                "the image's size says how many tokens attend to each other",
                "leave rows out of the space",
            )
        else:
            sharing = file.rows.encoders
            shares = tuple(
                file.rows.shares if sharing is None or i in sharing else () for i in every
            )
    groups = file.rows is not None and file.rows.groups
    if groups and shares and layout.no_maps:
        cannot(
            "rows",
            f"encoders of {architecture.model} cannot take another's groups",
            layout.no_maps,
            "write `groups: false`",
        )
        groups = False
    allowed = able if file.consumers is None else file.consumers
    return SearchSpace(
        name=name,
        layout=replace(layout, stages=stages),
        source=file.source,
        mixed=file.mixed,
        forms=tuple(forms),
        may_reuse=tuple(bool(forms) and file.max_reuse != 0 and i in allowed for i in every),
        max_run=file.max_run or len(encoders),
        max_reuse=len(encoders) if file.max_reuse is None else file.max_reuse,
        pairs=pairs,
        least_tokens=least,
        shares=shares,
        groups=groups,
        class_rows=file.class_rows,
        left_out=tuple(left_out),
    )
