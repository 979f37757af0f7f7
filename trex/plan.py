"""Plans: everything that is done to a model, encoder by encoder.

A plan says of every encoder what its form is (its own attention, or an earlier encoder's tensor
through a transform), how many pairs of tokens it merges, and which rows it computes. In text:

    5<-4 7<-6:map/mixed 8:map/average 3~40 6=53 7=class 9=@6 11=class

`consumer<-source[:tensor[/transform]]`, `consumer:map/average`, `encoder~pairs` and
`encoder=rows`. No torch in here.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple, cast, get_args

from trex.errors import PlanError

#: `output` is softmax(QKᵀ)V of all heads before the projection (TReX); `map` the softmaxed
#: attention probabilities, the consumer keeping its own values (Reuse Transformers, PSViT).
ReusedTensor = Literal["output", "map"]
REUSED_TENSORS: Final[tuple[ReusedTensor, ...]] = get_args(ReusedTensor)

#: What stands between the reused tensor and the consumer's projection. Of both tensors: nothing, a
#: linear map folded into the projection, the paper's LayerNorm → d×d → GELU, or a linear term of
#: the consumer's own normalised input. Of maps only: `mixed`, an average map of each of the
#: consumer's heads, kept as a constant, plus a weighted sum over the source's heads; `average`,
#: the constant alone, which has no source.
Transform = Literal["none", "linear", "block", "linear_own", "mixed", "average"]
TRANSFORMS: Final[tuple[Transform, ...]] = ("none", "linear", "block", "linear_own")
MAP_TRANSFORMS: Final[tuple[Transform, ...]] = get_args(Transform)

#: What a consumer costs depends on this alone, not on its source.
Form = tuple[ReusedTensor, Transform]

_REUSE: Final = re.compile(r"(\d+)<-(\d+)(?::([a-z]+)(?:/([a-z_]+))?)?")
_AVERAGE: Final = re.compile(r"(\d+):map/average")
_MERGE: Final = re.compile(r"(\d+)~(\d+)")
_ROWS: Final = re.compile(r"(\d+)=(?:(class)|(\d+)|@(\d+))")
#: Longer numbers are no encoders and no pairs; Python refuses to read far longer ones.
_MOST_DIGITS: Final = 9


@dataclass(frozen=True, slots=True, order=True)
class Reuse:
    """Encoder `consumer` reuses the `tensor` of the earlier encoder `source`.

    An encoder of average maps reuses what it was itself, on calibration images: it is its own
    source, and takes nothing of another.
    """

    consumer: int
    source: int
    tensor: ReusedTensor = "output"
    transform: Transform = "linear"

    @property
    def form(self) -> Form:
        """Tensor and transform."""
        return self.tensor, self.transform

    @property
    def is_average(self) -> bool:
        """Whether it is an average map alone, which needs no other encoder."""
        return self.transform == "average"

    def __str__(self) -> str:
        if self.is_average:
            return f"{self.consumer}:map/average"
        form = "" if self.form == ("output", "linear") else f":{self.tensor}/{self.transform}"
        return f"{self.consumer}<-{self.source}{form}"


@dataclass(frozen=True, slots=True, order=True)
class Merge:
    """Behind its attention, `encoder` makes one token of each of so many `pairs`."""

    encoder: int
    pairs: int

    def __str__(self) -> str:
        return f"{self.encoder}~{self.pairs}"


@dataclass(frozen=True, slots=True)
class Rows:
    """Which rows of attention an encoder computes.

    `class`: the class tokens' rows only, in the last encoder; in a consumer of maps these rows
    are its own and the others are reused. A number: so many, shared by tokens that are alike.
    `source`: as many as that encoder, shared by the groups that it matched.
    """

    encoder: int
    rows: int | Literal["class"] = "class"
    source: int | None = None

    def __str__(self) -> str:
        return f"{self.encoder}={self.rows if self.source is None else f'@{self.source}'}"


class EncoderPlan(NamedTuple):
    """A plan's say in one encoder; equal where two plans do the same there.

    Attributes:
        reuse: what it reuses, or None.
        pairs: of tokens it merges.
        class_rows: whether it computes the class tokens' rows, and no others.
        shared: how many rows its tokens share; 0 where each has its own.
        groups_of: the encoder whose groups share them; None where it matches them itself.
    """

    reuse: Reuse | None
    pairs: int = 0
    class_rows: bool = False
    shared: int = 0
    groups_of: int | None = None

    @property
    def only_class(self) -> bool:
        """Whether nothing of the other tokens is left behind its attention."""
        return self.class_rows and not self.own_class

    @property
    def own_class(self) -> bool:
        """Whether it reuses a map for all rows but the class tokens', which it computes."""
        return self.class_rows and self.reuse is not None and self.reuse.tensor == "map"


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """What of a model decides which plans it can run.

    Attributes:
        stages: for every encoder, the part of the model whose encoders have one shape and can
            exchange attention.
        tokens: vectors that enter encoder 0.
        protected: the first so many tokens are never merged.
        class_tokens: the first so many tokens are class tokens.
        class_rows: the first so many tokens are all that the head reads; 0 where it reads others.
        windows: for every encoder, the tokens that attend to each other, where these are not all
            of the stream's (0 where the image's size says how many); empty where they are.
        no_merging: why the tokens cannot be merged; empty where they can.
        no_class_rows: why the last encoder cannot leave its other rows out; empty where it can.
        no_map_rows: why maps cannot be mixed or averaged; empty where they can.
        no_maps: why encoders cannot exchange maps, nor groups of tokens; empty where they can.
    """

    stages: tuple[int, ...]
    tokens: int
    protected: int = 0
    class_tokens: int = 0
    class_rows: int = 0
    windows: tuple[int, ...] = ()
    no_merging: str = ""
    no_class_rows: str = ""
    no_map_rows: str = ""
    no_maps: str = ""

    def most_pairs(self, tokens: int) -> int:
        """Of so many tokens, how many pairs can become one: half of those not protected."""
        return most_pairs(tokens, self.protected)


