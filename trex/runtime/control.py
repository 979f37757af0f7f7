"""Controllers: from a stream of budgets, or the length of a queue, to a plan, with hysteresis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from trex.errors import BudgetError
from trex.runtime.dynamic import Point, Quantity

#: How much room a dearer plan must leave, as a share of its cost, and for how many updates.
MARGIN: Final = 0.1
PATIENCE: Final = 3


class BudgetController:
    """From budgets to plans: down at once, up only after a while of enough room.

    A budget below the current plan takes the best plan within it at once. A dearer plan is taken
    when each of the last `patience` budgets would have held it with `margin` to spare.

    Args:
        points: a dynamic model's plans.
        quantity: of the budgets.
        margin: room that a dearer plan must leave, as a share of its cost.
        patience: updates in a row that must leave it.

    Attributes:
        plan: the current plan's name; the cheapest before the first update.
        switches: how often it changed.

    Raises:
        BudgetError: there are no plans, or `margin` or `patience` make no sense.
    """

    def __init__(
        self,
        points: Sequence[Point],
        *,
        quantity: Quantity = "latency",
        margin: float = MARGIN,
        patience: int = PATIENCE,
    ) -> None:
        if not points or margin < 0 or patience < 1:
            raise BudgetError(
                f"a controller of {len(points)} plans, margin {margin:g}, patience {patience}",
                hint="give plans, a margin of at least 0 and a patience of at least 1",
            )
        ordered = sorted(points, key=lambda point: point.cost(quantity))
        self._names = [point.name for point in ordered]
        self._costs = [point.cost(quantity) for point in ordered]
        self._margin, self._patience = margin, patience
        self._current = 0
        #: what the last updates would have allowed with the margin, the newest last
        self._allowed: list[int] = []
        self.switches = 0

    @property
    def plan(self) -> str:
        """The current plan's name."""
        return self._names[self._current]

    def update(self, budget: float) -> str:
        """Take note of a budget, in SI units, and return the plan to use now.

        Where no plan fits, the cheapest is used.
        """
        self._allowed = [*self._allowed, self._within(budget / (1 + self._margin))]
        self._allowed = self._allowed[-self._patience :]
        before, now = self._current, self._within(budget)
        if now < self._current:
            self._current = now
        elif len(self._allowed) == self._patience:
            self._current = max(self._current, min(self._allowed))
        if self._current != before:
            self.switches += 1
        return self.plan

    def _within(self, budget: float) -> int:
        fitting = [i for i, cost in enumerate(self._costs) if cost <= budget * (1 + 1e-9)]
        return fitting[-1] if fitting else 0


class QueueController:
    """From a queue's length to plans: the best by which the last request still is in time.

    Args:
        points: a dynamic model's plans.
        deadline_s: within which a request must be answered, from its arrival.
        margin: as of `BudgetController`.
        patience: as of `BudgetController`.

    Raises:
        BudgetError: as `BudgetController`; or the deadline is not above zero.
    """

    def __init__(
        self,
        points: Sequence[Point],
        deadline_s: float,
        *,
        margin: float = MARGIN,
        patience: int = PATIENCE,
    ) -> None:
        if not deadline_s > 0:
            raise BudgetError(f"a deadline of {deadline_s:g} s", hint="give one above zero")
        self._deadline_s = deadline_s
        self._budgets = BudgetController(points, margin=margin, patience=patience)

    @property
    def plan(self) -> str:
        """The current plan's name."""
        return self._budgets.plan

    @property
    def switches(self) -> int:
        """How often it changed."""
        return self._budgets.switches

    def update(self, waiting: int) -> str:
        """Take note of how many requests wait, the next one counted, and return its plan."""
        return self._budgets.update(self._deadline_s / max(waiting, 1))
