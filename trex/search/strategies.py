"""Which plans are worth fitting: five answers, one interface.

Four of them choose from a space and know every plan's price, so no evaluation is spent on a plan
over budget. Inside, plans are rows of numbers; what is chosen leaves as plans.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from trex.errors import PlanError, SpaceError
from trex.plan import Plan, Reuse, uniform_plans
from trex.search.feasible import PricedSpace
from trex.search.predict import Losses
from trex.search.solve import Solution, Solver, nearest_row
from trex.search.space import MOST_PLANS, Numbers
from trex.store.schemas import Proof

#: draws a random plan that fits is looked for in, for every plan that is wanted
_DRAWS: Final = 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What a strategy chooses from.

    Attributes:
        priced: the plans, their prices and the budget.
        losses: what plans are predicted to lose; None for strategies that do not predict.
        wanted: how many plans to choose, at most.
        seed: of everything drawn.
        levels: so many plans, at most, are the best at levels of EDAP.
        given: the plans, where there is no choice.
    """

    priced: PricedSpace
    losses: Losses | None
    wanted: int
    seed: int
    levels: int = 0
    given: tuple[Plan, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """Different plans within the budget, the most promising first.

    Attributes:
        plans: these.
        proof: of the first plan's predicted loss, where it was solved for.
    """

    plans: tuple[Plan, ...]
    proof: Proof | None = None

    @classmethod
    def of(cls, rows: Numbers, task: Task, proof: Proof | None = None) -> Chosen:
        """The plans of some rows."""
        return cls(plans=tuple(map(task.priced.space.plan, rows)), proof=proof)


class Strategy(Protocol):
    """A way to choose plans."""

    #: whether it reads predicted losses; measuring what they are made of takes a while
    predicts: bool
    #: what of the measured ranks its plans: see `store.ranking`
    ranks_on: Literal["soft_agreement", "loss"]

    def choose(self, task: Task) -> Chosen:
        """The plans to measure.

        Raises:
            InfeasibleError: no plan fits the budget.
            SpaceError: the strategy finds none in this space.
        """
        ...


class Exact:
    """The plans of least predicted loss, with a proof, and a front.

    Some are the best at levels of EDAP, which keeps the answer useful when the budget changes; the
    rest are those that are predicted to lose least.
    """

    predicts = True
    ranks_on: Literal["soft_agreement", "loss"] = "soft_agreement"

    def choose(self, task: Task) -> Chosen:
        """See `Strategy`."""
        assert task.losses is not None
        solver, budget = Solver(task.priced, task.losses), task.priced.budget
        best = solver.solve(budget, task.wanted)
        parts = [best.rows]
        if task.levels:
            parts = [best.rows[:1], solver.front(budget, task.levels).rows, best.rows]
        rows = {row.tobytes(): row for part in parts for row in part}
        return Chosen.of(np.stack(list(rows.values())[: task.wanted]), task, proof_of(best))


class RandomChoice:
    """Plans drawn at random, every plan within the budget as likely as any other: the baseline."""

    predicts = False
    ranks_on: Literal["soft_agreement", "loss"] = "soft_agreement"

    def choose(self, task: Task) -> Chosen:
        """See `Strategy`."""
        space, rng = task.priced.space, np.random.default_rng(task.seed)
        if space.size <= MOST_PLANS:
            rows = feasible_rows(task.priced)
            return Chosen.of(rows[rng.permutation(len(rows))[: task.wanted]], task)
        found = dict[bytes, Numbers]()
        for _ in range(task.wanted):
            draws = space.draw(rng, _DRAWS)
            for row in draws[task.priced.fits(task.priced.price(draws))]:
                found.setdefault(row.tobytes(), row)
            if len(found) >= task.wanted:
                break
        if not found:
            raise SpaceError(
                f"none of {task.wanted * _DRAWS:,} random plans of {space.name} fits the budget",
                hint="raise the limit, or choose another strategy",
            )
        return Chosen.of(np.stack(list(found.values())[: task.wanted]), task)


class Paper:
    """The TReX paper's candidates: Algorithm 1's number of consumers, uniform patterns only.

    The number is the least with which a pattern fits the budget. Every form of the space is tried.
    As in the paper the least loss wins.
    """

    predicts = False
    ranks_on: Literal["soft_agreement", "loss"] = "loss"

    def choose(self, task: Task) -> Chosen:
        """See `Strategy`."""
        priced = task.priced
        for n_reuse in range(priced.space.num_encoders):
            rows = self._patterns(priced, n_reuse)
            if len(rows):
                fitting = rows[priced.fits(priced.price(rows))]
                if len(fitting):
                    return Chosen.of(fitting[: task.wanted], task)
        raise SpaceError(
            f"no uniform pattern of {priced.space.name} fits the budget",
            hint="raise the limit, or choose another strategy",
        )

    def _patterns(self, priced: PricedSpace, n_reuse: int) -> Numbers:
        space, rows = priced.space, dict[bytes, Numbers]()
        for plan in uniform_plans(space.num_encoders, n_reuse):
            for form in space.forms:
                reuses = (Reuse(r.consumer, r.source, *form) for r in plan.reuses)
                with suppress(PlanError):  # a pattern that the space does not hold
                    row = space.row(space.with_class_rows(Plan(tuple(reuses))))
                    # The plan without reuse is the same in every form.
                    rows[row.tobytes()] = row
        return (
            np.stack(list(rows.values())) if rows else np.zeros((0, space.num_encoders), np.intp)
        )


class Given:
    """The plans that are given, whatever they cost."""

    predicts = False
    ranks_on: Literal["soft_agreement", "loss"] = "soft_agreement"

    def choose(self, task: Task) -> Chosen:
        """See `Strategy`."""
        return Chosen(plans=task.given)


STRATEGIES: Final[dict[str, Strategy]] = {
    "exact": Exact(),
    "given": Given(),
    "optuna": Exact(),
    "paper": Paper(),
    "random": RandomChoice(),
}


def proof_of(best: Solution) -> Proof:
    """How well the best prediction is proved to be the best."""
    return Proof(
        method="branch and bound",
        proved=bool(best.gaps[0] <= 1e-6 * max(abs(best.losses[0]), 1e-3)),
        predicted_loss=float(best.losses[0]),
        bound=float(best.bounds[0]),
        gap=float(best.gaps[0]),
    )


def count_feasible(priced: PricedSpace) -> int | None:
    """How many plans are within the budget; None where they are too many to list.

    Raises:
        InfeasibleError: none is; it names the nearest.
    """
    if priced.space.size <= MOST_PLANS:
        return len(feasible_rows(priced))
    nearest = nearest_row(priced, priced.budget)
    if not priced.fits(priced.price(nearest[None]))[0]:
        raise priced.infeasible(nearest)
    return None


def feasible_rows(priced: PricedSpace) -> Numbers:
    """Every plan within the budget.

    Raises:
        InfeasibleError: there is none; it names the nearest.
        SpaceError: the space is too large to enumerate.
    """
    rows = priced.space.all_rows()
    costs = priced.price(rows)
    fits: NDArray[np.bool_] = priced.fits(costs)
    if not fits.any():
        nearest = int(np.argmin(priced.budget.overrun(costs, priced.baseline)))
        raise priced.infeasible(rows[nearest])
    feasible: Numbers = rows[fits]
    return feasible
