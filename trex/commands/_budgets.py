"""Several searches that share the original's pass and the probes: many limits, or the cheapest."""

from __future__ import annotations

import argparse
import json
import logging
from typing import TYPE_CHECKING, Any, Final

from trex.commands import _problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from trex.search.engine import Search
    from trex.store.schemas import Budgets, Summary

_logger = logging.getLogger(__name__)

#: shares of the original's cost, at most so far apart, that end the search for the cheapest plan
_NEAR: Final = 1.03
#: shares of the original's cost that are looked at first, one after another until one will do
_FIRST: Final = (0.64, 0.8, 0.95)
#: the least share of the original's cost that is looked at
_LEAST: Final = 0.1


def add_many(group: argparse._ArgumentGroup) -> None:
    """The flags."""
    group.add_argument(
        "--budgets",
        nargs="+",
        metavar="LIMIT",
        help="several limits on what --minimize names: 0.8x 0.65x 0.5x",
    )
    group.add_argument(
        "--max-drop",
        type=float,
        metavar="POINTS",
        help="the cheapest plan that loses at most so many points: of top-1 where the calibration "
        "images have labels, else of agreement with the original",
    )
    group.add_argument(
        "--minimize",
        default="latency",
        choices=("latency", "energy", "area", "edap"),
        help="the cost that --budgets limits and --max-drop minimises (latency)",
    )


def check(args: argparse.Namespace) -> None:
    """See that the flags make sense together.

    Raises:
        BudgetError: they do not.
    """
    from trex.errors import BudgetError
    from trex.search.budget import Limit

    if not several(args):
        return
    if args.budgets and args.max_drop is not None:
        raise BudgetError("--budgets and --max-drop are both given", hint="give one of them")
    if getattr(args, f"max_{args.minimize}"):
        raise BudgetError(
            f"--max-{args.minimize} is given, which is what is varied",
            hint=f"leave it out, or choose another cost with --minimize than {args.minimize}",
        )
    if args.max_drop is not None and not 0 < args.max_drop < 100:
        raise BudgetError(
            f"--max-drop {args.max_drop:g} is not between 0 and 100", hint="give points: 1.0"
        )
    for text in args.budgets or ():
        Limit.parse(args.minimize, text)


def several(args: argparse.Namespace) -> bool:
    """Whether more than one search is asked for."""
    return bool(args.budgets) or args.max_drop is not None


def run(args: argparse.Namespace, prepare: Callable[..., tuple[Search, Any]]) -> Budgets:
    """The searches, each in a folder of its own inside `--out`, and what they came to.

    Raises:
        InfeasibleError: nothing fits any of the limits, or one of `--budgets`.
    """
    from trex.files import write_atomic
    from trex.store.schemas import Budgets, Limited

    first: Search | None = None
    results: dict[str, Summary] = {}

    def search(limit: str) -> Summary:
        nonlocal first
        own = argparse.Namespace(**{**vars(args), f"max_{args.minimize}": limit})
        own.out = args.out / limit.replace("*", "")
        _logger.info("%s <= %s", args.minimize, limit)
        prepared = prepare(own, like=first)
        first = first or prepared[0]
        results[limit] = _problem.carry_out(own, lambda _: prepared, keep=True)
        return results[limit]

    try:
        if args.budgets:
            for limit in args.budgets:
                search(limit)
            chosen = None
        else:
            chosen = _cheapest(args.max_drop, search)
    finally:
        if first is not None:
            first.close()
    found = Budgets(
        minimized=args.minimize,
        max_drop=args.max_drop,
        chosen=chosen,
        searches=[Limited(limit=limit, **of.as_json()) for limit, of in results.items()],
    )
    write_atomic(args.out / "budgets.json", json.dumps(found.as_json(), indent=2) + "\n")
    return found


def drop_of(result: Summary) -> float:
    """Points that a search's best plan loses on calibration images that it was not fitted on."""
    measured = result.best.last
    if measured.top1 is not None and measured.baseline_top1 is not None:
        return 100.0 * (measured.baseline_top1 - measured.top1)
    return 100.0 * (1.0 - measured.agreement)


def _cheapest(most: float, search: Callable[[str], Summary]) -> str | None:
    """The least limit whose best plan loses little enough; None where none does.

    Raises:
        InfeasibleError: nothing fits even the last limit that is tried.
    """
    from trex.errors import InfeasibleError

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