@dataclass(frozen=True, slots=True)
class Plan:
    """For every encoder its form, its merges and its rows; what is not named stays as it is.

    Reuses, merges and rows are each ordered by encoder; merges of no pairs are left out. Plans
    compare, hash and sort out duplicates by value; the empty plan is `""`.

    Raises:
        PlanError: an encoder reuses itself, a later encoder or a consumer, or is named twice.
    """

    reuses: tuple[Reuse, ...] = ()
    merges: tuple[Merge, ...] = ()
    rows: tuple[Rows, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "reuses", tuple(sorted(self.reuses)))
        object.__setattr__(self, "merges", tuple(sorted(m for m in self.merges if m.pairs)))
        object.__setattr__(self, "rows", tuple(sorted(self.rows, key=lambda r: r.encoder)))
        _once([r.consumer for r in self.reuses], "has two sources")
        _once([m.encoder for m in self.merges], "merges twice")
        _once([r.encoder for r in self.rows], "has its rows named twice")
        consumers = set(self.consumers)
        for reuse in self.reuses:
            _check_reuse(reuse, consumers)
        for merge in self.merges:
            if merge.pairs < 0:
                raise PlanError(
                    f"encoder {merge.encoder} cannot merge {merge.pairs} pairs",
                    hint="give a number of pairs from 0 on",
                )

    @classmethod
    def parse(cls, text: str, transform: str = "linear") -> Plan:
        """Read `"5<-4 7<-6:map/linear 3~40 11=class"`; spaces or commas between, order free.

        Args:
            text: the plan.
            transform: of the consumers whose transform the text leaves out.

        Raises:
            PlanError: `text` is not of this form, or the plan is not valid.
        """
        _check_transform(transform)
        reuses, merges, rows = [], [], []
        for item in text.replace(",", " ").split():
            if match := _AVERAGE.fullmatch(item):
                encoder = _number(match[1])
                reuses.append(Reuse(encoder, encoder, "map", "average"))
            elif match := _REUSE.fullmatch(item):
                tensor, named = match[3] or "output", match[4] or transform
                reuse = Reuse(_number(match[1]), _number(match[2]))
                reuses.append(
                    replace(
                        reuse,
                        tensor=cast(ReusedTensor, tensor),
                        transform=cast(Transform, named),
                    )
                )
            elif match := _MERGE.fullmatch(item):
                merges.append(Merge(_number(match[1]), _number(match[2])))
            elif match := _ROWS.fullmatch(item):
                encoder = _number(match[1])
                if match[2]:
                    rows.append(Rows(encoder))
                elif match[3]:
                    rows.append(Rows(encoder, _number(match[3])))
                else:
                    rows.append(Rows(encoder, 0, _number(match[4])))
            else:
                raise PlanError(
                    f"{_short(item)!r} is not part of a plan",
                    hint='write consumer<-source, for example "5<-4 7<-6" or "7<-6:map/linear", '
                    'encoder~pairs of tokens merged, "3~40", encoder=rows, "6=53" or "7=@6", '
                    'or "11=class"',
                )
        return cls(tuple(reuses), tuple(merges), tuple(rows))

    @classmethod
    def nearest(
        cls,
        consumers: Iterable[int],
        tensor: ReusedTensor = "output",
        transform: Transform = "linear",
    ) -> Plan:
        """Every consumer reuses the nearest producer before it."""
        chosen = set(consumers)
        reuses = []
        for consumer in sorted(chosen):
            source = consumer - 1
            while source in chosen:
                source -= 1
            reuses.append(Reuse(consumer, source, tensor, transform))
        return cls(tuple(reuses))

    @classmethod
    def strided(cls, *, stride: int, start: int, n_reuse: int) -> Plan:
        """Consumers `start`, `start + stride`, …, each reusing the one before it (TReX §IV)."""
        _positive(stride=stride - 1, start=start, n_reuse=n_reuse)
        return cls.nearest(start + stride * k for k in range(n_reuse))

    @classmethod
    def continuous(cls, *, start: int, n_reuse: int) -> Plan:
        """A run of consumers from `start` on, all reusing encoder `start - 1` (TReX §IV)."""
        _positive(start=start, n_reuse=n_reuse)
        return cls.nearest(range(start, start + n_reuse))

    @classmethod
    def pyramid(cls, *, stride: int, run: int, start: int, n_reuse: int) -> Plan:
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
        return tuple(sorted({r.source for r in self.reuses if not r.is_average}))

    @property
    def transforms(self) -> dict[int, Transform]:
        """Every consumer's transform."""
        return {r.consumer: r.transform for r in self.reuses}

    @property
    def transform(self) -> str | None:
        """The consumers' transforms in one word, `block+linear`; None without consumers."""
        return "+".join(sorted(set(self.transforms.values()))) or None

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits that name this plan in files, the same on every machine.

        Of plans that only reuse they are those of version 0.1.
        """
        forms = (
            f"{r.consumer}<-{r.source}{':map' if r.tensor == 'map' else ''}/{r.transform}"
            for r in self.reuses
        )
        text = " ".join((*forms, *map(str, self.merges), *map(str, self.rows)))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def named_encoders(self) -> int:
        """One more than the last encoder the plan names; 0 for the empty plan."""
        named = [*self.consumers, *(m.encoder for m in self.merges)]
        return max((*named, *(r.encoder for r in self.rows)), default=-1) + 1

    @property
    def first_changed(self) -> int | None:
        """The first encoder after which the model computes anything else; None where none does.

        Consumers through `none` are left as they are, and class rows only change no answer.
        """
        fitted = [r.consumer for r in self.reuses if r.transform != "none"]
        shared = [r.encoder for r in self.rows if r.rows != "class"]
        return min((*fitted, *shared, *(m.encoder for m in self.merges)), default=None)

    def at(self, encoder: int) -> EncoderPlan:
        """What is done in one encoder."""
        rows = self.rows_of(encoder)
        class_rows = rows is not None and rows.rows == "class"
        return EncoderPlan(
            reuse=self.reuse_of(encoder),
            pairs=next((m.pairs for m in self.merges if m.encoder == encoder), 0),
            class_rows=class_rows,
            shared=self._shared(rows),
            groups_of=None if rows is None else rows.source,
        )

    def rows_of(self, encoder: int) -> Rows | None:
        """What the plan says of an encoder's rows, or None."""
        return next((r for r in self.rows if r.encoder == encoder), None)

    def _shared(self, rows: Rows | None) -> int:
        if rows is None or rows.rows == "class":
            return 0
        if rows.source is None:
            return rows.rows
        source = self.rows_of(rows.source)
        return 0 if source is None or source.rows == "class" else source.rows

    def reuse_of(self, encoder: int) -> Reuse | None:
        """What `encoder` reuses, or None where it is a producer."""
        return next((r for r in self.reuses if r.consumer == encoder), None)

    def with_transforms(self, transforms: str | Mapping[int, str]) -> Plan:
        """The same with other transforms: one name for all consumers, or one for each.

        Consumers of mixed and average maps stay as they are: these are no maps of another.

        Raises:
            PlanError: an unknown name, a consumer without one, or a name for a producer.
        """
        free = [r.consumer for r in self.reuses if r.transform in TRANSFORMS]
        named = dict.fromkeys(free, transforms) if isinstance(transforms, str) else transforms
        for name in (transforms,) if isinstance(transforms, str) else transforms.values():
            _check_transform(name)
        for consumer in named:
            if consumer not in free:
                raise PlanError(
                    f"encoder {consumer} has a transform but does not reuse",
                    hint="name transforms for consumers only",
                )
        if missing := sorted(set(free) - named.keys()):
            raise PlanError(
                f"consumer {missing[0]} has no transform",
                hint="name one transform for each consumer",
            )
        reuses = (
            replace(r, transform=cast(Transform, named.get(r.consumer, r.transform)))
            for r in self.reuses
        )
        return replace(self, reuses=tuple(reuses))

    def tokens(self, layout: Layout) -> tuple[tuple[int, int], ...]:
        """For every encoder, tokens in its attention (keys) and in its MLP, of `layout`'s."""
        counts, now = [], layout.tokens
        for encoder in range(len(layout.stages)):
            here = self.at(encoder)
            after = layout.class_rows if here.only_class else now - here.pairs
            counts.append((now, after))
            now = after
        return tuple(counts)

    def validate(self, layout: Layout) -> None:
        """Check that a model can run the plan.

        Raises:
            PlanError: it cannot; the message names the encoder.
        """
        encoders = len(layout.stages)
        if self.named_encoders and not encoders:
            raise PlanError(
                "the model has no encoders that TReX understands, so none can reuse",
                hint="leave the plan out, or choose a plain vision transformer (docs/models.md)",
            )
        if self.named_encoders > encoders:
            raise PlanError(
                f"the plan names encoder {self.named_encoders - 1}, but the model has "
                f"{encoders} encoders",
                hint=f"encoders are numbered from 0 to {encoders - 1}",
            )
        for reuse in self.reuses:
            if layout.stages[reuse.consumer] != layout.stages[reuse.source]:
                raise PlanError(
                    f"encoder {reuse.consumer} cannot reuse encoder {reuse.source}: they lie in "
                    "different stages of the model or differ in tokens, width or heads",
                    hint="choose a source of the same stage",
                )
            if reuse.tensor == "map" and layout.no_maps:
                raise PlanError(
                    f"encoder {reuse.consumer} cannot reuse a map: {layout.no_maps}",
                    hint=f"reuse the output, {reuse.consumer}<-{reuse.source}",
                )
        self._check_rows(layout)
        self._check_merges(layout)

    def _check_rows(self, layout: Layout) -> None:
        for reuse in self.reuses:
            if reuse.transform in ("mixed", "average") and layout.no_map_rows:
                raise PlanError(
                    f"encoder {reuse.consumer} cannot mix maps: {layout.no_map_rows}",
                    hint=f"leave {reuse} out, or reuse the map as it is",
                )
        for rows in self.rows:
            here = self.at(rows.encoder)
            if here.own_class:
                self._check_own_class(rows, layout)
            elif here.class_rows:
                self._check_class_rows(rows, layout)
            else:
                self._check_shared(rows, layout)

    def _check_own_class(self, rows: Rows, layout: Layout) -> None:
        drop = f"leave {rows} out"
        if not layout.class_tokens:
            raise PlanError(
                f"encoder {rows.encoder} cannot compute its class rows: the model has no class "
                "token",
                hint=drop,
            )
        if layout.class_rows and rows.encoder == len(layout.stages) - 1:
            raise PlanError(
                f"encoder {rows.encoder} is the last, of which the head reads class rows only: "
                "with these its own, nothing of the map would be left",
                hint=f"{drop}, or leave {self.reuse_of(rows.encoder)} out",
            )

    def _check_class_rows(self, rows: Rows, layout: Layout) -> None:
        where = f"encoder {rows.encoder} cannot compute its class rows only"
        last = len(layout.stages) - 1
        if layout.no_class_rows:
            raise PlanError(f"{where}: {layout.no_class_rows}", hint=f"leave {rows} out")
        if rows.encoder != last:
            raise PlanError(
                f"{where}: encoder {rows.encoder + 1} reads all of them",
                hint=f"name the last encoder, {last}=class",
            )

    def _check_shared(self, rows: Rows, layout: Layout) -> None:
        encoder, drop = rows.encoder, f"leave {rows} out"
        if (reuse := self.reuse_of(encoder)) is not None:
            raise PlanError(
                f"encoder {encoder} reuses and has no queries that could share rows",
                hint=f"{drop}, or leave {reuse} out",
            )
        if rows.source is not None:
            self._check_groups(rows, layout)
            return
        tokens = self.attending(encoder, layout)
        shared = self.at(encoder).shared
        if tokens and shared > tokens:
            raise PlanError(
                f"encoder {encoder} shares {shared} rows among {tokens} tokens; at most {tokens}",
                hint="give fewer rows, or merge less before it",
            )
        if shared <= layout.protected and shared != tokens:
            least = layout.protected + 1
            raise PlanError(
                f"encoder {encoder} shares {shared} rows; at least {least}",
                hint="the first tokens keep rows of their own",
            )

    def _check_groups(self, rows: Rows, layout: Layout) -> None:
        encoder, source = rows.encoder, cast(int, rows.source)
        own = self.rows_of(source) if source < encoder else None
        if own is None or own.source is not None or own.rows == "class":
            raise PlanError(
                f"encoder {encoder} takes the groups of encoder {source}, which matches none "
                "before it",
                hint=f"name an earlier encoder that has a number of rows, as in {source}=53",
            )
        merging = [m.encoder for m in self.merges if source <= m.encoder < encoder]
        if merging:
            raise PlanError(
                f"encoder {encoder} takes the groups of encoder {source}, but encoder "
                f"{merging[0]} merges tokens in between",
                hint=f"give {encoder} a number of rows of its own",
            )
        if layout.stages[source] != layout.stages[encoder]:
            raise PlanError(
                f"encoder {encoder} takes the groups of encoder {source} of another stage",
                hint="name an encoder of its stage",
            )
        if layout.no_maps:
            raise PlanError(
                f"encoder {encoder} cannot take another's groups: {layout.no_maps}",
                hint=f"give {encoder} a number of rows of its own",
            )

    def attending(self, encoder: int, layout: Layout) -> int:
        """How many tokens attend to each other in an encoder; 0 where the image's size says."""
        if layout.windows:
            return layout.windows[encoder]
        return self.tokens(layout)[encoder][0]

    def _check_merges(self, layout: Layout) -> None:
        tokens = self.tokens(layout)
        for merge in self.merges:
            before, _ = tokens[merge.encoder]
            if layout.no_merging:
                raise PlanError(
                    f"encoder {merge.encoder} cannot merge tokens: {layout.no_merging}",
                    hint=f"leave {merge} out",
                )
            check_pairs(merge.encoder, merge.pairs, before, layout.most_pairs(before))
            if self.at(merge.encoder).only_class:
                raise PlanError(
                    f"encoder {merge.encoder} computes its class rows only, which do not merge",
                    hint=f"leave {merge} out",
                )

    def __str__(self) -> str:
        return " ".join(map(str, (*self.reuses, *self.merges, *self.rows)))


