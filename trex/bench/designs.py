"""Plans that tell a machine's latencies apart: which are timed, and which only test the fit."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable

from trex.errors import PlanError
from trex.plan import REUSED_TENSORS, Layout, Plan, ReusedTensor, Transform


def designed_plans(layout: Layout) -> list[Plan]:
    """The original, and plans that each change one thing much, and some that change several.

    Few and many consumers of outputs and maps, one to three consumers of a map, mixed maps, merges
    early and late, small and large, shared rows with own and with taken groups, class rows.
    """
    n, tokens = len(layout.stages), layout.tokens
    last, middle = n - 1, n // 2
    every_other = range(1, n, 2)
    texts = [f"{last}=class"]
    for share in (20, 8, 4):
        for encoder in (1, middle, last - 1):
            texts.append(f"{encoder}~{tokens // share}")
    small = max(1, tokens // 24)
    texts.append(" ".join(f"{e}~{small}" for e in range(n)))
    texts.append(" ".join(f"{e}~{2 * small}" for e in range(0, n, 3)))
    half, quarter = tokens // 2, max(layout.protected + 1, tokens // 4)
    texts.append(f"{middle}={half}")
    texts.append(f"1={quarter} {middle}={half} {last - 1}={quarter}")
    texts.append(
        " ".join([f"{middle}={quarter}", *(f"{e}=@{middle}" for e in range(middle + 1, last))])
    )
    plans = [Plan()]
    for tensor in REUSED_TENSORS:
        for consumers in ([middle], every_other, range(middle, n), range(1, n)):
            plans.append(_nearest(layout, consumers, tensor))
    for consumers in ([middle + 1], range(middle + 1, middle + 3), range(middle + 1, middle + 4)):
        plans.append(_nearest(layout, consumers, "map", "mixed"))
    plans += _valid(texts, layout)
    joined = [
        f"{_nearest(layout, [1, last - 1])} 3~{tokens // 6}",
        f"{_nearest(layout, every_other)} 2~{tokens // 8} {middle}~{tokens // 8} {last}=class",
        f"{_nearest(layout, [2, last - 1], 'map')} {middle}~{tokens // 4}",
        f"1~{small} 3~{tokens // 6} {middle}={quarter} {last}=class",
        f"{_nearest(layout, range(middle, n))} 1~{tokens // 6}",
    ]
    plans += _valid(joined, layout)
    return _sound(plans, layout)


def random_plans(
    layout: Layout, count: int, seed: int = 0, *, but: Collection[Plan] = ()
) -> list[Plan]:
    """So many different plans at random, but for some; fewer where a model has no more."""
    draw, n, tokens = random.Random(seed), len(layout.stages), layout.tokens
    found: dict[Plan, None] = {}
    for _ in range(200 * count):
        if len(found) == count:
            break
        tensor = draw.choice((*REUSED_TENSORS, "output"))
        consumers = draw.sample(range(1, n), draw.randint(0, max(1, n // 3)))
        parts = [str(_nearest(layout, consumers, tensor))]
        for encoder in draw.sample(range(n), draw.randint(0, max(1, n // 4))):
            parts.append(f"{encoder}~{draw.randint(1, max(1, tokens // 6))}")
        if draw.random() < 0.5:
            parts.append(f"{n - 1}=class")
        plans = _sound(_valid([" ".join(parts)], layout), layout)
        if plans and plans[0] != Plan() and plans[0] not in but:
            found[plans[0]] = None
    return list(found)


def _nearest(
    layout: Layout,
    consumers: Iterable[int],
    tensor: ReusedTensor = "output",
    transform: Transform = "linear",
) -> Plan:
    """Consumers with a producer before them in their stage; the others stay as they are."""
    chosen: list[int] = []
    first = {stage: layout.stages.index(stage) for stage in layout.stages}
    for consumer in consumers:
        if 0 < consumer < len(layout.stages) and first[layout.stages[consumer]] < consumer:
            chosen.append(consumer)
    return Plan.nearest(chosen, tensor, transform)


def _valid(texts: Iterable[str], layout: Layout) -> list[Plan]:
    plans = []
    for text in texts:
        try:
            plans.append(Plan.parse(text))
        except PlanError:
            continue  # of a model with few encoders, two of these are one
    return plans


def _sound(plans: Iterable[Plan], layout: Layout) -> list[Plan]:
    """Those the model can run, each once."""
    kept: dict[Plan, None] = {}
    for plan in plans:
        try:
            plan.validate(layout)
        except PlanError:
            continue
        kept[plan] = None
    return list(kept)
