"""What a plan does, as numbers for its picture and as words for the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from trex.plan import EncoderPlan, Layout, Plan


class PlanPicture(NamedTuple):
    """A plan, encoder by encoder.

    Attributes:
        num_encoders: encoders of the model.
        arcs: (source, consumer) of every reuse.
        averages: the encoders that have an average map alone, and no source.
        own_class: the consumers whose class rows are their own.
        tokens: that attend to each other in each encoder; empty where the plan changes neither
            them nor their rows, or where the image's size says how many they are.
        rows: that each encoder puts out, where it computes some only: (encoder, rows).
        shared: of attention in each encoder whose tokens share some: (encoder, rows).
    """

    num_encoders: int
    arcs: tuple[tuple[int, int], ...]
    averages: tuple[int, ...] = ()
    own_class: tuple[int, ...] = ()
    tokens: tuple[int, ...] = ()
    rows: tuple[tuple[int, int], ...] = ()
    shared: tuple[tuple[int, int], ...] = ()

    @property
    def longest(self) -> int:
        """Encoders that the longest reuse spans; 0 without reuse."""
        return max((consumer - source for source, consumer in self.arcs), default=0)


class _Deeds(NamedTuple):
    """The encoders that do something with tokens or rows."""

    sharing: dict[int, EncoderPlan]
    own_class: tuple[int, ...]
    only_class: tuple[int, ...]

    @classmethod
    def of(cls, plan: Plan) -> _Deeds:
        """A plan's."""
        here = {rows.encoder: plan.at(rows.encoder) for rows in plan.rows}
        return cls(
            sharing={encoder: of for encoder, of in here.items() if not of.class_rows},
            own_class=tuple(encoder for encoder, of in here.items() if of.own_class),
            only_class=tuple(encoder for encoder, of in here.items() if of.only_class),
        )


def plan_numbers(plan: str, layout: Layout) -> PlanPicture:
    """The picture of a plan in text, on a model of this layout."""
    parsed = Plan.parse(plan)
    deeds = _Deeds.of(parsed)
    encoders = range(len(layout.stages))
    attending: tuple[int, ...] = ()
    if parsed.merges or deeds.only_class or deeds.sharing:
        attending = tuple(parsed.attending(encoder, layout) for encoder in encoders)
    counts = parsed.tokens(layout)
    return PlanPicture(
        num_encoders=len(layout.stages),
        arcs=tuple((r.source, r.consumer) for r in parsed.reuses if not r.is_average),
        averages=tuple(r.consumer for r in parsed.reuses if r.is_average),
        own_class=deeds.own_class,
        tokens=attending if all(attending) else (),
        rows=tuple((encoder, counts[encoder][1]) for encoder in deeds.only_class),
        shared=tuple((encoder, here.shared) for encoder, here in deeds.sharing.items()),
    )


def plan_in_words(plan: str, layout: Layout) -> str:
    """`3 of 12 encoders reuse attention, 3 merge tokens, the last computes class rows only`."""
    parsed = Plan.parse(plan)
    deeds = _Deeds.of(parsed)
    averages = sum(reuse.is_average for reuse in parsed.reuses)
    reusing = parsed.n_reuse - averages
    counted = (
        (reusing, "reuse", " attention"),
        (averages, "attend", " by an average map"),
        (len(parsed.merges), "merge", " tokens"),
        (len(deeds.sharing), "share", " rows of attention"),
    )
    parts: list[str] = []
    for number, verb, what in counted:
        if number:
            of_all = "" if parts else f" of {len(layout.stages)} encoders"
            parts.append(f"{number}{of_all} {verb}{'s' if number == 1 else ''}{what}")
    if not parts and not deeds.only_class:
        parts.append(f"0 of {len(layout.stages)} encoders reuse attention")
    if deeds.only_class:
        parts.append("the last computes its class rows only")
    return ", ".join(parts)


def tokens_in_words(plan: str, layout: Layout) -> str:
    """How many tokens there are, and rows of attention, where the plan changes that."""
    parsed = Plan.parse(plan)
    deeds = _Deeds.of(parsed)
    sentences = []
    counts = parsed.tokens(layout)
    if parsed.merges or deeds.only_class:
        left = [f"{counts[m.encoder][1]} behind encoder {m.encoder}" for m in parsed.merges]
        sentences.append(", ".join((f"Tokens: {layout.tokens} enter", *left)) + ".")
    if deeds.sharing:
        rows = [_sharing(encoder, here) for encoder, here in deeds.sharing.items()]
        sentences.append(f"Rows of attention: {', '.join(rows)}; the tokens stay.")
    if deeds.own_class:
        sentences.append(_own_class(deeds.own_class))
    for encoder in deeds.only_class:
        entering, out = counts[encoder]
        sentences.append(
            f"Encoder {encoder} reads {entering} and puts out {out}: no head reads the rest."
        )
    return " ".join(sentences)


def _sharing(encoder: int, here: EncoderPlan) -> str:
    groups = "" if here.groups_of is None else f" (shared as in {here.groups_of})"
    return f"{here.shared} in encoder {encoder}{groups}"


def _own_class(encoders: Sequence[int]) -> str:
    *others, last = map(str, encoders)
    if not others:
        return f"Encoder {last} computes class rows of its own."
    return f"Encoders {', '.join(others)} and {last} compute class rows of their own."