def most_pairs(tokens: int, protected: int) -> int:
    """Of so many tokens, how many pairs can become one: half of those not protected."""
    return max(0, tokens - protected) // 2


def check_pairs(encoder: int, pairs: int, tokens: int, most: int) -> None:
    """See that so many pairs of tokens can become one.

    Raises:
        PlanError: they cannot.
    """
    if pairs > most:
        raise PlanError(
            f"encoder {encoder} merges {pairs} pairs of {tokens} tokens; at most {most}",
            hint="merge fewer pairs there, or in the encoders before it",
        )


def uniform_plans(num_encoders: int, n_reuse: int) -> list[Plan]:
    """The paper's candidates: every strided, pyramid and continuous plan that fits.

    For 9 encoders and 4 consumers these are the 11 patterns of the paper's example.
    """
    if n_reuse == 0:
        return [Plan()]
    plans: dict[Plan, None] = {}

    def add(plan: Plan) -> bool:
        fits = plan.reuses[-1].consumer < num_encoders
        if fits:
            plans.setdefault(plan)
        return fits

    for stride in range(2, num_encoders):
        for start in range(1, num_encoders):
            if n_reuse == 1 or not add(Plan.strided(stride=stride, start=start, n_reuse=n_reuse)):
                break
    for stride in range(2, num_encoders):
        for run in range(2, n_reuse - 1):
            if (n_reuse - run) % 2:
                continue
            for start in range(1, num_encoders):
                if not add(Plan.pyramid(stride=stride, run=run, start=start, n_reuse=n_reuse)):
                    break
    for start in range(1, num_encoders):
        if not add(Plan.continuous(start=start, n_reuse=n_reuse)):
            break
    return list(plans)


