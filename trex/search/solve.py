"""The plans of least predicted loss within a budget, with a bound on what was missed.

Branch and bound over the space's automaton, encoder by encoder, for all beginnings of plans at
once. What a beginning can come to at best is bounded from below by dynamic programming over the
states that decide prices (tokens, groups at hand, tokens at the source), with Lagrange multipliers
on the limits: with prices added to the losses, every way on is the cheapest one. Beginnings whose
bound is not below the best plans' loss are dropped. Where too many are left, those of the least
bound go on, and the least bound among the others is what the answer is proved to.

EDAP is a product, no sum. Within a range of latencies and one of areas its limit is not above two
planes, which are limits on sums; the narrower the ranges, the nearer. Ranges are divided where the
bound is lowest.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from trex.errors import InfeasibleError
from trex.search.budget import TOLERANCE, Budget, Limit
from trex.search.costs import AREA, ENERGY, LATENCY, LEAKAGE, MACS, PARAMETERS, VariantCosts
from trex.search.feasible import PricedSpace
from trex.search.pareto import pareto_front
from trex.search.predict import KINDS, Losses
from trex.search.ranks import ranks_of_equals
from trex.search.space import Beginnings, Numbers, SearchSpace

Floats = NDArray[np.float64]

#: beginnings that go on from an encoder at first, and then
BEAM: Final = 2_000
MOST: Final = 20_000
#: multipliers tried for one problem, how many of them bound beginnings, and of all roots together
_MULTIPLIERS: Final = 16
_EACH: Final = 2
_CARRIED: Final = 6
#: times the sum of roots is guessed anew
_TANGENTS: Final = 3
#: how near to the best possible the multipliers must come
_NEAR: Final = 1e-3
#: the highest multiplier, in losses of the plans met
_HIGHEST: Final = 1e3
#: ranges of latency that an EDAP limit is divided into at first, how often they are divided
#: further, and when they are narrow enough
_RANGES: Final = 4
_SPLITS: Final = 64
_NARROW: Final = 1.02
#: losses that differ by less, as a share, count as equal; a smaller gap counts as none
_EQUAL: Final = 1e-9
_PROVED: Final = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class Solution:
    """The k best plans in order of predicted loss.

    Attributes:
        rows: (k, encoders), choice numbers; fewer than asked for where no more plans fit.
        losses: (k,), predicted.
        bounds: (k,): no plan but those listed before it is predicted to lose less than this.
        costs: of the plans.
    """

    rows: Numbers
    losses: Floats
    bounds: Floats
    costs: VariantCosts

    @property
    def gaps(self) -> Floats:
        """(k,): how far each plan may be from the one that belongs in its place."""
        return self.losses - self.bounds

    @property
    def proved(self) -> bool:
        """Whether every plan is proved to belong in its place, to six digits."""
        return bool((self.gaps <= _PROVED * np.maximum(np.abs(self.losses), 1e-3)).all())


class Pool:
    """The plans of least loss among those added, each once.

    Args:
        count: how many to keep.
        num_encoders: of the model.
    """

    def __init__(self, count: int, num_encoders: int) -> None:
        self.count = count
        self.rows: Numbers = np.zeros((0, num_encoders), dtype=np.intp)
        self.losses: Floats = np.zeros(0)

    @property
    def threshold(self) -> float:
        """A plan must lose less than this to be kept; infinite until there are enough."""
        if len(self.losses) < self.count:
            return float("inf")
        last = float(self.losses[-1])
        return last - _EQUAL * max(abs(last), 1e-3)

    def add(self, rows: Numbers, losses: Floats) -> None:
        """Offer plans: (plans, encoders) and (plans,)."""
        good = np.flatnonzero(losses < self.threshold)
        if not len(good):
            return
        every = np.concatenate([self.rows, rows[good]])
        _, first = np.unique(every, axis=0, return_index=True)
        both = np.concatenate([self.losses, losses[good]])[first]
        order = np.lexsort((*every[first].T[::-1], both))[: self.count]
        self.rows, self.losses = every[first][order], both[order]


class Solver:
    """Solves one space for any budget.

    Args:
        priced: the space and its prices; its own budget does not matter.
        losses: what its plans are predicted to lose.
    """

    def __init__(self, priced: PricedSpace, losses: Losses) -> None:
        self._priced, self._losses = priced, losses
        self._graphs = [_Graph(priced, losses, forms) for forms in _form_groups(priced.space)]

    def solve(self, budget: Budget, count: int = 1, *, most: int = MOST) -> Solution:
        """The `count` plans of least predicted loss within a budget.

        Args:
            budget: hard limits.
            count: how many plans.
            most: beginnings that go on from an encoder; the gaps say what that leaves open.

        Raises:
            InfeasibleError: no plan fits; it names the nearest.
        """
        priced = self._priced
        pool = Pool(count, priced.space.num_encoders)
        parts = [_Part.of(g, p) for g in self._graphs for p in _problems(priced, budget, g)]
        parts.sort(key=lambda part: part.bound)
        parts = [part.searched(budget, pool, BEAM) for part in parts]
        for _ in range(_TANGENTS):
            # bounds are best where they touch, so they touch at the best plan found
            if len(pool.rows):
                best = float(pool.losses[0])
                roots = self._losses.roots(pool.rows[:1])[:, 0]
                parts = [
                    part.touching(roots).searched(budget, pool, BEAM)
                    if part.bound < pool.threshold
                    else part
                    for part in parts
                ]
                if pool.losses[0] >= best:
                    break
        rest, splits = np.inf, 0
        waiting = [(part.bound, number, part) for number, part in enumerate(parts)]
        heapify(waiting)
        while waiting:
            bound, _, part = heappop(waiting)
            if bound >= pool.threshold:
                break  # and so are all that wait
            halves = part.problem.halves() if splits < _SPLITS else []
            if halves:
                splits += 1
                for half, number in zip(halves, (0, 1), strict=True):
                    found = _Part.of(part.graph, half)
                    if len(pool.rows):
                        found = found.touching(self._losses.roots(pool.rows[:1])[:, 0])
                    found = found._replace(bound=max(bound, found.bound))
                    found = found.searched(budget, pool, BEAM)
                    heappush(waiting, (found.bound, len(parts) + 2 * splits + number, found))
            else:
                rest = min(rest, part.searched(budget, pool, most).bound)
        if not len(pool.losses):
            nearest = self.nearest(budget)
            if not budget.feasible(priced.price(nearest[None]), priced.baseline)[0]:
                raise priced.with_budget(budget).infeasible(nearest)
            pool.add(nearest[None], self._losses.predict(nearest[None]))
        costs = priced.price(pool.rows)
        order = np.lexsort((*pool.rows.T[::-1], costs.overall, np.round(pool.losses, 12)))
        losses = pool.losses[order]
        return Solution(
            rows=pool.rows[order],
            losses=losses,
            bounds=np.minimum(losses, rest),
            costs=costs.of(order),
        )

    def front(self, budget: Budget, points: int, *, most: int = MOST) -> Solution:
        """The plans of least predicted loss at up to `points` levels of EDAP, cheapest first.

        The levels lie in equal ratios between the least EDAP there is and that of the best plan
        within the budget. No plan of the front is beaten by another of it. A plan's bound holds
        for all plans within the budget whose EDAP is not above its level. On a measured machine
        latency takes EDAP's place.

        Args:
            budget: hard limits.
            points: how many levels, at least one.
            most: as in `solve`.

        Raises:
            InfeasibleError: no plan fits; it names the nearest.
        """
        priced = self._priced
        found = [self.solve(budget, most=most)]
        quantity = priced.pricer.overall
        highest = float(found[0].costs.overall[0])
        cheapest = self.nearest(Budget.parse({quantity: "1x"}))
        lowest = float(priced.price(cheapest[None]).overall[0])
        for level in np.geomspace(highest, max(lowest, 1e-3 * highest), max(points, 2))[1:points]:
            if found[-1].costs.overall[0] <= level:
                continue  # the plan found for a higher level is within this one too
            limit = Limit(quantity=quantity, value=float(level), relative=False)
            try:
                found.append(self.solve(Budget(limits=(*budget.limits, limit)), most=most))
            except InfeasibleError:
                break  # the budget's other limits leave nothing so cheap
        rows = np.concatenate([best.rows for best in found])
        losses = np.concatenate([best.losses for best in found])
        costs = priced.price(rows)
        kept = pareto_front(np.stack([costs.overall, losses], axis=1))
        return Solution(
            rows=rows[kept],
            losses=losses[kept],
            bounds=np.concatenate([best.bounds for best in found])[kept],
            costs=costs.of(kept),
        )

    def nearest(self, budget: Budget) -> Numbers:
        """The plan that overruns a budget least, by its worst limit; the least EDAP of equals.

        Where many beginnings cost alike the nearest may be missed.
        """
        return nearest_row(self._priced, budget, self._graphs)


def nearest_row(
    priced: PricedSpace, budget: Budget, graphs: Sequence[_Graph] | None = None
) -> Numbers:
    """As `Solver.nearest`, for a space whose losses are not known."""
    graphs = graphs or [_Graph(priced, None, forms) for forms in _form_groups(priced.space)]
    rows = np.concatenate([graph.cheapest(budget) for graph in graphs])
    costs = priced.price(rows)
    overrun = budget.overrun(costs, priced.baseline)
    found: Numbers = rows[np.lexsort((costs.overall, np.round(overrun, 12)))[0]]
    return found


class _Problem(NamedTuple):
    """Limits on sums.

    Attributes:
        weights: (limits, 6).
        most: (limits,), what each sum may come to.
        edap: a limit on a product besides; None where there is none.
    """

    weights: Floats
    most: Floats
    edap: _Box | None = None

    @classmethod
    def of(cls, weights: Floats, most: Floats, edap: _Box | None) -> _Problem:
        """Limits on sums, and on a product in a box."""
        if edap is not None:
            weights = np.concatenate([weights, edap.weights])
            most = np.concatenate([most, edap.most])
        return cls(weights, most, edap)

    def halves(self) -> list[_Problem]:
        """The same in two parts, of an EDAP limit whose ranges are wide."""
        if self.edap is None:
            return []
        alone = len(self.most) - len(self.edap.most)
        return [
            _Problem.of(self.weights[:alone], self.most[:alone], half)
            for half in self.edap.halves()
        ]


class _Box(NamedTuple):
    """The plans of a range of latencies and one of areas whose EDAP is within a limit.

    Attributes:
        edap: the limit.
        latency: its range.
        area: its range.
        leakage: the least power there is.
    """

    edap: float
    latency: tuple[float, float]
    area: tuple[float, float]
    leakage: float

    @property
    def weights(self) -> Floats:
        """(4, 6), of latency, of area, and of two planes."""
        energy, _ = _energy(self.latency[0], self.leakage)
        planes = [energy + one * _unit(LATENCY) + two * _unit(AREA) for one, two in self._slopes()]
        return np.stack([_unit(LATENCY), _unit(AREA), *planes])

    @property
    def most(self) -> Floats:
        """(4,), what these sums may come to.

        Energy may come to the limit over latency times area. That is convex in each of both and
        supermodular, so over the box it is not above two planes through three corners each.
        """
        (low, high), (small, large) = self.latency, self.area
        _, less = _energy(low, self.leakage)
        corner = self.edap / (low * small) + less
        planes = [corner + one * low + two * small for one, two in self._slopes()]
        most: Floats = np.array([high, large, *planes]) * (1.0 + 2 * TOLERANCE)
        return most

    def _slopes(self) -> list[tuple[float, float]]:
        """What energy must give for latency and for area, on each plane."""
        (low, high), (small, large) = self.latency, self.area
        long, wide = max(high - low, 1e-12 * low), max(large - small, 1e-12 * small)

        def energy(latency: float, area: float) -> float:
            return self.edap / (latency * area)

        return [
            (
                (energy(low, small) - energy(high, small)) / long,
                (energy(high, small) - energy(high, large)) / wide,
            ),
            (
                (energy(low, large) - energy(high, large)) / long,
                (energy(low, small) - energy(low, large)) / wide,
            ),
        ]

    def halves(self) -> list[_Box]:
        """The wider range in two; none where both are narrow."""
        (low, high), (small, large) = self.latency, self.area
        if max(high / low, large / small) <= _NARROW:
            return []
        if high / low >= large / small:
            middle = float((low * high) ** 0.5)
            return [self._replace(latency=of) for of in ((low, middle), (middle, high))]
        middle = float((small * large) ** 0.5)
        return [self._replace(area=of) for of in ((small, middle), (middle, large))]


def _energy(latency: float, leakage: float) -> tuple[Floats, float]:
    """Weights of a sum, and what is taken off it, that energy is not below.

    Energy has leakage times latency in it, which is no sum, but of two factors that are not below
    `leakage` and `latency` the product is not below `leakage` · the one + `latency` · the other
    - `leakage` · `latency`.
    """
    weights = _unit(ENERGY) + leakage * _unit(LATENCY) + latency * _unit(LEAKAGE)
    return weights, leakage * latency


def _unit(row: int) -> Floats:
    weights = np.zeros(6)
    weights[row] = 1.0
    return weights


class _Support(NamedTuple):
    """What bounds losses from below: multipliers of the limits, and where roots are touched.

    Attributes:
        multipliers: (limits,).
        tangent: (kinds,), sums of roots.
    """

    multipliers: Floats
    tangent: Floats


class _Part(NamedTuple):
    """A problem, the graph it is solved on, and what bounds its losses.

    Attributes:
        bound: on the losses of all its plans, but those that were offered to a pool.
        supports: the best first.
    """

    graph: _Graph
    problem: _Problem
    bound: float
    supports: tuple[_Support, ...]

    @classmethod
    def of(cls, graph: _Graph, problem: _Problem) -> _Part:
        """A problem with its bounds, at roots that good plans have."""
        part = cls(graph, problem, -np.inf, ())
        tangent = np.zeros(len(KINDS))
        for _ in range(_TANGENTS):
            part = part.touching(tangent)
            at = part.supports[0]
            touched, tangent = tangent, graph.way(problem, at.multipliers, at.tangent)[1]
            if np.allclose(tangent, touched):
                return part
        return part.touching(tangent)

    def touching(self, tangent: Floats) -> _Part:
        """The same with bounds at other roots too."""
        bound, found = self.graph.multipliers(self.problem, tangent)
        supports = (*(_Support(m, tangent) for m in found), *self.supports)[:_CARRIED]
        return self._replace(bound=max(bound, self.bound), supports=supports)

    def searched(self, budget: Budget, pool: Pool, width: int) -> _Part:
        """The same once `pool` was offered its plans: bound are those that were left out."""
        if self.bound >= pool.threshold:
            return self
        left_out = self.graph.branch(budget, self, pool, width)
        return self._replace(bound=max(left_out, self.bound))


class _Layer(NamedTuple):
    """What an encoder may do, by the states before it.

    Attributes:
        states: (states,) before it.
        start: where each state's ways begin among all ways; one more at the end.
        numbers: (ways,), their choices.
        to: the states that they lead to.
        own: (ways,), the part of what they lose by themselves that adds up.
        roots: (kinds, ways), roots of what they lose.
        costs: (6, ways).
    """

    states: int
    start: Numbers
    numbers: Numbers
    to: Numbers
    own: Floats
    roots: Floats
    costs: Floats


class _Graph:
    """States that decide prices, encoder by encoder, and the ways between them.

    They know less than the automaton: limits on consumers are left out, and any earlier encoder
    may be a source. So the cheapest way through them bounds what plans cost and lose.
    """

    def __init__(self, priced: PricedSpace, losses: Losses | None, forms: Sequence[int]) -> None:
        self._priced, self._losses = priced, losses
        space = priced.space
        self.layers: list[_Layer] = []
        states = space.begin()
        allowed = np.array([0, *forms])
        for encoder in range(space.num_encoders):
            good = space.legal(encoder, states) & np.isin(space.arrays[encoder].form, allowed)
            at, numbers = np.nonzero(good)
            before = states.take(at)
            steps = space.steps(encoder, before, numbers)
            own, roots = np.zeros(len(at)), np.zeros((len(KINDS), len(at)))
            if losses is not None:
                parts = losses.own(encoder, before, numbers)
                own, roots = losses.linear(parts), np.sqrt(parts)
            costs = priced.pricer.encoder(encoder, steps)
            after = _relaxed(space, encoder + 1, space.follow(encoder, before, numbers))
            _, first, to = np.unique(
                _keys(space, encoder + 1, after), axis=0, return_index=True, return_inverse=True
            )
            start = np.searchsorted(at, np.arange(len(states) + 1))
            self.layers.append(
                _Layer(len(states), start, numbers, to.reshape(-1), own, roots, costs)
            )
            states = after.take(first)
        self.outside = priced.pricer.outside(_left(space, states))
        self.least = self._to_go(
            [layer.costs for layer in self.layers], self.outside
        )  # of every cost by itself

    def greatest(self, row: int) -> float:
        """The most that a cost can come to."""
        costs = [-layer.costs[row : row + 1] for layer in self.layers]
        return -float(self._to_go(costs, -self.outside[row : row + 1])[0][0, 0])

    def _to_go(self, of: Sequence[Floats], end: Floats) -> list[Floats]:
        """(kinds, states) for every encoder: the least that is still to come."""
        found = [end]
        for layer, values in zip(reversed(self.layers), reversed(of), strict=True):
            whole = values + found[-1][:, layer.to]
            found.append(np.minimum.reduceat(whole, layer.start[:-1], axis=1))
        return found[::-1]

    @property
    def _alike(self) -> Floats:
        return np.zeros(len(KINDS)) if self._losses is None else self._losses.alike

    def _losses_of(self, layer: _Layer, tangent: Floats) -> Floats:
        """(ways,): the part of a lower bound on plans' losses that each way adds.

        The square of the roots' sum is not below its tangent at any sum.
        """
        whole: Floats = layer.own + 2.0 * (self._alike * tangent) @ layer.roots
        return whole

    def _base(self, tangent: Floats) -> float:
        """The part that no way adds."""
        return -float(self._alike @ tangent**2)

    def lagrangian(self, problem: _Problem, multipliers: Floats, tangent: Floats) -> list[Floats]:
        """(states,) for every encoder: the least loss and price still to come."""
        weights = multipliers @ problem.weights
        of = [
            (self._losses_of(layer, tangent) + weights @ layer.costs)[None]
            for layer in self.layers
        ]
        return [found[0] for found in self._to_go(of, (weights @ self.outside)[None])]

    def way(
        self, problem: _Problem, multipliers: Floats, tangent: Floats
    ) -> tuple[float, Floats, Floats]:
        """The loss, the roots and the sums of the cheapest way through at these multipliers."""
        weights = multipliers @ problem.weights
        ahead = self.lagrangian(problem, multipliers, tangent)
        state, loss = 0, self._base(tangent)
        roots, costs = np.zeros(len(KINDS)), np.zeros(6)
        for encoder, layer in enumerate(self.layers):
            ways = slice(layer.start[state], layer.start[state + 1])
            of = self._losses_of(layer, tangent)
            whole = of[ways] + weights @ layer.costs[:, ways]
            whole = whole + ahead[encoder + 1][layer.to[ways]]
            way = int(layer.start[state]) + int(whole.argmin())
            loss, roots = loss + float(of[way]), roots + layer.roots[:, way]
            costs = costs + layer.costs[:, way]
            state = int(layer.to[way])
        return loss, roots, problem.weights @ (costs + self.outside[:, state])

    def multipliers(self, problem: _Problem, tangent: Floats) -> tuple[float, list[Floats]]:
        """A lower bound on a problem's losses, and the multipliers that bound it best.

        Cutting planes: every way met says how its price grows with the multipliers.
        """
        count = len(problem.most)
        scale = np.where(problem.most > 0, problem.most, 1.0)
        tried: list[tuple[float, Floats]] = []
        planes: list[tuple[float, Floats]] = []  # (loss, overrun as a share of the limit)
        best = -np.inf
        highest = 1.0
        guess = np.zeros(count)
        for _ in range(_MULTIPLIERS):
            loss, _, sums = self.way(problem, guess / scale, tangent)
            over = (sums - problem.most) / scale
            value = loss + float(guess @ over)
            tried.append((value, guess / scale))
            planes.append((loss, over))
            best = max(best, value)
            if not guess.any() and (over <= 0).all():
                break  # the best of all ways is within the limits
            highest = max(highest, abs(loss))
            # maximise z, z <= loss + multipliers · overrun, for all ways met
            rows = np.array([[1.0, *(-of)] for _, of in planes])
            limits = np.array([of for of, _ in planes])
            box = [(None, None), *[(0.0, _HIGHEST * highest)] * count]
            answer = linprog([-1.0, *[0.0] * count], A_ub=rows, b_ub=limits, bounds=box)
            if answer.status != 0 or -answer.fun - best <= _NEAR * max(abs(best), 1e-6):
                break
            guess = answer.x[1:]
        tried.sort(key=lambda of: -of[0])
        return best, [multipliers for _, multipliers in tried[:_EACH]]

    def branch(self, budget: Budget, part: _Part, pool: Pool, width: int) -> float:
        """Offer `pool` the plans that belong there; a lower bound on the loss of those left out.

        Args:
            budget: what plans must fit, exactly.
            part: what they must fit at least, and what bounds their losses.
            pool: of the best plans.
            width: beginnings that go on from an encoder.
        """
        assert self._losses is not None
        space, losses, problem = self._priced.space, self._losses, part.problem
        bounds = _Bounds(self, part)
        plans, left_out = space.begin(), np.inf
        state, costs = np.zeros(1, dtype=np.intp), np.zeros((6, 1))
        sums, roots = np.zeros(1), np.zeros((len(KINDS), 1))
        for encoder, layer in enumerate(self.layers):
            at, way = self._ways(encoder, plans, state)
            to, spent = layer.to[way], costs[:, at] + layer.costs[:, way]
            # what every way loses at least first, and exactly only where that may do
            root = roots[:, at] + layer.roots[:, way]
            least = bounds.of(encoder + 1, to, sums[at] + layer.own[way], root, spent)
            good = least < pool.threshold
            good &= _within(problem, spent + self.least[encoder + 1][:, to])
            at, way, to, spent, root = at[good], way[good], to[good], spent[:, good], root[:, good]
            numbers = layer.numbers[way]
            before = plans.take(at)
            together = losses.between(encoder, before, numbers)
            so_far = sums[at] + layer.own[way] + together
            least = bounds.of(encoder + 1, to, so_far, root, spent)
            kept = np.flatnonzero(least < pool.threshold)
            if len(kept) > width:
                sets = 2 * before.producers[kept] + (space.arrays[encoder].form[numbers[kept]] > 0)
                chosen = _going_on(least[kept], sets, width)
                left_out = min(left_out, float(least[kept[~chosen]].min()))
                kept = kept[chosen]
            if not len(kept):
                return left_out
            plans = space.follow(encoder, before.take(kept), numbers[kept])
            state, costs = to[kept], spent[:, kept]
            sums, roots = so_far[kept], root[:, kept]
        fits = budget.feasible(self._priced.price(plans.rows), self._priced.baseline)
        pool.add(plans.rows[fits], losses.together(sums, roots)[fits])
        return left_out

    def _ways(self, encoder: int, plans: Beginnings, state: Numbers) -> tuple[Numbers, Numbers]:
        """All ways on from some beginnings: their numbers, and those of the ways."""
        layer = self.layers[encoder]
        counts = layer.start[state + 1] - layer.start[state]
        at = np.repeat(np.arange(len(state)), counts)
        way = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        way = way + layer.start[state][at]
        legal = self._priced.space.legal(encoder, plans)[at, layer.numbers[way]]
        return at[legal], way[legal]

    def cheapest(self, budget: Budget) -> Numbers:
        """Plans that overrun a budget little, whatever they lose: (plans, encoders)."""
        priced, space = self._priced, self._priced.space
        plans, state, costs = space.begin(), np.zeros(1, dtype=np.intp), np.zeros((6, 1))
        for encoder, layer in enumerate(self.layers):
            at, way = self._ways(encoder, plans, state)
            to, spent = layer.to[way], costs[:, at] + layer.costs[:, way]
            reached = spent + self.least[encoder + 1][:, to]
            # sums of equal encoders differ in their last digits by the order of adding up
            overrun = np.round(budget.overrun(_costs(reached), priced.baseline), 9)
            near = np.lexsort((reached[LATENCY], overrun))[:BEAM]
            plans = space.follow(encoder, plans.take(at[near]), layer.numbers[way[near]])
            state, costs = to[near], spent[:, near]
        return plans.rows


class _Bounds:
    """From below, what beginnings can come to: the best of several multipliers says it."""

    def __init__(self, graph: _Graph, part: _Part) -> None:
        assert graph._losses is not None
        self._alike = graph._losses.alike
        problem = part.problem
        self._slopes = [self._alike * at.tangent for at in part.supports]
        self._ahead = [graph.lagrangian(problem, *at) for at in part.supports]
        self._prices = [at.multipliers @ problem.weights for at in part.supports]
        self._less = [
            float(at.multipliers @ problem.most) + float(slope @ at.tangent)
            for at, slope in zip(part.supports, self._slopes, strict=True)
        ]

    def of(
        self, encoder: int, state: Numbers, sums: Floats, roots: Floats, costs: Floats
    ) -> Floats:
        """(plans,): of beginnings in these states before an encoder."""
        bound: Floats = np.full(len(state), -np.inf)
        for ahead, price, slope, less in zip(
            self._ahead, self._prices, self._slopes, self._less, strict=True
        ):
            whole = sums + 2.0 * slope @ roots + price @ costs + ahead[encoder][state] - less
            np.maximum(bound, whole, out=bound)
        return bound


def _going_on(least: Floats, sets: Numbers, width: int) -> NDArray[np.bool_]:
    """(plans,): the `width` beginnings that go on.

    Bounds say nothing of what consumers to come will lose together with those there are. So half
    of the beginnings are those of the least bounds, and the others the best of every set of
    consumers in turn.

    Args:
        least: (plans,), bounds.
        sets: (plans,), equal where the same encoders consume.
        width: fewer than there are.
    """
    chosen = np.zeros(len(least), dtype=np.bool_)
    chosen[np.argpartition(least, width // 2)[: width // 2]] = True
    rest = np.flatnonzero(~chosen)
    order = rest[np.argsort(least[rest], kind="stable")]
    further = np.argsort(ranks_of_equals(sets[order]), kind="stable")
    chosen[order[further[: width - width // 2]]] = True
    return chosen


def _keys(space: SearchSpace, encoder: int, of: Beginnings) -> Numbers:
    """(plans, numbers): beginnings of equal numbers pay alike for all that may come."""
    places = np.arange(len(of))
    nearest = space.nearest(of.producers)
    at_source = np.where(nearest < 0, -1, of.gone[places, np.maximum(nearest, 0)])
    return np.stack([of.gone[:, encoder], of.groups, at_source, of.producers > 0], axis=1)


def _relaxed(space: SearchSpace, encoder: int, of: Beginnings) -> Beginnings:
    """Beginnings that may go on in more ways than they may, and pay no more for it."""
    nothing = np.zeros_like(of.run)
    gone, producers = of.gone, of.producers
    if space.source == "any":
        # All encoders of the stage may be sources, at the tokens there are now.
        gone = np.repeat(gone[:, encoder : encoder + 1], gone.shape[1], axis=1)
        stages = space.layout.stages
        inside = encoder < len(stages)
        bits = sum(1 << e for e in range(encoder) if inside and stages[e] == stages[encoder])
        producers = np.full_like(producers, bits)
    return Beginnings(of.rows, gone, of.groups, of.groups_of, producers, nothing, nothing, nothing)


def _left(space: SearchSpace, states: Beginnings) -> Numbers:
    """(states,): tokens behind the last encoder, as everything outside is priced by."""
    layout = space.layout
    if not layout.class_rows:
        return np.full(len(states), layout.tokens)
    if space.dead_rows:
        return np.full(len(states), layout.class_rows)
    return layout.tokens - states.gone[:, space.num_encoders]


def _form_groups(space: SearchSpace) -> list[list[int]]:
    """Numbers of the forms that may stand together in one plan."""
    numbers = range(1, len(space.forms) + 1)
    if space.mixed or not space.forms:
        return [list(numbers)]
    return [[number] for number in numbers]


_ROW: Final = {"latency": LATENCY, "area": AREA, "params": PARAMETERS, "macs": MACS}


def _problems(priced: PricedSpace, budget: Budget, graph: _Graph) -> list[_Problem]:
    """A budget as limits on sums, one set of them or more: each plan within it is within a set."""
    baseline = priced.baseline
    least = [float(of[0]) for of in graph.least[0][:, :1]]
    energy, less = _energy(least[LATENCY], least[LEAKAGE])
    weights, most, edap = np.zeros((0, 6)), np.zeros(0), np.inf
    for limit in budget.limits:
        value = limit.allowed(baseline)
        if limit.quantity == "edap":
            edap = min(edap, value)
            continue
        energetic = limit.quantity == "energy"
        of = energy if energetic else _unit(_ROW[limit.quantity])
        weights = np.concatenate([weights, of[None]])
        most = np.append(most, (value + energetic * less) * (1.0 + 2 * TOLERANCE))
    if edap == np.inf:
        return [_Problem.of(weights, most, None)]
    least_energy = least[ENERGY] + least[LEAKAGE] * least[LATENCY]
    latency = min(edap / (least_energy * least[AREA]), graph.greatest(LATENCY))
    area = min(edap / (least_energy * least[LATENCY]), graph.greatest(AREA))
    if latency < least[LATENCY] or area < least[AREA]:
        return []
    ends = np.geomspace(least[LATENCY], latency, _RANGES + 1)
    return [
        _Problem.of(
            weights,
            most,
            _Box(edap, (float(low), float(high)), (least[AREA], area), least[LEAKAGE]),
        )
        for low, high in itertools.pairwise(ends)
    ]


def _within(problem: _Problem, costs: Floats) -> NDArray[np.bool_]:
    """Which sums may still come within the limits: (plans,)."""
    kept = problem.weights @ costs <= problem.most[:, None] * (1.0 + TOLERANCE)
    fits: NDArray[np.bool_] = np.all(kept, axis=0)
    return fits


def _costs(sums: Floats) -> VariantCosts:
    """Sums (6, plans) as costs."""
    return VariantCosts(
        latency_s=sums[LATENCY],
        energy_j=sums[ENERGY] + sums[LEAKAGE] * sums[LATENCY],
        area_m2=sums[AREA],
        interval_s=sums[LATENCY],
        macs=sums[MACS],
        parameters=sums[PARAMETERS],
    )
