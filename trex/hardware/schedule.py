"""When operations run: what each adds to an image's latency, and how often images can follow.

`sequential`: one operation after another, bus and arrays in turn, as the TReX paper adds them up.
`parallel`: Q, K and V read at once, Kᵀ and V written at once; the bus they share takes turns.
`pipelined`: vectors stream from operation to operation. A chain of operations takes one vector's
way through all of them plus the rest of the vectors at the pace of the busiest resource. Kᵀ and V
must be written before the first score, so every encoder that computes attention ends a chain; one
that reuses an `output` does not. Tokens merge once all of them are matched and through the
attention, so merging ends another; so does every round of matching, the mean of what shares a row,
and each row's way back to its tokens. Several images are in flight, each resource working on one.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from trex.architecture import Operation
from trex.hardware.chip import Schedule
from trex.hardware.prices import SHARED_RESOURCES, OperationPrice

#: Parts that read the same input and can run at once.
_AT_ONCE: Final = frozenset({"q", "k", "v"})
#: Parts that find out, from all tokens, what comes after them.
_FINDING: Final = frozenset({"matching", "sharing"})

#: (component, seconds) an operation adds to the latency
Exposed = list[tuple[str, float]]
ItemT = TypeVar("ItemT")


@dataclass(frozen=True, kw_only=True, slots=True)
class Stretch:
    """Part of a chain: one vector's time, and the other vectors' at each resource."""

    fill_s: float
    own_s: float
    shared_s: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Flow:
    """An encoder in a pipeline: what joins the chain before it, and, after a barrier, the rest.

    `within_s`: writes at the barrier, and what lies between it and a second one.
    """

    before: Stretch
    barrier: bool
    within_s: float
    after: Stretch
    #: longest time one image occupies a resource of this encoder's own
    occupied_s: float
    #: time one image occupies each shared resource
    shared_s: tuple[float, ...]


def exposed_times(
    prices: Sequence[OperationPrice], schedule: Schedule, *, double_buffered: bool
) -> list[Exposed]:
    """What each operation of one encoder adds to the latency, where encoders take turns."""
    times: list[Exposed] = [[(b.component, b.total_s) for b in p.busy] for p in prices]
    writes = [p.write_s for p in prices]
    if schedule == "parallel":
        together = _at_once(prices)
        longest = max(together, key=lambda i: _own(prices[i]), default=-1)
        for i in together:
            if i != longest:
                times[i] = [(b.component, b.total_s) for b in prices[i].busy if b.resource]
        kept = {_longest(writes, prices, hides) for hides in (True, False)}
        writes = [w if i in kept else 0.0 for i, w in enumerate(writes)]
    if double_buffered:
        cover_s = sum(seconds for i in _at_once(prices) for _, seconds in times[i])
        writes = _uncovered(prices, writes, cover_s)
    if schedule == "parallel":
        last = max(range(len(writes)), key=writes.__getitem__, default=-1)  # all run at once
        writes = [w if i == last else 0.0 for i, w in enumerate(writes)]
    for time, write_s in zip(times, writes, strict=True):
        if write_s:
            time.append(("array_write", write_s))
    return times


def pipelined_times(
    items: Sequence[tuple[OperationPrice, ...]], joins: Sequence[bool], *, double_buffered: bool
) -> list[Exposed]:
    """What each operation adds to one image's latency in a pipeline.

    Args:
        items: the operations of each encoder, and each operation outside them by itself.
        joins: whether an item streams on from the item before it.
        double_buffered: writes hide behind the reads of the vectors to be written, as far as these
            take.
    """
    flat = [price for item in items for price in item]
    times: list[Exposed] = [[] for _ in flat]
    chain: list[int] = []
    at = 0
    for item, joined in zip(items, joins, strict=True):
        here = range(at, at + len(item))
        at += len(item)
        if not joined:
            _stream(flat, chain, times)
            chain = []
        joining, *others = pieces(here, barriers(item))
        chain += joining
        for piece in others:
            _stream(flat, chain, times)
            chain = list(piece)
        for i, write_s in zip(here, _streamed_writes(item, double_buffered), strict=True):
            if write_s:
                times[i].append(("array_write", write_s))
    _stream(flat, chain, times)
    return times


def _streamed_writes(prices: Sequence[OperationPrice], double_buffered: bool) -> list[float]:
    """What each operation's write adds to a pipeline's latency.

    Into a second set of arrays, vectors are written while they stream out of Q, K and V; only what
    takes longer than these is waited for.
    """
    writes = [p.write_s for p in prices]
    if not double_buffered:
        return writes
    sources = _stretch([prices[i] for i in _at_once(prices)])
    cover_s = sources.fill_s + max(sources.own_s, *sources.shared_s)
    return _uncovered(prices, writes, cover_s)


def at_once(operations: Sequence[Operation]) -> list[int]:
    """Which operations read the same input: Q, K and V, but no Q of inputs that must be found."""
    found: list[int] = []
    for i, op in enumerate(operations):
        if op.part in _FINDING:
            break
        if op.part in _AT_ONCE:
            found.append(i)
    return found


def _at_once(prices: Sequence[OperationPrice]) -> list[int]:
    return at_once([price.operation for price in prices])


def _longest(writes: Sequence[float], prices: Sequence[OperationPrice], hides: bool) -> int:
    """The longest write of those that can hide, or of those that cannot; -1 without any."""
    which = [i for i, price in enumerate(prices) if price.write_hides is hides]
    return max(which, key=writes.__getitem__, default=-1)


def _uncovered(
    prices: Sequence[OperationPrice], writes: list[float], cover_s: float
) -> list[float]:
    """The part of every write that is left once all that can hide do so behind `cover_s`."""
    whole_s = sum(w for w, price in zip(writes, prices, strict=True) if price.write_hides)
    left = max(0.0, 1 - cover_s / whole_s) if whole_s else 0.0
    return [
        write_s * (left if price.write_hides else 1.0)
        for write_s, price in zip(writes, prices, strict=True)
    ]


def _stream(flat: Sequence[OperationPrice], chain: Sequence[int], times: list[Exposed]) -> None:
    """Add one chain's time: its fill everywhere, the other vectors at the busiest resource."""
    pace: dict[tuple[str, int], float] = {}
    for i in chain:
        for busy in flat[i].busy:
            key = (busy.resource, -1 if busy.resource else i)
            pace[key] = pace.get(key, 0.0) + busy.total_s - busy.fill_s
    busiest = max(pace, key=pace.__getitem__, default=None)
    for i in chain:
        for busy in flat[i].busy:
            at_pace = busiest == (busy.resource, -1 if busy.resource else i)
            times[i].append((busy.component, busy.total_s if at_pace else busy.fill_s))


