"""Predicting a plan's loss before it is fitted: from plans that change one encoder, or few.

Every choice of an encoder is measured by itself, in the original, on a part of the calibration
images: the probes. In a plan it stands in a context, and losses do not add:

- **tokens**: merging p of t tokens costs what merging the same share of all tokens does; so does
  sharing rows among t tokens. Between measured numbers losses are interpolated.
- **correlation**: errors of one kind (merges, shared rows, consumers) in different encoders point
  in part the same way. With own losses l, those of a kind are predicted to lose
  (1 − c)·sum(l) + c·(sum(sqrt(l)))²: c = 0 adds losses, as of errors that have nothing in common,
  c = 1 adds their roots. The probes' outputs say what c is for the model at hand. Errors of
  different kinds have nothing in common (docs/search.md).
- **consumers**: near pairs and triples of consumers are measured too, in one form: what they lose
  beyond that is paid on top. In spaces that also merge or share rows, most plans have few
  consumers: there only neighbours' pairs are measured at first, and the rest where the budget
  asks for plans with three near one another (`triple_probes`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trex.plan import Form, Merge, Plan, Reuse, Rows
from trex.search.space import TAKEN, Beginnings, Choice, Numbers, SearchSpace

Floats = NDArray[np.float64]

#: Pairs and triples of consumers further apart are not measured: on DeiT-T they change no rank.
REACH: Final = 4
#: in spaces that also merge or share rows, only neighbours' pairs are at first
REACH_OF_PAIRS: Final = 2
#: kinds of errors, and what the correlation of each is where probes do not say
KINDS: Final = ("merging", "rows", "reuse")
_USUAL: Final = (0.13, 0.24, 0.06)
#: numbers that a probe's error is summed up in
SKETCH: Final = 256
#: a loss of nothing, nats
_LEAST: Final = 1e-6
#: the least part in what consumers lose together that can be told from none
_PART: Final = 0.25
#: shares of all mergeable tokens at which merges are measured
_MERGED: Final = (0.04, 0.12, 0.25, 0.49)


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Predicted losses of a space's plans, in nats an image.

    Attributes:
        space: the plans.
        correlation: (kinds,), of errors, from 0 to 1.
        choice: (encoders, width): what the form and the source of a choice lose by themselves.
        merged: (encoders, measured numbers): what merges lose.
        pairs: the measured numbers of pairs, rising.
        shared: (encoders, shares): what sharing rows loses.
        shares: of rows, falling.
        reference: (encoders,): what each consumer loses in the form that pairs are measured in.
        added: (encoders, encoders), upper triangle: what pairs lose beyond that.
        triples: (encoders, encoders, encoders), zero unless i < j < k.
        triples_measured: whether all pairs and triples within `REACH` were.
    """

    space: SearchSpace
    choice: Floats
    merged: Floats
    pairs: tuple[int, ...]
    shared: Floats
    shares: tuple[float, ...]
    reference: Floats
    added: Floats
    triples: Floats
    correlation: tuple[float, float, float] = _USUAL
    triples_measured: bool = True

    def own(self, encoder: int, before: Beginnings, numbers: Numbers) -> Floats:
        """(kinds, plans): what each loses in one encoder by itself, there."""
        space = self.space
        choice = space.arrays[encoder].take(numbers)
        loss = np.zeros((len(KINDS), len(numbers)))
        loss[2] = self.choice[encoder, numbers]
        layout = space.layout
        left = layout.tokens - layout.protected - before.gone[:, encoder]
        if choice.pairs.any():
            every = layout.tokens - layout.protected
            loss[0] = self._merging(encoder, choice.pairs * every / np.maximum(left, 1))
        if choice.share.any():
            taken = choice.share == TAKEN
            windows = layout.windows
            rows = windows[encoder] - layout.protected if windows else left
            given = np.array([1.0, *space.shares[encoder]])[np.maximum(choice.share, 0)]
            share = np.where(
                taken, (before.groups - layout.protected) / np.maximum(rows, 1), given
            )
            loss[1] = np.where(choice.share != 0, self._sharing(encoder, share), 0.0)
        return loss

    def _merging(self, encoder: int, pairs: Floats) -> Floats:
        """(plans,): what merging loses; powers between the measured numbers, and beyond them."""
        known, losses = (
            np.log(np.array(self.pairs)),
            np.log(np.maximum(self.merged[encoder], _LEAST)),
        )
        at = np.log(np.maximum(pairs, 1e-9))
        found = np.interp(at, known, losses)
        low = losses[0] + 2.0 * (at - known[0])
        slope = (losses[-1] - losses[-2]) / (known[-1] - known[-2]) if len(known) > 1 else 2.0
        high = losses[-1] + max(slope, 2.0) * (at - known[-1])
        found = np.where(at < known[0], low, np.where(at > known[-1], high, found))
        whole: Floats = np.where(pairs > 0, np.exp(found), 0.0)
        return whole

    def _sharing(self, encoder: int, share: Floats) -> Floats:
        """(plans,): what sharing rows loses; straight between the measured shares and 1."""
        shares = np.array([1.0, *self.shares])[::-1]
        losses = np.array([0.0, *self.shared[encoder]])[::-1]
        found: Floats = np.interp(share, shares, losses)
        return found

    def between(self, encoder: int, before: Beginnings, numbers: Numbers) -> Floats:
        """(plans,): what consumers lose together beyond that, as one joins those before it."""
        consumes = self.space.arrays[encoder].form[numbers] > 0
        found = np.zeros(len(numbers))
        if not (self.reuse_interacts and consumes.any()):
            return found
        at = np.flatnonzero(consumes)
        earlier, weight = self._consumers(before.rows[at])
        here = weight_of(self.choice[encoder, numbers[at]], self.reference[encoder])
        whole = (earlier * weight) @ self.added[:, encoder] * here
        if self.triples.any():
            both = (earlier * weight) @ self.triples[:, :, encoder]
            whole += (both * earlier * weight).sum(axis=1) * here
        found[at] = whole
        return found

    @property
    def reuse_interacts(self) -> bool:
        """Whether anything is known of consumers together."""
        return bool(self.added.any() or self.triples.any())

    def _consumers(self, rows: Numbers) -> tuple[Floats, Floats]:
        """(plans, encoders): which consume, and how much their form loses of the reference's."""
        encoders = np.arange(rows.shape[1])
        weights = weight_of(self.choice[encoders, rows], self.reference)
        return self.space.consumes(rows).astype(np.float64), weights

    @property
    def alike(self) -> Floats:
        """(kinds,): the correlations, as an array."""
        return np.array(self.correlation)

    def linear(self, own: Floats) -> Floats:
        """(plans,): the part of own losses, (kinds, plans), that adds up over encoders."""
        whole: Floats = (1.0 - self.alike) @ own
        return whole

    def together(self, sums: Floats, roots: Floats) -> Floats:
        """(plans,): what plans lose.

        Args:
            sums: (plans,), of `linear` and `between`.
            roots: (kinds, plans), sums of own losses' roots.
        """
        whole: Floats = sums + self.alike @ roots**2
        return whole

    def roots(self, rows: Any) -> Floats:
        """(kinds, plans): sums of own losses' roots, of plans as in `predict`."""
        return self._sums(rows)[1]

    def predict(self, rows: Any) -> Floats:
        """The predicted losses of plans given as rows of choice numbers, (plans, encoders)."""
        return self.together(*self._sums(rows))

    def _sums(self, rows: Any) -> tuple[Floats, Floats]:
        """What `together` takes."""
        rows = np.asarray(rows, dtype=np.intp)
        sums, roots = np.zeros(len(rows)), np.zeros((len(KINDS), len(rows)))
        for encoder, (before, _) in enumerate(self.space.walk(rows)):
            own = self.own(encoder, before, rows[:, encoder])
            sums += self.linear(own) + self.between(encoder, before, rows[:, encoder])
            roots += np.sqrt(own)
        return sums, roots

    def crowded(self, rows: Any) -> bool:
        """Whether one of the plans has three consumers within `REACH` of each other."""
        consumes = np.pad(self.space.consumes(rows), ((0, 0), (0, REACH)))
        near = np.lib.stride_tricks.sliding_window_view(consumes, REACH + 1, axis=1)
        return bool((near.sum(axis=2) >= 3).any())

    def with_triples(self, measured: Mapping[str, float]) -> Losses:
        """The same with what pairs and triples of consumers lose beyond their parts.

        Args:
            measured: the losses of all `triple_probes`, by their keys.
        """
        return replace(
            _beyond(self, {of: measured[plan.key] for of, plan in _triple_probes(self.space)}),
            triples_measured=True,
        )

    def as_json(self) -> dict[str, object]:
        """Plain values for the run folder."""
        return {
            "correlation": dict(zip(KINDS, self.correlation, strict=True)),
            "form": list(reference_form(self.space)),
            "choice": self.choice.tolist(),
            "pairs": list(self.pairs),
            "merged": self.merged.tolist(),
            "shares": list(self.shares),
            "shared": self.shared.tolist(),
            "reference": self.reference.tolist(),
            "added": self.added.tolist(),
            "triples_measured": self.triples_measured,
            "triples": [
                [*map(int, of), float(self.triples[tuple(of)])] for of in np.argwhere(self.triples)
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], space: SearchSpace) -> Losses:
        """What `as_json` wrote."""
        encoders = space.num_encoders
        triples = np.zeros((encoders,) * 3)
        for i, j, k, loss in data["triples"]:
            triples[i, j, k] = loss
        return cls(
            space=space,
            choice=np.array(data["choice"]),
            merged=np.array(data["merged"]).reshape(encoders, len(data["pairs"])),
            pairs=tuple(data["pairs"]),
            shared=np.array(data["shared"]).reshape(encoders, len(data["shares"])),
            shares=tuple(data["shares"]),
            reference=np.array(data["reference"]),
            added=np.array(data["added"]),
            triples=triples,
            correlation=tuple(data["correlation"][kind] for kind in KINDS),
            triples_measured=bool(data.get("triples_measured", _reuses_alone(space))),
        )


