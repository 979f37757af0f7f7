"""Plans as rows of numbers, and what a predicted loss is made of.

Every encoder has a list of choices: choice 0 is to be a producer, the others say which source's
tensor it reuses and through which transform. A plan is then one row of choice numbers, many plans
are an integer matrix (plans, encoders), and a predicted loss is a sum over small tables, which the
exact solver can minimise with a proof.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trex.errors import PlanError
from trex.plan import Form, Plan, Reuse

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """What every encoder may do.

    Attributes:
        of: for each encoder, its choices by number; number 0 is None, a producer.
        forms: the forms of all choices, each once.
    """

    of: tuple[tuple[Reuse | None, ...], ...]
    forms: tuple[Form, ...]

    @property
    def num_encoders(self) -> int:
        """Encoders of the model."""
        return len(self.of)

    @property
    def width(self) -> int:
        """The most choices any encoder has; tables have this many columns."""
        return max(map(len, self.of))

    def sources(self) -> Rows:
        """(encoders, width): every choice's source; -1 for producers and where there is none."""
        return self._table(lambda choice: choice.source, -1)

    def form_numbers(self) -> Rows:
        """(encoders, width): every choice's form as `CostTable` numbers it; 0 for a producer."""
        numbers = {form: number for number, form in enumerate(self.forms, start=1)}
        return self._table(lambda choice: numbers[choice.form], 0)

    def _table(self, value: Any, other: int) -> Rows:
        table = np.full((self.num_encoders, self.width), other, dtype=np.intp)
        for encoder, choices in enumerate(self.of):
            for number, choice in enumerate(choices):
                if choice is not None:
                    table[encoder, number] = value(choice)
        return table

    def row_forms(self, rows: Rows) -> Rows:
        """(plans, encoders): plans as rows of form numbers, as `CostTable.price` takes them."""
        return self.form_numbers()[np.arange(self.num_encoders), rows]

    def plan(self, row: Any) -> Plan:
        """The plan of one row.

        Raises:
            PlanError: a consumer's source is itself a consumer.
        """
        chosen = (self.of[encoder][number] for encoder, number in enumerate(row))
        return Plan(tuple(reuse for reuse in chosen if reuse is not None))

    def row(self, plan: Plan) -> Rows:
        """A plan as a row.

        Raises:
            PlanError: something in it is not among its encoder's choices.
        """
        row = np.zeros(self.num_encoders, dtype=np.intp)
        for reuse in plan.reuses:
            if reuse.consumer >= self.num_encoders or reuse not in self.of[reuse.consumer]:
                raise _outside(reuse, "name its source, tensor and transform in the space")
            row[reuse.consumer] = self.of[reuse.consumer].index(reuse)
        for other in (*plan.merges, *plan.rows):
            raise _outside(other, "searches choose who reuses whom, and nothing else")
        return row


def _outside(part: object, hint: str) -> PlanError:
    return PlanError(f'"{part}" is not in the search space', hint=hint)


@dataclass(frozen=True, kw_only=True, slots=True)
class LossTerms:
    """A predicted loss as sums over small tables, for encoders i < j, in any one unit.

    All but `single` depend on the set of consumers alone.

    Attributes:
        single: (encoders, width of the choices), of any sign: what a choice loses by itself;
            column 0, the producers', is zero.
        added: (encoders, encoders), upper triangle, not negative: paid when i and j both consume.
        corrected: (encoders, encoders), upper triangle, not negative: what a consumer j takes off
            i's loss; of several such j only the largest counts for an i.
        triples: (encoders, encoders, encoders), not negative, zero unless i < j < k: paid when i,
            j and k all consume.
    """

    single: Floats
    added: Floats
    corrected: Floats
    triples: Floats

    def __post_init__(self) -> None:
        encoders = len(self.single)
        square = (encoders, encoders)
        if (self.added.shape, self.corrected.shape, self.triples.shape) != (
            square,
            square,
            (*square, encoders),
        ):
            raise ValueError("tables of unequal numbers of encoders")
        if not np.isfinite(self.single).all() or self.single[:, 0].any():
            raise ValueError("single losses must be finite, a producer's zero")
        for table in (self.added, self.corrected):
            if not np.isfinite(table).all() or (table < 0).any() or np.tril(table).any():
                raise ValueError("pairs' losses stand above the diagonal and are not negative")
        if not np.isfinite(self.triples).all() or (self.triples < 0).any():
            raise ValueError("triples' losses are not negative")
        if any(not i < j < k for i, j, k in np.argwhere(self.triples)):
            raise ValueError("triples' losses stand where i < j < k, others are zero")

    def of_consumers(self, consumes: NDArray[np.bool_]) -> Floats:
        """What sets of consumers, (plans, encoders), lose beyond their choices' own losses."""
        chosen = consumes.astype(np.float64)
        loss: Floats = np.einsum("pi,pi->p", chosen @ self.added, chosen)
        for earlier, row in enumerate(self.corrected):
            most = (chosen * row).max(axis=1, initial=0.0)
            loss -= most * chosen[:, earlier]
        for i, j, k in np.argwhere(self.triples):
            loss += self.triples[i, j, k] * chosen[:, i] * chosen[:, j] * chosen[:, k]
        return loss

    def predict(self, rows: Rows) -> Floats:
        """The predicted loss of plans given as rows of choice numbers, (plans, encoders)."""
        rows = np.asarray(rows)
        singles = self.single[np.arange(rows.shape[1]), rows].sum(axis=1)
        predicted: Floats = singles + self.of_consumers(rows != 0)
        return predicted
