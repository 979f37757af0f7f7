"""What encoders cost in every situation that some plan has put one in, each priced once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trex.architecture import Architecture, Encoder, Operation
from trex.errors import PlanError
from trex.hardware.measured import MeasuredPricer
from trex.hardware.prices import SHARED_RESOURCES, OperationPrice
from trex.hardware.schedule import Stretch, exposed_times, flow
from trex.hardware.system import Pricer, most_heads
from trex.hardware.workload import encoder_work
from trex.plan import EncoderPlan, Form, Reuse, check_pairs

Floats = NDArray[np.float64]
Whole = NDArray[np.intp]

# Rows of `Entries.values`. Those before `SUMS` add up over a plan's entries.
ENERGY, AREA, LEAKAGE, LATENCY, MACS = range(5)
_RESOURCES: Final = len(SHARED_RESOURCES)
#: seconds at each shared resource
SHARED: Final = slice(5, 5 + _RESOURCES)
SUMS: Final = SHARED.stop
#: a pipeline's stretch up to the first barrier, and behind the last: at an array of its own, then
#: at each shared resource
BEFORE: Final = slice(SUMS, SUMS + 1 + _RESOURCES)
AFTER: Final = slice(BEFORE.stop, BEFORE.stop + 1 + _RESOURCES)
#: 1 where there is a barrier
BARRIER: Final = AFTER.stop
#: longest time at anything of its own
OCCUPIED: Final = BARRIER + 1
_ROWS: Final = OCCUPIED + 1


class RowsPlan(NamedTuple):
    """What a plan says of an encoder's rows, but for class rows alone.

    Attributes:
        shared: how many its tokens share; 0 where each has its own.
        taken: whether an earlier encoder's groups share them.
        own_class: of a consumer of maps, whether the class rows are its own.
    """

    shared: int = 0
    taken: bool = False
    own_class: bool = False


def rows_codes(shared: Any, taken: Any, own_class: Any) -> Any:
    """Numbers that say what `RowsPlan` does; 0 where nothing is said. Of arrays too."""
    return 4 * shared + 2 * taken + own_class


class Situation(NamedTuple):
    """All that decides what an encoder costs, but for its source's tokens.

    Attributes:
        kind: encoders of one kind cost the same.
        form: its number; 0 for a producer.
        gone: tokens merged before it.
        pairs: tokens that it merges.
        class_rows: whether it computes class rows only.
        rows: what else is said of its rows.
    """

    kind: int
    form: int
    gone: int
    pairs: int
    class_rows: bool = False
    rows: RowsPlan = RowsPlan()


class Entries:
    """Prices by situation: of encoders, and of everything outside them.

    An encoder's entry is found in up to three steps: by its situation; if its rows are shared, or
    some of a consumer's are its own, by these; and, if tokens were merged between its source's
    attention and its own, by their number.

    Args:
        architecture: the model.
        pricer: the chip, or the machine that was measured.
        forms: of consumers, numbered from 1 on.

    Attributes:
        values: (rows, at least entries): what each costs; entry 0 is none.
        plain: (encoders, 1 + forms): the entries of the original's tokens and rows.
        most_pairs: of tokens that one encoder can merge.
        most_rows: of one encoder's maps.
    """

    def __init__(
        self,
        architecture: Architecture,
        pricer: Pricer | MeasuredPricer,
        forms: Sequence[Form],
    ) -> None:
        self._architecture, self._pricer, self._forms = architecture, pricer, tuple(forms)
        layout = architecture.layout
        self._kinds, self._encoders = _kinds(architecture.encoders, pricer)
        self.most_pairs = 0 if layout.no_merging else layout.most_pairs(layout.tokens)
        self.most_rows = max(encoder.attention.tokens for encoder in architecture.encoders)
        counts = layout.tokens if self.most_pairs else 1
        # The axes of situations; the last number of pairs stands for class rows.
        self._axes = (len(self._encoders), 1 + len(forms), counts, self.most_pairs + 2)
        # Zeros take no memory until they are written to, and most situations never come up.
        self._of_situation: Whole = np.zeros(math.prod(self._axes), dtype=np.intp)
        self._of_source: Whole = np.zeros((1, counts), dtype=np.intp)
        # Plans name few numbers of rows, so these are numbered as they come.
        self._rows: list[RowsPlan] = [RowsPlan()]
        self._number_of_rows: Whole = np.zeros(4 * (self.most_rows + 1), dtype=np.intp)
        self._of_rows: Whole = np.zeros((1, 1), dtype=np.intp)
        self._of_tokens_left: Whole = np.zeros(layout.tokens + 1, dtype=np.intp)
        self._situations: list[Situation | None] = [None]
        self.values: Floats = np.zeros((_ROWS, 1))
        every = np.arange(1 + len(forms))
        nothing = np.zeros_like(every)
        self.plain: Whole = np.array(
            [self.find(i, every, nothing, nothing) for i in range(len(self._kinds))]
        )

    def find(self, encoder: int, forms: Whole, gone: Whole, pairs: Whole) -> Whole:
        """Entries of one encoder in several plans, by situation.

        Args:
            encoder: its index.
            forms: their numbers.
            gone: tokens merged before it.
            pairs: that it merges; one more than `most_pairs` stands for class rows.

        Raises:
            PlanError: there are not so many pairs to merge.
        """
        first = self._kinds[encoder] * self._axes[1]
        codes = ((forms + first) * self._axes[2] + gone) * self._axes[3] + pairs
        found = self._of_situation.take(codes)
        if found.all():
            return found
        for code in np.unique(codes[found == 0]):
            kind, form, merged, most = map(int, np.unravel_index(code, self._axes))
            situation = Situation(kind, form, merged, most)
            if situation.pairs > self.most_pairs:
                situation = situation._replace(pairs=0, class_rows=True)
            self._of_situation[code] = self._priced(encoder, situation)
        return self._of_situation.take(codes)

    def with_rows(self, encoder: int, found: Whole, codes: Whole) -> Whole:
        """Entries of an encoder whose rows are shared, or in part its own.

        Args:
            encoder: its index.
            found: the entries of its situations.
            codes: by `rows_codes`; 0 where nothing changes.

        Raises:
            PlanError: there are not so many rows.
        """
        numbers = self._number_of_rows.take(codes)
        if not numbers.all() and codes[numbers == 0].any():
            for code in np.unique(codes[numbers == 0]):
                if code:
                    self._number_of_rows[code] = len(self._rows)
                    shared, flags = divmod(int(code), 4)
                    self._rows.append(RowsPlan(shared, flags >= 2, flags % 2 == 1))
            numbers = self._number_of_rows.take(codes)
        room, kinds = self.values.shape[1], len(self._rows)
        if self._of_rows.shape[0] < room or self._of_rows.shape[1] < kinds:
            before = self._of_rows
            self._of_rows = np.zeros((room, max(2 * kinds, before.shape[1])), dtype=np.intp)
            self._of_rows[: len(before), : before.shape[1]] = before
            self._of_rows[:, 0] = np.arange(room)
        kinds = self._of_rows.shape[1]
        flat = self._of_rows.reshape(-1)
        at = found * kinds + numbers
        changed: Whole = flat.take(at)
        if changed.all():
            return changed
        for code in np.unique(at[changed == 0]):
            entry, number = divmod(int(code), kinds)
            situation = self._situations[entry]
            assert situation is not None
            flat[code] = self._priced(encoder, situation._replace(rows=self._rows[number]))
        changed = flat.take(at)
        return changed

    def moved(self, encoder: int, found: Whole, gone_since: Whole) -> Whole:
        """Entries of an encoder whose sources attended over more tokens than itself.

        Args:
            encoder: its index.
            found: the entries of its situations.
            gone_since: tokens merged since, at least one.
        """
        if len(self._of_source) < self.values.shape[1]:
            grown = np.zeros((self.values.shape[1], self._axes[2]), dtype=np.intp)
            grown[: len(self._of_source)] = self._of_source
            self._of_source = grown
        flat = self._of_source.reshape(-1)
        codes = found * self._axes[2] + gone_since
        moved = flat.take(codes)
        if moved.all():
            return moved
        for code in np.unique(codes[moved == 0]):
            entry, since = divmod(int(code), self._axes[2])
            situation = self._situations[entry]
            assert situation is not None
            flat[code] = self._priced(encoder, situation, since)
        return flat.take(codes)

    def outside(self, left: Whole) -> Whole:
        """Entries of everything outside the encoders, by the tokens that come out of them."""
        found = self._of_tokens_left.take(left)
        if found.all():
            return found
        for tokens in np.unique(left[found == 0]):
            self._of_tokens_left[tokens] = self._add(self._around(int(tokens)), None)
        return self._of_tokens_left.take(left)

    def _priced(self, encoder: int, situation: Situation, gone_since: int = 0) -> int:
        original = self._encoders[situation.kind]
        layout = self._architecture.layout
        tokens = original.tokens - situation.gone
        check_pairs(encoder, situation.pairs, tokens, layout.most_pairs(tokens))
        rows, only_class = situation.rows, situation.class_rows
        if rows.shared:
            attending = tokens if self.most_pairs else original.attention.tokens
            _check_rows(encoder, rows.shared, attending, layout.protected)
        here = EncoderPlan(
            reuse=Reuse(original.index, 0, *self._forms[situation.form - 1])
            if situation.form
            else None,
            pairs=situation.pairs,
            class_rows=only_class or rows.own_class,
            shared=rows.shared,
            groups_of=0 if rows.taken else None,
        )
        work = encoder_work(
            original,
            here,
            (tokens, layout.class_rows if only_class else tokens - situation.pairs),
            tokens + gone_since,
            layout,
        )
        prices = self._pricer.encoder(work)
        return self._add(self._numbers(prices, work.operations), situation)

    def _add(self, numbers: Floats, situation: Situation | None) -> int:
        entry, room = len(self._situations), self.values.shape[1]
        if entry == room:
            grown = np.zeros((_ROWS, 2 * room))
            grown[:, :room] = self.values
            self.values = grown
        self._situations.append(situation)
        self.values[:, entry] = numbers
        return entry

    def _numbers(
        self, prices: Sequence[OperationPrice], operations: Sequence[Operation]
    ) -> Floats:
        options, numbers = self._pricer.options, np.zeros(_ROWS)
        numbers[ENERGY] = sum(joules for p in prices for _, joules in p.energy_j)
        numbers[AREA] = sum(area for p in prices for _, area in p.area_m2)
        numbers[LEAKAGE] = sum(p.leakage_w for p in prices)
        numbers[MACS] = sum(op.macs for op in operations)
        doubled = options.double_buffered_writes
        if options.schedule != "pipelined":
            times = exposed_times(prices, options.schedule, double_buffered=doubled)
            numbers[LATENCY] = sum(s for time in times for _, s in time)
            return numbers
        parts = flow(prices, double_buffered=doubled)
        numbers[LATENCY] = parts.before.fill_s + parts.after.fill_s + parts.within_s
        numbers[SHARED] = parts.shared_s
        numbers[BEFORE], numbers[AFTER] = _paces(parts.before), _paces(parts.after)
        numbers[BARRIER], numbers[OCCUPIED] = parts.barrier, parts.occupied_s
        return numbers

    def _around(self, left: int) -> Floats:
        """Operations outside the encoders, each a chain of its own, and what the chip has once."""
        architecture, pricer = self._architecture, self._pricer
        whole = np.zeros(_ROWS)
        for item in architecture.leaving(left).body:
            if isinstance(item, Operation):
                numbers = self._numbers(pricer.outside(item), (item,))
                whole[:SUMS] += numbers[:SUMS]
                whole[LATENCY] += numbers[BEFORE].max() + numbers[AFTER].max()
                whole[OCCUPIED] = max(whole[OCCUPIED], numbers[OCCUPIED])
        heads = most_heads(iter(architecture.operations))
        seconds, area_m2, leakage_w = pricer.once(heads)
        whole[LATENCY] += seconds
        whole[AREA] += area_m2
        whole[LEAKAGE] += leakage_w
        return whole


def _check_rows(encoder: int, rows: int, tokens: int, protected: int) -> None:
    if rows > tokens or protected >= rows != tokens:
        raise PlanError(
            f"encoder {encoder} shares {rows} rows among {tokens} tokens, of which {protected} "
            "keep their own",
            hint=f"give a number from {min(protected + 1, tokens)} to {tokens}",
        )


def _paces(stretch: Stretch) -> tuple[float, ...]:
    return (stretch.own_s, *stretch.shared_s)


def _kinds(
    encoders: Sequence[Encoder], pricer: Pricer | MeasuredPricer
) -> tuple[list[int], list[Encoder]]:
    """Every encoder's kind, and an encoder of each kind."""
    numbers: dict[Any, int] = {}
    kinds: list[int] = []
    firsts: list[Encoder] = []
    for encoder in encoders:
        looks = _looks(encoder, pricer)
        if looks not in numbers:
            numbers[looks] = len(firsts)
            firsts.append(encoder)
        kinds.append(numbers[looks])
    return kinds, firsts


def _looks(encoder: Encoder, pricer: Pricer | MeasuredPricer) -> Any:
    """What encoders of one kind have in common: all but names, measured densities included."""
    own, prefix = {op.name for op in encoder.operations}, f"blocks.{encoder.index}."
    measured = {
        name.removeprefix(prefix): tuple(planes)
        for name, planes in (pricer.densities or {}).items()
        if name in own or name.startswith(prefix)
    }
    nameless = tuple(replace(op, name="") for op in encoder.operations)
    return encoder.tokens, encoder.dim, encoder.heads, nameless, tuple(sorted(measured.items()))