def weight_of(loss: Floats, reference: Any) -> Floats:
    """How much a consumer takes part in what consumers lose together: 1 in the reference form."""
    share = np.maximum(loss, 0.0) / np.maximum(reference, _LEAST)
    weight: Floats = np.sqrt(np.minimum(share, 4.0))
    return weight


def probes(space: SearchSpace) -> list[Plan]:
    """The plans whose losses `build` needs, each once."""
    merging, sharing, reuse = _changes(space)
    together = [_together(space, of) for of in _sets(space)]
    single = [[plan for _, plan in kind] for kind in (merging, sharing, reuse)]
    return list(dict.fromkeys([*single[0], *single[1], *together, *single[2]]))


def triple_probes(space: SearchSpace) -> list[Plan]:
    """The pairs and triples of consumers that `probes` leaves out, each once."""
    return [plan for _, plan in _triple_probes(space)]


def _triple_probes(space: SearchSpace) -> list[tuple[tuple[int, ...], Plan]]:
    known = {*_sets(space)}
    further = (of for of in _sets(space, REACH, 3) if of not in known)
    return [(of, _together(space, of)) for of in further]


def _changes(space: SearchSpace) -> tuple[list[tuple[int, Plan]], ...]:
    """(kinds,): the encoder and the plan of every probe that changes one encoder."""
    return (
        [(e, _merge(e, p)) for e in _merging(space) for p in measured_pairs(space)],
        [(e, _share(space, e, s)) for e in _sharing(space) for s in _shares(space)],
        [(e, plan) for e, _, plan in _singles(space)],
    )


