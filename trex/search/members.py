"""The encoders that may reuse, what each may choose, and what every choice costs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trex.search.feasible import PricedSpace
from trex.search.relaxation import Box
from trex.search.terms import Floats, LossTerms, Rows

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What one encoder may choose; it may where `sets & test == want`.

    Attributes:
        numbers: (options,), choice numbers.
        sources: (options,), encoders.
        forms: (options,), form numbers.
        single: (options,), losses.
        test: (options,), bits of the encoders that decide.
        want: (options,), what they must be.
    """

    numbers: Rows
    sources: Rows
    forms: Rows
    single: Floats
    test: Ints
    want: Ints

    def open_to(self, sets: Ints) -> NDArray[np.bool_]:
        """(sets, options): which options exist in which sets of consumers."""
        found: NDArray[np.bool_] = (sets[:, None] & self.test) == self.want
        return found


class Members:
    """The encoders that may reuse, with their options: the bits of a set of consumers.

    Args:
        priced: the space and its costs.
        terms: of the predicted loss.
        forms: numbers of the forms, from 1, that plans may use.

    Attributes:
        encoders: their indices, bit by bit.
        options: of each.
        base: (6,), what the original costs, as sums.
        extra: of each, (6, options): what an option costs more than a producer.
        least_extra: of each, (6,): the least of every row of `extra`.
        classes: of each, the options that cost the same: their numbers, class by class.
    """

    def __init__(self, priced: PricedSpace, terms: LossTerms, forms: list[int]) -> None:
        self._priced = priced
        self.encoders = [i for i, may in enumerate(priced.space.may_reuse) if may]
        self.options = [self._options_of(encoder, terms, forms) for encoder in self.encoders]
        costs = priced.pricer.by_form
        self.base = priced.pricer.fixed + costs[:, :, 0].sum(axis=1)
        self.extra = [
            costs[:, encoder, options.forms] - costs[:, encoder, :1]
            for encoder, options in zip(self.encoders, self.options, strict=True)
        ]
        self.least_extra = [extra.min(axis=1) for extra in self.extra]
        self.classes = [self._classes(bit) for bit in range(len(self))]

    def __len__(self) -> int:
        return len(self.encoders)

    def box(self) -> Box:
        """Between which values the sums of all plans lie."""
        least = [np.minimum(extra, 0.0) for extra in self.least_extra]
        most = [np.maximum(extra.max(axis=1), 0.0) for extra in self.extra]
        low, high = (self.base + np.sum(changes, axis=0) for changes in (least, most))
        return Box(low=low, high=high)

    def values(self, bit: int, prices: Floats) -> Floats:
        """(options,): own losses plus prices (6,) times extra costs."""
        values: Floats = self.options[bit].single + prices @ self.extra[bit]
        return values

    def _classes(self, bit: int) -> list[Rows]:
        forms = self.options[bit].forms
        keys: list[tuple[float, ...]] = [(float(form),) for form in forms]
        if self._priced.pricer.whole_latency:
            # Rounding left over by adding up operations makes no difference in cost.
            keys = [tuple(float(f"{x:.12g}") for x in extra) for extra in self.extra[bit].T]
        return [
            np.array([i for i, other in enumerate(keys) if other == key], dtype=np.intp)
            for key in dict.fromkeys(keys)
        ]

    def _options_of(self, encoder: int, terms: LossTerms, forms: list[int]) -> Options:
        space, choices = self._priced.space, self._priced.choices
        bits = {e: 1 << b for b, e in enumerate(self.encoders)}
        found = []
        for number, form in enumerate(choices.form_numbers()[encoder]):
            if form not in forms:
                continue
            source = int(choices.sources()[encoder, number])
            want = test = 0
            if space.source == "nearest":
                between = range(source + 1, encoder)
                if any(e not in bits for e in between):
                    continue
                want = sum(bits[e] for e in between)
            test = want | bits.get(source, 0)
            found.append((number, source, form, terms.single[encoder, number], test, want))
        columns = list(zip(*found, strict=True))
        return Options(
            numbers=np.array(columns[0], dtype=np.intp),
            sources=np.array(columns[1], dtype=np.intp),
            forms=np.array(columns[2], dtype=np.intp),
            single=np.array(columns[3]),
            test=np.array(columns[4], dtype=np.int64),
            want=np.array(columns[5], dtype=np.int64),
        )
