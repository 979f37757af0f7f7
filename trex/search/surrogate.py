"""Predicting a plan's loss before it is fitted: from plans of one, two and three consumers.

Losses of consumers do not add: dense consumers collapse where strided ones do not, and later ones
correct earlier ones' error. So a few hundred small plans, the probes, are fitted and measured on a
part of the calibration images, and a plan is predicted to lose

    sum of its consumers' own losses
    + sum over its pairs of what the pair loses beyond both
    - for each consumer, the most that one later consumer corrects of its error
    + sum over its triples of what they lose beyond all that.

An error can be corrected only once, so corrections do not add up as losses do. Encoders that are
far apart neither add to nor correct each other's loss, so only near pairs and triples are
measured. They are measured in one form and with the nearest source; what another form or source
loses is measured for single consumers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trex.plan import Form, Plan, Reuse
from trex.search.space import SearchSpace
from trex.search.terms import Floats, LossTerms, Rows

#: Pairs and triples further apart are not measured: on DeiT-T they change no rank.
REACH: Final = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Surrogate:
    """Predicted losses, in nats an image.

    Attributes:
        form: the form that pairs and triples were measured in.
        alone: (encoders,), what each consumer loses in this form with the nearest source.
        terms: what predictions are made of.
    """

    form: Form
    alone: Floats
    terms: LossTerms

    def predict(self, rows: Rows) -> Floats:
        """The predicted losses of plans given as rows of choice numbers, (plans, encoders)."""
        return self.terms.predict(rows)

    def as_json(self) -> dict[str, Any]:
        """Plain values for the run folder; interactions are corrections where negative."""
        measured = {
            "form": list(self.form),
            "single": self.alone.tolist(),
            "interaction": (self.terms.added - self.terms.corrected).tolist(),
            "triples": [
                [*map(int, of), float(self.terms.triples[tuple(of)])]
                for of in np.argwhere(self.terms.triples)
            ],
        }
        return {"forms": [measured], "choices": self.terms.single.tolist()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Surrogate:
        """What `as_json` wrote."""
        (measured,) = data["forms"]
        tensor, transform = measured["form"]
        alone = np.array(measured["single"])
        triples = np.zeros((len(alone),) * 3)
        for i, j, k, loss in measured["triples"]:
            triples[i, j, k] = loss
        return cls(
            form=(tensor, transform),
            alone=alone,
            terms=_terms(np.array(data["choices"]), np.array(measured["interaction"]), triples),
        )


def probes(space: SearchSpace) -> list[Plan]:
    """The plans whose losses `build` needs, each once."""
    form = reference_form(space)
    found = [_nearest(consumers, form) for consumers in _sets(space)]
    found += [Plan((choice,)) for choice in _other_singles(space, form)]
    return list(dict.fromkeys(found))


def build(space: SearchSpace, losses: Mapping[str, float]) -> Surrogate:
    """A surrogate from the measured losses of all `probes`, by their keys."""
    form = reference_form(space)
    loss_of = {consumers: losses[_nearest(consumers, form).key] for consumers in _sets(space)}
    alone = np.zeros(space.num_encoders)
    for consumers, loss in loss_of.items():
        if len(consumers) == 1:
            alone[consumers[0]] = loss
    other = {choice: losses[Plan((choice,)).key] for choice in _other_singles(space, form)}
    choices = space.choices()
    single = np.zeros((space.num_encoders, choices.width))
    for encoder, of in enumerate(choices.of):
        for number, choice in enumerate(of):
            if choice is not None:
                single[encoder, number] = _own_loss(space, choice, alone, other)
    interaction = np.zeros((space.num_encoders, space.num_encoders))
    triples = np.zeros((space.num_encoders,) * 3)
    for size in (2, 3):
        terms = _terms(single, interaction, triples)
        for consumers, loss in loss_of.items():
            if len(consumers) != size:
                continue
            row = choices.row(_nearest(consumers, form))
            beyond = loss - float(terms.predict(row[None])[0])
            if size == 2:
                interaction[consumers] = beyond
            else:
                triples[consumers] = max(beyond, 0.0)
    return Surrogate(form=form, alone=alone, terms=_terms(single, interaction, triples))


def reference_form(space: SearchSpace) -> Form:
    """The form that pairs and triples are measured in: the first that is fitted."""
    fitted = [form for form in space.forms if form[1] != "none"]
    return (fitted or list(space.forms))[0]


def _terms(single: Floats, interaction: Floats, triples: Floats) -> LossTerms:
    return LossTerms(
        single=single,
        added=np.maximum(interaction, 0.0),
        corrected=np.maximum(-interaction, 0.0),
        triples=triples,
    )


def _sets(space: SearchSpace) -> Iterator[tuple[int, ...]]:
    """The consumers of the probes in the reference form: singles, near pairs, near triples."""
    free = [i for i, allowed in enumerate(space.may_reuse) if allowed]
    for size in (1, 2, 3):
        for consumers in itertools.combinations(free, size):
            near = consumers[-1] - consumers[0] <= REACH
            if near and space.allows(_mask(space, consumers))[0]:
                yield consumers


def _other_singles(space: SearchSpace, form: Form) -> Iterator[Reuse]:
    """Single consumers in other forms from the nearest source, and from other sources."""
    for encoder, choices in enumerate(space.choices().of):
        for choice in choices if space.max_reuse else ():
            if choice is None:
                continue
            if choice.source == encoder - 1:
                wanted = choice.form != form
            else:
                wanted = choice.form == form and space.source == "any"
            if wanted:
                yield choice


def _own_loss(
    space: SearchSpace, choice: Reuse, alone: Floats, other: Mapping[Reuse, float]
) -> float:
    """A choice's own loss: its form's, and what its source adds in the reference form."""
    tensor, transform = reference_form(space)
    encoder = choice.consumer
    loss = other.get(replace(choice, source=encoder - 1), float(alone[encoder]))
    far = other.get(replace(choice, tensor=tensor, transform=transform))
    if choice.source == encoder - 1 or far is None:
        return loss
    return loss + far - float(alone[encoder])


def _mask(space: SearchSpace, consumers: tuple[int, ...]) -> NDArray[np.bool_]:
    mask = np.zeros((1, space.num_encoders), dtype=np.bool_)
    mask[0, list(consumers)] = True
    return mask


def _nearest(consumers: tuple[int, ...], form: Form) -> Plan:
    return Plan.nearest(consumers, *form)