def correlations(
    space: SearchSpace, losses: Mapping[str, float], sketches: Mapping[str, Sequence[float]]
) -> tuple[float, float, float]:
    """(kinds,): how far errors of one kind in different encoders point the same way.

    Args:
        space: the plans.
        losses: of all `probes`, by their keys.
        sketches: of their errors (`sketch`), by their keys.
    """
    found = []
    for probed, usual in zip(_changes(space), _USUAL, strict=True):
        if not probed:  # nothing of the kind is in the space
            found.append(usual)
            continue
        vectors = np.array([sketches[plan.key] for _, plan in probed])
        encoders = np.array([e for e, _ in probed])
        size = np.array([np.sqrt(max(losses[plan.key], 0.0)) for _, plan in probed])
        pairs = np.triu(encoders[:, None] != encoders[None], 1)
        whole = float((np.outer(size, size) * pairs).sum())
        alike = float(((vectors @ vectors.T) * pairs).sum())
        found.append(float(np.clip(alike / whole, 0.0, 1.0)) if whole > 0 else usual)
    return found[0], found[1], found[2]


def build(
    space: SearchSpace,
    losses: Mapping[str, float],
    correlation: tuple[float, float, float] = _USUAL,
) -> Losses:
    """Predicted losses from the measured ones of all `probes`, by their keys."""
    # a loss of nothing may be measured as a little less
    losses = {key: max(loss, 0.0) for key, loss in losses.items()}
    encoders = space.num_encoders
    pairs, shares = measured_pairs(space), _shares(space)
    merged = np.zeros((encoders, len(pairs)))
    for e in _merging(space):
        # more never loses less: differences of small losses are noise
        merged[e] = np.maximum.accumulate([losses[_merge(e, p).key] for p in pairs])
    shared = np.zeros((encoders, len(shares)))
    for e in _sharing(space):
        shared[e] = np.maximum.accumulate([losses[_share(space, e, s).key] for s in shares])
    choice = np.zeros((encoders, space.width))
    single = {(e, number): losses[plan.key] for e, number, plan in _singles(space)}
    reference = np.zeros(encoders)
    sets = {of: losses[_together(space, of).key] for of in _sets(space)}
    for of, loss in sets.items():
        if len(of) == 1:
            reference[of[0]] = loss
    for e, of_encoder in enumerate(space.choices):
        for number, one in enumerate(of_encoder):
            if one.form:
                choice[e, number] = _own(space, e, one, single)
    square = (encoders, encoders)
    alone = Losses(
        space=space,
        choice=choice,
        merged=merged,
        pairs=pairs,
        shared=shared,
        shares=shares,
        reference=reference,
        added=np.zeros(square),
        triples=np.zeros((*square, encoders)),
        correlation=correlation,
        triples_measured=_reuses_alone(space),
    )
    return _beyond(alone, {of: loss for of, loss in sets.items() if len(of) > 1})


