"""Made-up work that processes share: every candidate's result is a line in a file."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from trex.files import append_line, read_jsonl
from trex.fit.fitter import Take
from trex.plan import Layout, Plan
from trex.search.entries import Options, entry, plan_of_trial
from trex.search.space import SearchSpace
from trex.search.storage import open_storage
from trex.search.study import Study
from trex.search.workers import Phase, Result

SPACE = SearchSpace(
    name="tiny",
    layout=Layout(stages=(0,) * 6, tokens=5),
    forms=(("output", "linear"),),
    may_reuse=(False, *(True,) * 5),
    max_run=6,
    max_reuse=6,
    source="any",
)
CANDIDATES = [
    plan
    for consumer in range(1, 6)
    for plan in (Plan.nearest([consumer]), Plan.nearest(range(consumer, 6)))
][:-1]


def open_study(folder: Path, url: str | None = None, **settings: str) -> Study:
    storage = open_storage(url, folder, "tiny")
    return Study(storage, "tiny", ["loss"], settings or {"model": "tiny"})


def result(plan: Plan) -> Result:
    return Result(plan.key, [float(plan.n_reuse)], {"note": "done"})


def made_up_phase(
    folder: Path, on_the_way: Callable[[Plan], None] = lambda c: None, url: str | None = None
) -> Phase:
    """Work whose results go to `results.jsonl`; `on_the_way` may disturb it."""
    file = folder / "results.jsonl"

    def known(key: str) -> Result | None:
        keys = [line["key"] for line in read_jsonl(file).records] if file.exists() else []
        return next((result(c) for c in CANDIDATES if c.key == key and key in keys), None)

    def work(order: Sequence[Plan], take: Take) -> Iterator[Result]:
        while (candidate := take(order)) is not None:
            on_the_way(candidate)
            append_line(file, json.dumps({"key": candidate.key, "process": os.getpid()}))
            yield result(candidate)

    return Phase(
        name="made up",
        total=len(CANDIDATES),
        plan_of=plan_of_trial,
        entries=[entry(plan, Options(SPACE), {}) for plan in CANDIDATES],
        open_study=partial(open_study, folder, url),
        prepare=lambda: None,
        known=known,
        work=work,
    )


def dies_once(folder: Path, moment: int) -> Callable[[Plan], None]:
    """One process, the first that comes to some candidate, is killed there."""

    def on_the_way(candidate: Plan) -> None:
        time.sleep(0.01)
        if candidate.key == CANDIDATES[moment].key:
            try:
                (folder / "died").touch(exist_ok=False)
            except FileExistsError:
                return
            os.kill(os.getpid(), signal.SIGKILL)

    return on_the_way


def results(folder: Path) -> list[str]:
    """The keys of all results, sorted; a doubled one stands there twice."""
    return sorted(line["key"] for line in read_jsonl(folder / "results.jsonl").records)


ALL = sorted(candidate.key for candidate in CANDIDATES)
