"""The plans of a space as rows of choice numbers: all of them, or random ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trex.errors import SpaceError
from trex.plan import Reuse
from trex.search.space import MOST_PLANS, SearchSpace
from trex.search.terms import Choices, Rows


def all_rows(space: SearchSpace) -> Rows:
    """Every plan of the space, each once, the one without reuse first: (plans, encoders).

    Raises:
        SpaceError: there are more than `MOST_PLANS`.
    """
    if space.size > MOST_PLANS:
        raise SpaceError(
            f"the space holds {space.size:,} plans",
            hint=f"name fewer consumers, so that at most {MOST_PLANS:,} are left",
        )
    choices = space.choices()
    if space.mixed:
        return _expand(space, choices, range(len(space.forms)))
    parts = [_expand(space, choices, [form]) for form in range(len(space.forms))]
    # The plan without reuse is the same in every form.
    return np.concatenate([parts[0], *(part[1:] for part in parts[1:])])


def _expand(space: SearchSpace, choices: Choices, forms: Sequence[int]) -> Rows:
    rows = np.zeros((1, space.num_encoders), dtype=np.intp)
    run = reuses = np.zeros(1, dtype=np.intp)
    for encoder, of in enumerate(choices.of):
        parts, runs, counts = [rows], [np.zeros_like(run)], [reuses]
        free = (run < space.max_run) & (reuses < space.max_reuse)
        for number, choice in enumerate(of):
            if choice is None or space.forms.index(choice.form) not in forms:
                continue
            able = free & (rows[:, choice.source] == 0)
            if space.source == "nearest":
                able &= (rows[:, choice.source + 1 : encoder] != 0).all(axis=1)
            part = rows[able]
            part[:, encoder] = number
            parts.append(part)
            runs.append(run[able] + 1)
            counts.append(reuses[able] + 1)
        rows, run, reuses = (np.concatenate(of_all) for of_all in (parts, runs, counts))
    return rows


def holds(space: SearchSpace, rows: Rows) -> NDArray[np.bool_]:
    """Which rows are plans of the space."""
    choices = space.choices()
    consumes = rows != 0
    sources = choices.sources()[np.arange(space.num_encoders), rows]
    inside: NDArray[np.bool_] = space.allows(consumes)
    inside &= ~(consumes & ~np.array(space.may_reuse)).any(axis=1)
    nearest = np.full(len(rows), -1)
    stage = -1
    for encoder in range(space.num_encoders):
        if space.stages[encoder] != stage:
            stage, nearest = space.stages[encoder], np.full(len(rows), -1)
        at = sources[:, encoder]
        if space.source == "nearest":
            good = at == nearest
        else:
            good = (at >= 0) & ~consumes[np.arange(len(rows)), at]
        inside &= good | ~consumes[:, encoder]
        nearest = np.where(consumes[:, encoder], nearest, encoder)
    if not space.mixed:
        forms = choices.row_forms(rows)
        most = forms.max(axis=1, initial=0)
        inside &= ((forms == 0) | (forms == most[:, None])).all(axis=1)
    return inside


class RandomPlans:
    """Draws plans of a space, every plan as likely as any other, with repetitions.

    Args:
        space: the plans.
        n_reuse: only plans of exactly so many consumers.

    Raises:
        SpaceError: the space has no plan of `n_reuse` consumers.
    """

    def __init__(self, space: SearchSpace, n_reuse: int | None = None) -> None:
        self._space = space
        self._n_reuse = n_reuse
        # Without a mixture, a plan is its consumers and sources, then one form for all.
        self._forms_each = len(space.forms) if space.mixed else 1
        self._ways: dict[tuple[int, int, int, int], tuple[int, int]] = {}
        self._numbers = [
            {choice: number for number, choice in enumerate(of)} for of in space.choices().of
        ]
        if sum(self._go_on(0, 0, 0, 0)) == 0:
            raise SpaceError(
                f"{space.name} has no plan of {n_reuse} consumers",
                hint="ask for fewer, or allow more encoders to reuse",
            )

    def draw(self, rng: np.random.Generator) -> Rows:
        """One plan's row."""
        space = self._space
        form = int(rng.integers(len(space.forms)))
        if space.mixed or self._n_reuse is not None:
            return self._walk(rng, form)
        if rng.random() * space.size < 1:
            return np.zeros(space.num_encoders, dtype=np.intp)
        while not (row := self._walk(rng, form)).any():
            pass  # the plan without reuse had its chance: it is the same in every form
        return row

    def _walk(self, rng: np.random.Generator, form: int) -> Rows:
        space = self._space
        row = np.zeros(space.num_encoders, dtype=np.intp)
        producers: list[int] = []
        run = reuses = 0
        for encoder in range(space.num_encoders):
            if self._new_stage(encoder):
                producers = []
            own, consumed = self._go_on(encoder, len(producers), run, reuses)
            if rng.random() * (own + consumed) < own:
                producers.append(encoder)
                run = 0
                continue
            if space.mixed:
                form = int(rng.integers(len(space.forms)))
            at = -1 if space.source == "nearest" else int(rng.integers(len(producers)))
            choice = Reuse(encoder, producers[at], *space.forms[form])
            row[encoder] = self._numbers[encoder][choice]
            run, reuses = run + 1, reuses + 1
        return row

    def _go_on(self, encoder: int, producers: int, run: int, reuses: int) -> tuple[int, int]:
        """How many ways on there are with this encoder a producer, and with it a consumer."""
        space = self._space
        if encoder == space.num_encoders:
            return int(self._n_reuse in (None, reuses)), 0
        if self._new_stage(encoder):
            producers = 0
        state = encoder, producers, run, reuses
        if state not in self._ways:
            own = sum(self._go_on(encoder + 1, producers + 1, 0, reuses))
            consumed = 0
            if space.may_reuse[encoder] and run < space.max_run and reuses < space.max_reuse:
                sources = 1 if space.source == "nearest" else producers
                on = sum(self._go_on(encoder + 1, producers, run + 1, reuses + 1))
                consumed = on * sources * self._forms_each
            self._ways[state] = own, consumed
        return self._ways[state]

    def _new_stage(self, encoder: int) -> bool:
        stages = self._space.stages
        return 0 < encoder < len(stages) and stages[encoder - 1] != stages[encoder]