def barriers(prices: Sequence[OperationPrice]) -> list[int]:
    """Indices of the operations that wait for all vectors before them.

    Those that say so; the first that multiplies by a matrix computed on the way, if none was
    waited for before it; and the first that merges tokens once they are matched.
    """
    found: list[int] = []
    matched = False
    for i, price in enumerate(prices):
        op = price.operation
        matched |= op.part == "matching"
        if op.part == "merging" and matched:
            return [*found, i]
        if op.waits or (op.kind == "dynamic_matmul" and not found):
            found.append(i)
    return found


def pieces(items: Sequence[ItemT], cuts: Sequence[int]) -> list[Sequence[ItemT]]:
    """A sequence cut before each of these indices."""
    ends = [0, *cuts, len(items)]
    return [items[start:end] for start, end in itertools.pairwise(ends)]


def flow(prices: Sequence[OperationPrice], *, double_buffered: bool) -> Flow:
    """One encoder, or one operation, as the numbers a pipeline is put together from."""
    first, *others = (_stretch(piece) for piece in pieces(prices, barriers(prices)))
    between_s = sum(s.fill_s + max(s.own_s, *s.shared_s) for s in others[:-1])
    occupied_s = max((_occupied(p, double_buffered) for p in prices), default=0.0)
    return Flow(
        before=first,
        barrier=bool(others),
        within_s=sum(_streamed_writes(prices, double_buffered)) + between_s,
        after=others[-1] if others else _stretch(()),
        occupied_s=occupied_s,
        shared_s=tuple(
            sum(b.total_s for p in prices for b in p.busy if b.resource == name)
            for name in SHARED_RESOURCES
        ),
    )


def busiest(prices: Sequence[OperationPrice], *, double_buffered: bool) -> Operation:
    """The operation whose own arrays or units one image occupies longest."""
    return max(prices, key=lambda p: _occupied(p, double_buffered)).operation


def _occupied(price: OperationPrice, double_buffered: bool) -> float:
    reads, write_s = _own(price), price.write_s
    return max(reads, write_s) if double_buffered else reads + write_s


def _stretch(prices: Sequence[OperationPrice]) -> Stretch:
    rest = [(b.resource, b.total_s - b.fill_s) for p in prices for b in p.busy]
    own = [sum(b.total_s - b.fill_s for b in p.busy if not b.resource) for p in prices]
    return Stretch(
        fill_s=sum(b.fill_s for p in prices for b in p.busy),
        own_s=max(own, default=0.0),
        shared_s=tuple(
            sum(seconds for resource, seconds in rest if resource == name)
            for name in SHARED_RESOURCES
        ),
    )


def _own(price: OperationPrice) -> float:
    """Time one image occupies the operation's own arrays or units."""
    return float(sum(b.total_s for b in price.busy if not b.resource))
