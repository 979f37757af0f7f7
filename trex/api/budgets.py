"""Several searches that share the original's pass and the probes: many limits, or the cheapest."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from trex.api.problem import carry_out
from trex.api.question import Question, prepare
from trex.errors import BudgetError, InfeasibleError
from trex.files import write_atomic
from trex.search.budget import Limit
from trex.search.engine import Search
from trex.store.schemas import Budgets, Limited, Summary

_logger = logging.getLogger(__name__)

#: a cost that is limited again and again
Minimized = Literal["latency", "energy", "area", "edap"]

#: shares of the original's cost, at most so far apart, that end the search for the cheapest plan
_NEAR: Final = 1.03
#: shares of the original's cost that are looked at first, one after another until one will do
_FIRST: Final = (0.64, 0.8, 0.95)
#: the least share of the original's cost that is looked at
_LEAST: Final = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Many:
    """What is varied.

    Attributes:
        limits: of `minimized`, one after another.
        max_drop: points that the cheapest plan may lose; None where limits are given.
        minimized: the cost.
    """

    limits: tuple[str, ...]
    max_drop: float | None
    minimized: Minimized

    @property
    def several(self) -> bool:
        """Whether more than one search is asked for."""
        return bool(self.limits) or self.max_drop is not None

    def check(self, question: Question) -> None:
        """See that what is asked makes sense together.

        Raises:
            BudgetError: it does not.
        """
        if self.limits and self.max_drop is not None:
            raise BudgetError("--budgets and --max-drop are both given", hint="give one of them")
        if question.limits.get(self.minimized):
            raise BudgetError(
                f"--max-{self.minimized} is given, which is what is varied",
                hint=f"leave it out, or choose another cost with --minimize than {self.minimized}",
            )
        if self.max_drop is not None and not 0 < self.max_drop < 100:
            raise BudgetError(
                f"--max-drop {self.max_drop:g} is not between 0 and 100", hint="give points: 1.0"
            )
        for text in self.limits:
            Limit.parse(self.minimized, text)


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """The run of the cheapest plan that loses little enough."""

    path: Path
    told: Budgets


def run(many: Many, question: Question) -> Budgets:
    """The searches, each in a folder of its own inside the run folder, and what they came to.

    Raises:
        InfeasibleError: nothing fits any of the limits, or one of those that were given.
        BudgetError: as `Many.check`.
    """
    many.check(question)
    first: Search | None = None
    results: dict[str, Summary] = {}
    out = question.given.out

    def search(limit: str) -> Summary:
        nonlocal first
        own = replace(
            question,
            limits={**question.limits, many.minimized: limit},
            given=replace(question.given, out=out / folder_of(limit)),
        )
        _logger.info("%s <= %s", many.minimized, limit)
        prepared = prepare(own, like=first)
        first = first or prepared.search
        results[limit] = carry_out(lambda: prepared, keep=True)
        return results[limit]

    try:
        if many.max_drop is None:
            for limit in many.limits:
                search(limit)
            chosen = None
        else:
            chosen = closing_in(many.max_drop, search)
    finally:
        if first is not None:
            first.close()
    told = Budgets(
        minimized=many.minimized,
        max_drop=many.max_drop,
        chosen=chosen,
        searches=[Limited(limit=limit, **of.as_json()) for limit, of in results.items()],
    )
    write_atomic(out / "budgets.json", json.dumps(told.as_json(), indent=2) + "\n")
    return told


def cheapest(many: Many, question: Question) -> Found:
    """The cheapest plan that loses little enough.

    Raises:
        InfeasibleError: there is none.
    """
    told = run(many, question)
    if told.chosen is None:
        raise InfeasibleError(
            f"no plan that was found loses at most {many.max_drop:g} points",
            hint="allow more, or look at what was found: "
            + ", ".join(
                f"{one.limit} loses {drop_of(one):.2f} (in {question.given.out})"
                for one in told.searches
            ),
        )
    return Found(path=question.given.out / folder_of(told.chosen), told=told)


def folder_of(limit: str) -> str:
    """What the folder of a limit is called."""
    return limit.replace("*", "")


def drop_of(result: Summary) -> float:
    """Points that a search's best plan loses on calibration images that it was not fitted on."""
    measured = result.best.last
    if measured.top1 is not None and measured.baseline_top1 is not None:
        return 100.0 * (measured.baseline_top1 - measured.top1)
    return 100.0 * (1.0 - measured.agreement)


def closing_in(most: float, search: Callable[[str], Summary]) -> str | None:
    """The least limit whose best plan loses little enough; None where none does.

    Raises:
        InfeasibleError: nothing fits even the last limit that is tried.
    """
    near = _NEAR

    def loses_little(share: float) -> bool:
        nonlocal near
        try:
            result = search(f"{share:.3g}x")
        except InfeasibleError as error:
            if share == _FIRST[-1]:
                raise
            _logger.info("%s", error)
            return False
        # latencies of a measured machine are not told apart when they are closer than its spread
        near = max(_NEAR, 1.0 + (result.baseline.spread or 0.0))
        drop = drop_of(result)
        _logger.info("%.3gx loses %.2f points on images not fitted on", share, drop)
        return drop <= most

    fails, works = _LEAST, None
    for share in _FIRST:
        if loses_little(share):
            works = share
            break
        fails = share
    while works is not None and works / fails > near:
        share = float(f"{(works * max(fails, 0.5 * works)) ** 0.5:.3g}")
        if not fails < share < works:
            break
        if loses_little(share):
            works = share
        else:
            fails = share
    return None if works is None else f"{works:.3g}x"