def _beyond(losses: Losses, sets: Mapping[tuple[int, ...], float]) -> Losses:
    """Losses with what pairs and triples, measured in the reference form, lose beyond the rest."""
    space = losses.space
    for size in (2, 3):
        added, triples = losses.added.copy(), losses.triples.copy()
        table = added if size == 2 else triples
        for of, loss in sets.items():
            if len(of) == size:
                row = space.row(_together(space, of, dead=True))
                beyond = loss - float(losses.predict(row[None])[0])
                # of several in a row all but the first reuse from afar, and so take another part
                part = weight_of(losses.choice[[*of], row[[*of]]], losses.reference[[*of]]).prod()
                table[of] = max(beyond, 0.0) / max(part, _PART)
        losses = replace(losses, added=added, triples=triples)
    return losses


def reference_form(space: SearchSpace) -> Form:
    """The form that pairs and triples are measured in: the first that is fitted."""
    fitted = [form for form in space.forms if form[1] not in ("none", "average")]
    return [*fitted, *space.forms, ("output", "linear")][0]


def measured_pairs(space: SearchSpace) -> tuple[int, ...]:
    """The numbers of pairs that merges are measured at."""
    if not space.merges:
        return ()
    layout = space.layout
    free = layout.tokens - layout.protected
    return tuple(sorted({max(1, round(share * free)) for share in _MERGED}))


def _shares(space: SearchSpace) -> tuple[float, ...]:
    return max(space.shares, key=len) if space.shares_rows else ()


