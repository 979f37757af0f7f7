"""Processes that work off one list of plans together."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Final, NamedTuple

import torch
from optuna.trial import FrozenTrial, TrialState
from tqdm import tqdm

from trex.errors import TrexError, WorkerError
from trex.fit.fitter import Take
from trex.plan import Plan
from trex.search.entries import in_tree_order
from trex.search.problem import progress_bar
from trex.search.study import Entry, Study

_logger = logging.getLogger(__name__)

_SHOWN_EVERY_S: Final = 0.5


class Result(NamedTuple):
    """What came of a candidate: the objectives, and further facts for people."""

    key: str
    values: Sequence[float]
    notes: Mapping[str, Any]


#: takes further candidates for this process, when all that are listed are done; none at the end
More = Callable[[Study], Sequence[Plan]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """Work of one kind on a list of candidates.

    Attributes:
        name: for people.
        entries: the candidates to begin with.
        total: how many there will be.
        open_study: makes this process's view of the study; every process has its own.
        plan_of: the plan that a trial is about.
        prepare: makes what all workers of this machine share, before any of them begins.
        known: what came of a candidate according to the run folder, or None.
        work: works on candidates it takes from a list, in order, and yields what came of each.
        more: where further candidates come from.
    """

    name: str
    entries: Sequence[Entry]
    total: int
    open_study: Callable[[], Study]
    plan_of: Callable[[FrozenTrial], Plan]
    prepare: Callable[[], object]
    known: Callable[[str], Result | None]
    work: Callable[[Sequence[Plan], Take], Iterator[Result]]
    more: More | None = None


def run_phase(phase: Phase, workers: int) -> dict[str, FrozenTrial]:
    """The trials of all candidates of a phase, once these workers or others have done them.

    Args:
        phase: the work.
        workers: 1 works in this process; more are processes of one thread each.

    Raises:
        WorkerError: all workers died.
        TrexError: a worker could not go on; its error.
    """
    with closing(phase.open_study()) as study, _shown(phase, study) as show:
        study.offer(phase.entries)
        if (done := show()) < phase.total:
            if done:
                _logger.info("%d of them are done", done)
            phase.prepare()
            if workers == 1:
                _work(phase, study, show)
            else:
                _Crew(phase, workers).wait(show)
        return study.complete()


@contextmanager
def _shown(phase: Phase, study: Study) -> Iterator[Callable[[], int]]:
    """A progress bar; yields what updates it and says how many candidates are done."""
    shown, listed = 0, {entry.key for entry in phase.entries}
    with progress_bar(phase.name, phase.total, "plans") as advance:

        def show() -> int:
            nonlocal shown
            complete = study.complete().keys()
            # the study may hold other candidates, which an earlier version chose
            done = len(complete if phase.more else complete & listed)
            advance(done - shown)
            shown = done
            return done

        yield show


def _work(phase: Phase, study: Study, show: Callable[[], object]) -> None:
    """Work on candidates until all are done."""
    while True:
        study.revive()
        study.offer(phase.entries)
        trials = study.trials()
        states = {key: trial.state for key, trial in trials.items()}
        by_key = {key: phase.plan_of(trial) for key, trial in trials.items()}

        def take(left: Sequence[Plan]) -> Plan | None:
            while (key := study.claim([plan.key for plan in left])) is not None:
                known = phase.known(key)
                if known is None:
                    return next(plan for plan in left if plan.key == key)
                # Its worker died between recording it and saying so.
                study.finish(*known)
            return None

        if order := _order(in_tree_order(by_key.values()), states):
            results = phase.work(order, take)
        elif phase.more is not None and (asked := phase.more(study)):
            results = phase.work(asked, lambda left: left[0])
        elif all(state == TrialState.COMPLETE for state in states.values()):
            return
        else:
            show()
            time.sleep(study.shared.poll_s)
            continue
        for result in results:
            study.finish(*result)
            show()


def _order(candidates: Sequence[Plan], states: Mapping[str, TrialState]) -> list[Plan] | None:
    """All candidates in a circle, begun far from where others work; None where none waits.

    A worker that begins in the middle of the longest stretch nobody is at shares the least of its
    work with others.
    """
    waits = [states.get(candidate.key) == TrialState.WAITING for candidate in candidates]
    if not any(waits):
        return None
    best = (0, 0)
    length = 0
    for index, waiting in enumerate([*waits, False]):
        if waiting:
            length += 1
        else:
            best = max(best, (length, -(index - length)))
            length = 0
    longest, start = best[0], -best[1]
    followed = start > 0 and states.get(candidates[start - 1].key) == TrialState.RUNNING
    start += longest // 2 if followed else 0
    return [*candidates[start:], *candidates[:start]]


class _Crew:
    """Worker processes.

    They are forked, so that they share the model and the open files of the original's pass. One
    thread each: the threads of a forked process's parent are gone, and OpenMP would wait for them.
    """

    def __init__(self, phase: Phase, count: int) -> None:
        context = multiprocessing.get_context("fork")
        self._pipes: list[Connection] = []
        self._processes: list[BaseProcess] = []
        for number in range(count):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(
                target=_worker, args=(phase, sender, os.getpid()), name=f"worker {number}"
            )
            with warnings.catch_warnings():
                # Python 3.12 and later warn of threads: these hold no lock a child needs.
                warnings.simplefilter("ignore", DeprecationWarning)
                process.start()
            sender.close()
            self._pipes.append(receiver)
            self._processes.append(process)

    def wait(self, show: Callable[[], object]) -> None:
        """Return when all have ended; the first error of one ends them all."""
        try:
            alive = dict(zip(self._processes, self._pipes, strict=True))
            ended_well = False
            while alive:
                wait([process.sentinel for process in alive], timeout=_SHOWN_EVERY_S)
                show()
                for process, pipe in list(alive.items()):
                    if process.exitcode is None:
                        continue
                    del alive[process]
                    if pipe.poll():
                        try:
                            raise pipe.recv()
                        except EOFError:
                            pass
                    if process.exitcode == 0:
                        ended_well = True
                    else:
                        _logger.warning(
                            "%s died (%s); others try its candidates again",
                            process.name, _reason(process.exitcode),
                        )  # fmt: skip
            if not ended_well:
                raise WorkerError(
                    "all workers died",
                    hint="the same command goes on; with fewer --workers if memory ran out",
                )
        finally:
            for process in self._processes:
                process.terminate()
            for process, pipe in zip(self._processes, self._pipes, strict=True):
                process.join()
                pipe.close()


def _worker(phase: Phase, errors: Connection, parent: int) -> None:
    """The main function of a worker process."""
    torch.set_num_threads(1)
    # tqdm's own lock is shared with the parent, and stays locked where its holder is killed.
    tqdm.set_lock(threading.RLock())
    logging.getLogger("trex").setLevel(logging.WARNING)

    def check() -> None:
        if os.getppid() != parent:
            raise _OrphanedError

    try:
        with closing(phase.open_study()) as study:
            _work(phase, study, check)
    except (_OrphanedError, KeyboardInterrupt):
        os._exit(1)
    except TrexError as error:
        errors.send(error)
    except Exception:
        errors.send(RuntimeError(f"a worker failed:\n{traceback.format_exc()}"))


class _OrphanedError(Exception):
    """The process that started this worker is gone."""


def _reason(exit_code: int) -> str:
    if exit_code < 0:
        return signal.Signals(-exit_code).name
    return f"exit code {exit_code}"
