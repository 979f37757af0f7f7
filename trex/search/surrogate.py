"""Predicting a plan's loss before it is fitted: from single consumers and pairs of them.

Losses of consumers do not add: runs collapse where strided consumers do not, and later consumers
correct earlier ones' error. So the loss of every consumer alone and of every pair is measured, by
fitting them on a part of the calibration images, and a plan is predicted to lose

    sum of its consumers' single losses
    + sum over its pairs of what the pair loses beyond both
    - for each consumer, the most that one later consumer corrects of its error.

An error can be corrected only once, so corrections do not add up as losses do.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trex.hardware import Form
from trex.reuse.fit import Candidate
from trex.search.space import SearchSpace

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Surrogate:
    """Losses of one form's single consumers and pairs.

    Attributes:
        single: (encoders,), in nats an image; zero where an encoder may not reuse.
        interaction: (encoders, encoders), upper triangle: what a pair loses beyond its singles.
    """

    form: Form
    single: Floats
    interaction: Floats

    def predict(self, masks: NDArray[np.bool_]) -> Floats:
        """The predicted loss of plans given as rows of consumers, in nats an image."""
        chosen = masks.astype(np.float64)
        added = np.einsum("pi,ij,pj->p", chosen, np.maximum(self.interaction, 0.0), chosen)
        predicted: Floats = chosen @ self.single + added
        for earlier, row in enumerate(np.minimum(self.interaction, 0.0)):
            corrected = (masks * row).min(axis=1, initial=0.0)
            predicted += np.where(masks[:, earlier], corrected, 0.0)
        return predicted

    def as_json(self) -> dict[str, Any]:
        """Plain values for the run folder."""
        return {
            "form": list(self.form),
            "single": self.single.tolist(),
            "interaction": self.interaction.tolist(),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Surrogate:
        """What `as_json` wrote."""
        tensor, transform = data["form"]
        return cls(
            form=(tensor, transform),
            single=np.array(data["single"]),
            interaction=np.array(data["interaction"]),
        )


def probes(space: SearchSpace, form: Form) -> Iterator[tuple[tuple[int, ...], Candidate]]:
    """What has to be measured for one form: every consumer alone, and every pair."""
    free = [i for i, allowed in enumerate(space.may_reuse) if allowed]
    most = min(2, space.max_reuse)
    for size in range(1, most + 1):
        for consumers in itertools.combinations(free, size):
            if size == 2 and space.max_run < 2 and consumers[1] == consumers[0] + 1:
                continue
            mask = np.zeros(space.num_encoders, dtype=np.bool_)
            mask[list(consumers)] = True
            yield consumers, space.candidate(mask, form)


def build(space: SearchSpace, form: Form, losses: dict[tuple[int, ...], float]) -> Surrogate:
    """A surrogate from the measured losses of all `probes`."""
    single = np.zeros(space.num_encoders)
    interaction = np.zeros((space.num_encoders, space.num_encoders))
    for consumers, loss in losses.items():
        if len(consumers) == 1:
            single[consumers[0]] = loss
    for consumers, loss in losses.items():
        if len(consumers) == 2:
            interaction[consumers] = loss - single[list(consumers)].sum()
    return Surrogate(form=form, single=single, interaction=interaction)