def _merging(space: SearchSpace) -> list[int]:
    return [e for e, pairs in enumerate(space.pairs) if pairs and not _last_rows(space, e)]


def _sharing(space: SearchSpace) -> list[int]:
    return [e for e, shares in enumerate(space.shares) if shares and not _last_rows(space, e)]


def _last_rows(space: SearchSpace, encoder: int) -> bool:
    return space.dead_rows and encoder == space.num_encoders - 1


def _merge(encoder: int, pairs: int) -> Plan:
    return Plan(merges=(Merge(encoder, pairs),))


def _share(space: SearchSpace, encoder: int, share: float) -> Plan:
    number = 1 + space.shares[encoder].index(share)
    at = space.choices[encoder].index(Choice(share=number))
    steps = space.steps(encoder, space.begin(), np.array([at]))
    return Plan(rows=(Rows(encoder, int(steps.shared[0])),))


def _reuses_alone(space: SearchSpace) -> bool:
    return not (space.merges or space.shares_rows)


def _sets(
    space: SearchSpace, reach: int | None = None, most: int | None = None
) -> Iterator[tuple[int, ...]]:
    """The consumers of the probes in the reference form: singles, near pairs, near triples.

    Args:
        space: the plans.
        reach: the furthest apart; by default what `probes` measures.
        most: the most consumers; likewise.
    """
    free = [i for i, allowed in enumerate(space.may_reuse) if allowed]
    if reach is None or most is None:
        reach, most = (REACH, 3) if _reuses_alone(space) else (REACH_OF_PAIRS, 2)
    form = reference_form(space)
    for size in range(1, min(most, space.max_reuse) + 1):
        for consumers in itertools.combinations(free, size):
            if consumers[-1] - consumers[0] > reach or (
                form[0] == "map" and _last_rows(space, consumers[-1])
            ):
                continue
            if _longest_run(consumers) <= space.max_run:
                yield consumers


def _longest_run(consumers: tuple[int, ...]) -> int:
    longest = run = 0
    for before, consumer in zip((None, *consumers), consumers, strict=False):
        run = run + 1 if before is not None and consumer == before + 1 else 1
        longest = max(longest, run)
    return longest


def _singles(space: SearchSpace) -> Iterator[tuple[int, int, Plan]]:
    """Encoder, choice number and plan of single consumers.

    In every form from the nearest source, and in the reference form from every other.
    """
    if not space.max_reuse:
        return
    reference = reference_form(space)
    for encoder, of in enumerate(space.choices):
        for number, choice in enumerate(of):
            if not choice.form or choice.pairs:
                continue
            form = space.forms[choice.form - 1]
            source = encoder - 1 if choice.source < 0 else choice.source
            if source != encoder - 1 and form != reference:
                continue
            if form[1] == "average":
                source = encoder
            plan = Plan((Reuse(encoder, source, *form),))
            yield encoder, number, space.with_class_rows(plan, dead=False)


def _together(space: SearchSpace, consumers: tuple[int, ...], *, dead: bool = False) -> Plan:
    """Consumers in the reference form; a plan of the space with its `dead` rows left out."""
    return space.with_class_rows(Plan.nearest(consumers, *reference_form(space)), dead=dead)


def _own(
    space: SearchSpace, encoder: int, choice: Choice, single: Mapping[tuple[int, int], float]
) -> float:
    """A choice's own loss: its form's, and what its source adds in the reference form.

    A source that loses less than the nearest takes away its share, so that nothing loses less than
    nothing.
    """

    def number(form: int, source: int) -> int:
        return space.choices[encoder].index(Choice(form, source))

    reference = 1 + space.forms.index(reference_form(space))
    if space.source == "nearest" or space.forms[choice.form - 1][1] == "average":
        return single[encoder, number(choice.form, choice.source)]
    near = single[encoder, number(choice.form, encoder - 1)]
    if choice.source == encoder - 1:
        return near
    far = single[encoder, number(reference, choice.source)]
    alone = single[encoder, number(reference, encoder - 1)]
    return near + far - alone if far >= alone else near * far / alone
