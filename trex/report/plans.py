"""What a plan does, as numbers for its picture and as words for the page."""

from __future__ import annotations

from typing import NamedTuple

from trex.plan import Layout, Plan


class PlanPicture(NamedTuple):
    """A plan, encoder by encoder.

    Attributes:
        num_encoders: encoders of the model.
        arcs: (source, consumer) of every reuse.
        tokens: that enter each encoder; empty where the plan changes none.
        rows: that each encoder puts out, where it computes some only: (encoder, rows).
    """

    num_encoders: int
    arcs: tuple[tuple[int, int], ...]
    tokens: tuple[int, ...] = ()
    rows: tuple[tuple[int, int], ...] = ()

    @property
    def longest(self) -> int:
        """Encoders that the longest reuse spans; 0 without reuse."""
        return max((consumer - source for source, consumer in self.arcs), default=0)


def plan_numbers(plan: str, layout: Layout) -> PlanPicture:
    """The picture of a plan in text, on a model of this layout."""
    parsed = Plan.parse(plan)
    changed = bool(parsed.merges or parsed.rows)
    counts = parsed.tokens(layout) if changed else ()
    return PlanPicture(
        num_encoders=len(layout.stages),
        arcs=tuple((reuse.source, reuse.consumer) for reuse in parsed.reuses),
        tokens=tuple(entering for entering, _ in counts),
        rows=tuple((rows.encoder, counts[rows.encoder][1]) for rows in parsed.rows),
    )


def plan_in_words(plan: str, layout: Layout) -> str:
    """`3 of 12 encoders reuse attention, 3 merge tokens, the last computes class rows only`."""
    parsed = Plan.parse(plan)
    reusing = parsed.n_reuse
    parts = []
    if reusing or not (parsed.merges or parsed.rows):
        parts.append(f"{reusing} of {len(layout.stages)} encoders reuse attention")
    if merging := len(parsed.merges):
        who = "" if parts else f" of {len(layout.stages)} encoders"
        parts.append(f"{merging}{who} merge{'s' if merging == 1 else ''} tokens")
    if parsed.rows:
        parts.append("the last computes its class rows only")
    return ", ".join(parts)


def tokens_in_words(plan: str, layout: Layout) -> str:
    """How many tokens there are where the plan changes that; empty where it does not."""
    parsed = Plan.parse(plan)
    if not (parsed.merges or parsed.rows):
        return ""
    counts = parsed.tokens(layout)
    left = [f"{counts[m.encoder][1]} behind encoder {m.encoder}" for m in parsed.merges]
    parts = [f"Tokens: {layout.tokens} enter" + "".join(f", {part}" for part in left) + "."]
    for rows in parsed.rows:
        entering, out = counts[rows.encoder]
        parts.append(
            f"Encoder {rows.encoder} reads {entering} and puts out {out}: no head reads the rest."
        )
    return " ".join(parts)