def _check_reuse(reuse: Reuse, consumers: set[int]) -> None:
    consumer, source = reuse.consumer, reuse.source
    if consumer == 0 and not reuse.is_average:
        raise PlanError(
            "encoder 0 cannot reuse: nothing runs before it",
            hint="choose a consumer from 1 on",
        )
    if reuse.is_average:
        if reuse.form != ("map", "average") or source != consumer:
            raise PlanError(
                f"encoder {consumer} has an average map, which has no source",
                hint=f"write {consumer}:map/average",
            )
        return
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
            f"encoder {consumer} reuses an unknown tensor {_short(reuse.tensor)!r}",
            hint=f"choose one of {', '.join(REUSED_TENSORS)}",
        )
    _check_transform(reuse.transform)
    if reuse.tensor != "map" and reuse.transform not in TRANSFORMS:
        raise PlanError(
            f"encoder {consumer} cannot reuse an output through {reuse.transform!r}",
            hint=f"choose one of {', '.join(TRANSFORMS)}, or reuse the map",
        )


def _check_transform(name: str) -> None:
    if name not in MAP_TRANSFORMS:
        raise PlanError(
            f"{_short(str(name))!r} is not a transform",
            hint=f"choose one of {', '.join(MAP_TRANSFORMS)}",
        )


def _once(encoders: list[int], twice: str) -> None:
    for earlier, encoder in itertools.pairwise(encoders):
        if earlier == encoder:
            raise PlanError(f"encoder {encoder} {twice}", hint="name each encoder once")


def _number(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise PlanError(
            f"a plan's number has {len(digits)} digits",
            hint=f"encoders and pairs have at most {_MOST_DIGITS}",
        )
    return int(digits)


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."


def _positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            least = 2 if name in ("stride", "run") else 1
            raise PlanError(f"{name} is too small", hint=f"give {name} of at least {least}")
