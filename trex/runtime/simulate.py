"""A queue of requests with deadlines, served by one device that runs a plan at a time."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from trex.errors import DataError
from trex.runtime.control import QueueController
from trex.runtime.dynamic import Point

#: from the number of requests that wait, the next one counted, to a plan's name
Policy = Callable[[int], str]

#: A bursty load unless told otherwise: how much of the dearest plan's capacity quiet times need,
#: how much of the cheapest's bursts need, how long both last in the dearest plan's latencies, and
#: the deadline in these.
QUIET: Final = 0.5
BURST: Final = 0.9
QUIET_LASTS: Final = 200.0
BURST_LASTS: Final = 60.0
DEADLINE: Final = 4.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """Requests.

    Attributes:
        arrivals_s: in order.
        deadline_s: from a request's arrival to its answer.
        origin: what it is, for people.
    """

    arrivals_s: tuple[float, ...]
    deadline_s: float
    origin: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """What one request takes by a plan: seconds, joules; and the accuracy of its answers."""

    latency_s: float
    energy_j: float
    accuracy: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of a load.

    Attributes:
        policy: a plan's name, or `controller`.
        requests: all of them.
        served: answered within their deadline.
        missed: the others: answered too late, or given up before they began.
        accuracy: mean over those served; NaN where none was.
        right: right answers in time, expected, as a share of all requests.
        energy_j: of all that was computed, late answers too.
        switches: of the plan.
        shares: of what was computed, by plan.
    """

    policy: str
    requests: int
    served: int
    missed: int
    accuracy: float
    right: float
    energy_j: float
    switches: int
    shares: Mapping[str, float]


def bursty(
    points: Sequence[Point], *, requests: int, seed: int, deadline_s: float | None = None
) -> Load:
    """Poisson arrivals whose rate jumps between quiet times and bursts, both of random length.

    Quiet times need half of the dearest plan's capacity; bursts need nine tenths of the cheapest
    plan's, which the dearest cannot serve.

    Args:
        points: the plans.
        requests: how many.
        seed: of the arrivals.
        deadline_s: four latencies of the dearest plan unless given.
    """
    costs = [point.cost("latency") for point in points]
    dear, cheap = max(costs), min(costs)
    rng = np.random.default_rng(seed)
    now, in_burst = 0.0, False
    arrivals: list[float] = []
    ends = rng.exponential(QUIET_LASTS * dear)
    while len(arrivals) < requests:
        rate = BURST / cheap if in_burst else QUIET / dear
        step = rng.exponential(1.0 / rate)
        if now + step > ends:  # no memory: the wait begins anew under the other rate
            now, in_burst = ends, not in_burst
            ends = now + rng.exponential((BURST_LASTS if in_burst else QUIET_LASTS) * dear)
            continue
        now += step
        arrivals.append(now)
    return Load(
        arrivals_s=tuple(arrivals),
        deadline_s=deadline_s or DEADLINE * dear,
        origin=f"synthetic bursts, seed {seed}",
    )


def recorded(file: Path, deadline_s: float) -> Load:
    """Arrivals from a file: a time in seconds a line, in order.

    Raises:
        DataError: the file is missing, empty, or holds something else.
    """
    try:
        times = [float(line) for line in file.read_text(encoding="utf-8").split()]
    except (OSError, ValueError) as error:
        raise DataError(
            f"{file} cannot be read: {error}", hint="give a file of a time in seconds a line"
        ) from None
    if not times or not all(map(math.isfinite, times)) or times != sorted(times):
        raise DataError(
            f"{file} does not hold times that rise", hint="give a time in seconds a line, in order"
        )
    return Load(arrivals_s=tuple(times), deadline_s=deadline_s, origin=str(file))


def simulate(load: Load, policy: Policy, services: Mapping[str, Service], *, name: str) -> Outcome:
    """Serve a load one request after another, the oldest first.

    A request whose deadline has passed before it begins is given up. The policy is asked when a
    request begins; what has begun ends with that plan.

    Args:
        load: the requests.
        policy: chooses the plan.
        services: of every plan.
        name: of the policy.
    """
    arrivals: deque[float] = deque(load.arrivals_s)
    queue: deque[float] = deque()
    free_s = energy_j = right = 0.0
    served = switches = 0
    count = dict.fromkeys(services, 0)
    last: str | None = None
    while arrivals or queue:
        now = free_s if queue else max(free_s, arrivals[0])
        while arrivals and arrivals[0] <= now:
            queue.append(arrivals.popleft())
        while queue and queue[0] + load.deadline_s < now:
            queue.popleft()
        if not queue:
            continue
        plan = policy(len(queue))
        switches += last is not None and plan != last
        last = plan
        service, arrived = services[plan], queue.popleft()
        free_s = now + service.latency_s
        energy_j += service.energy_j
        count[plan] += 1
        if free_s <= arrived + load.deadline_s:
            served += 1
            right += service.accuracy
    requests, computed = len(load.arrivals_s), max(sum(count.values()), 1)
    return Outcome(
        policy=name,
        requests=requests,
        served=served,
        missed=requests - served,
        accuracy=right / served if served else math.nan,
        right=right / requests,
        energy_j=energy_j,
        switches=switches,
        shares={plan: number / computed for plan, number in count.items()},
    )


def _always(plan: str, waiting: int) -> str:
    return plan


def compare_policies(
    load: Load, points: Sequence[Point], services: Mapping[str, Service]
) -> list[Outcome]:
    """Every fixed plan, the cheapest first, then the queue's controller, on the same load."""
    fixed = [
        simulate(load, partial(_always, point.name), services, name=point.name) for point in points
    ]
    controller = QueueController(points, load.deadline_s)
    return [*fixed, simulate(load, controller.update, services, name="controller")]


def verdict(outcomes: Sequence[Outcome]) -> str:
    """The controller beside the best fixed plan of at least its accuracy, in words."""
    *fixed, controller = outcomes
    as_good = [of for of in fixed if of.served and of.accuracy >= controller.accuracy - 1e-12]
    if not as_good:
        return "no fixed plan answers as well as the controller"
    best = max(as_good, key=lambda of: of.served)
    gained = controller.served - best.served
    text = (
        f"the controller serves {controller.served} of {controller.requests} in time at "
        f"{100 * controller.accuracy:.2f} %; of the fixed plans at least as accurate, "
        f"{best.policy} serves most: {best.served}"
    )
    return f"{text} ({gained:+d})"
