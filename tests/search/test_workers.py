"""Processes that share a list of candidates: nothing is lost, nothing is doubled."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import time
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from shared_work import ALL, CANDIDATES, dies_once, made_up_phase, open_study, result, results

from trex.errors import DataError, RunError, WorkerError
from trex.plan import Plan
from trex.search.entries import in_tree_order
from trex.search.storage import JOURNAL, open_storage
from trex.search.workers import Phase, run_phase

FORK = multiprocessing.get_context("fork")
# Python 3.12 and later warn of forking beside threads: torch's hold no lock that a child needs.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_every_candidate_is_done_once(tmp_path: Path, workers: int) -> None:
    done = run_phase(made_up_phase(tmp_path), workers)
    assert results(tmp_path) == ALL
    assert {key: trial.values for key, trial in done.items()} == {
        c.key: [*result(c).values] for c in CANDIDATES
    }
    assert all(trial.user_attrs["note"] == "done" for trial in done.values())


def test_work_is_spread_over_processes(tmp_path: Path) -> None:
    barrier = FORK.Barrier(3)
    met: list[int] = []

    def meet(candidate: Plan) -> None:
        if not met:
            barrier.wait(timeout=60)
            met.append(os.getpid())

    run_phase(made_up_phase(tmp_path, meet), 3)
    lines = map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines())
    processes = {line["process"] for line in lines}
    assert len(processes) == 3
    assert os.getpid() not in processes


@pytest.mark.parametrize("moment", [0, 4, 8])
def test_what_a_killed_worker_was_at_is_done_by_another(tmp_path: Path, moment: int) -> None:
    done = run_phase(made_up_phase(tmp_path, dies_once(tmp_path, moment)), 2)
    assert (tmp_path / "died").exists()
    assert results(tmp_path) == ALL
    again = done[CANDIDATES[moment].key]
    assert again.user_attrs["tried again after"].startswith("trial ")


def test_where_all_workers_die_the_next_search_goes_on(tmp_path: Path) -> None:
    def die(candidate: Plan) -> None:
        os.kill(os.getpid(), 9)

    with pytest.raises(WorkerError, match="all workers died") as caught:
        run_phase(made_up_phase(tmp_path, die), 2)
    assert "the same command goes on" in caught.value.hint
    run_phase(made_up_phase(tmp_path), 1)
    assert results(tmp_path) == ALL


def test_a_workers_error_ends_the_search_and_is_told(tmp_path: Path) -> None:
    def fail(candidate: Plan) -> None:
        if candidate.key == CANDIDATES[3].key:
            raise DataError("the disk melted", hint="buy another")

    with pytest.raises(DataError, match="the disk melted") as caught:
        run_phase(made_up_phase(tmp_path, fail), 2)
    assert caught.value.hint == "buy another"
    assert multiprocessing.active_children() == []

    def break_down(candidate: Plan) -> None:
        raise ZeroDivisionError

    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        run_phase(made_up_phase(tmp_path, break_down), 2)


def test_searches_that_start_apart_join(tmp_path: Path) -> None:
    phase = made_up_phase(tmp_path, lambda candidate: time.sleep(0.02))
    others = [FORK.Process(target=run_phase, args=(phase, 1)) for _ in range(2)]
    for other in others:
        other.start()
    run_phase(phase, 2)
    for other in others:
        other.join()
        assert other.exitcode == 0
    assert results(tmp_path) == ALL


def test_what_is_recorded_is_only_told(tmp_path: Path) -> None:
    # Killed between recording and telling: the study does not know, the run folder does.
    run_phase(made_up_phase(tmp_path), 1)
    for lost in (lambda: (tmp_path / JOURNAL).unlink(), lambda: _reset(tmp_path)):
        lost()
        done = run_phase(made_up_phase(tmp_path, _never), 1)
        assert len(done) == len(ALL)
        assert results(tmp_path) == ALL


def _reset(folder: Path) -> None:
    """Take back what was said last, as if the worker had died before saying it."""
    lines = (folder / JOURNAL).read_text().splitlines()
    finished = [i for i, line in enumerate(lines) if '"state":1' in line]
    kept = lines[: finished[-1]] + lines[finished[-1] + 1 :]
    (folder / JOURNAL).write_text("".join(line + "\n" for line in kept))


def _never(candidate: Plan) -> None:
    raise AssertionError(f"{candidate} is worked on again")


@pytest.mark.parametrize("tail", [b'{"op_code": 4, "st', b"\0" * 70, b'{"op_code"\n\n', b"no\n"])
def test_a_damaged_end_of_the_journal_is_left_out_and_said(
    tmp_path: Path, tail: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    run_phase(made_up_phase(tmp_path), 1)
    journal = tmp_path / JOURNAL
    whole = journal.read_bytes()
    journal.write_bytes(whole + tail)
    with caplog.at_level(logging.WARNING, "trex"), closing(open_study(tmp_path)) as study:
        assert len(study.complete()) == len(ALL)
    assert f"{len(tail)} bytes from line" in caplog.text
    assert journal.read_bytes() == whole


def test_a_line_cut_off_by_a_living_process_is_cut_off_by_the_next_writer(tmp_path: Path) -> None:
    with closing(open_study(tmp_path)) as study:
        with (tmp_path / JOURNAL).open("ab") as file:
            file.write(b'{"op_code": 4, "st')
        study.offer(made_up_phase(tmp_path).entries)
        assert len(study.trials()) == len(ALL)
    with closing(open_study(tmp_path)) as study:
        assert len(study.trials()) == len(ALL)


def test_a_journal_damaged_in_the_middle_is_refused(tmp_path: Path) -> None:
    run_phase(made_up_phase(tmp_path), 1)
    lines = (tmp_path / JOURNAL).read_bytes().splitlines(keepends=True)
    (tmp_path / JOURNAL).write_bytes(b"".join([*lines[:3], b"\0\0\n", *lines[3:]]))
    with pytest.raises(RunError, match=r"study\.log:4: is not an entry") as caught:
        open_study(tmp_path)
    assert "made again from results.jsonl" in caught.value.hint


def test_a_digit_of_the_journal_that_became_another_one_is_seen(tmp_path: Path) -> None:
    run_phase(made_up_phase(tmp_path), 1)
    lines = (tmp_path / JOURNAL).read_text().splitlines()
    text, check = lines[3].split(',"check"')
    digit = next(of for of in text if of.isdigit())
    lines[3] = text.replace(digit, str(9 - int(digit)), 1) + ',"check"' + check
    (tmp_path / JOURNAL).write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(RunError, match=r"study\.log:4 is damaged: .* checksum") as caught:
        open_study(tmp_path)
    assert "made again" in caught.value.hint


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"model": "other"}, 'model was "tiny", now it is "other"'),
        ({"model": "tiny", "chip_sha256": "12"}, 'chip_sha256 was null, now it is "12"'),
    ],
)
def test_a_study_of_something_else_is_refused(
    tmp_path: Path, other: dict[str, str], message: str
) -> None:
    open_study(tmp_path).close()
    before = (tmp_path / JOURNAL).read_bytes()
    with pytest.raises(RunError, match="of other settings") as caught:
        open_study(tmp_path, **other)
    assert message in caught.value.message
    assert (tmp_path / JOURNAL).read_bytes() == before


def test_people_understand_the_study(tmp_path: Path) -> None:
    run_phase(made_up_phase(tmp_path), 1)
    # as optuna-dashboard opens it
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / JOURNAL))
    study = optuna.load_study(study_name="tiny", storage=optuna.storages.JournalStorage(backend))
    trial = next(t for t in study.trials if t.user_attrs["plan"] == "2<-1 3<-1 4<-1 5<-1")
    assert trial.state == TrialState.COMPLETE
    assert trial.params["encoder 1"] == "own"
    assert trial.params["encoder 4"] == "output of 1, linear"
    assert trial.user_attrs["consumers"] == 4
    assert study.metric_names == ["loss"]


def test_a_living_workers_candidate_is_left_to_it(tmp_path: Path) -> None:
    phase = made_up_phase(tmp_path)
    with closing(open_study(tmp_path)) as first, closing(open_study(tmp_path)) as second:
        first.offer(phase.entries)
        key = first.claim(ALL)
        assert second.claim([key]) is None
        assert second.revive() == 0
        first.close()
        assert second.revive() == 1
        assert second.claim([key]) == key


def test_a_new_worker_begins_where_no_other_is(tmp_path: Path) -> None:
    seen: list[Plan] = []
    phase = made_up_phase(tmp_path, seen.append)
    with closing(open_study(tmp_path)) as other:
        other.offer(phase.entries)
        other.claim([in_tree_order(CANDIDATES)[0].key])
        _one_round(phase)
    # the first in the tree's order is worked on by the other, who goes on with the second
    assert seen[0].key == in_tree_order(CANDIDATES)[5].key


def _one_round(phase: Phase) -> None:
    """A worker until it finds nothing to do."""

    class Idle(Exception):
        pass

    def sleep(seconds: float) -> None:
        raise Idle

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trex.search.workers.time.sleep", sleep)
        with pytest.raises(Idle):
            run_phase(phase, 1)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("not an address", "is not an address"),
        ("mysql://me@localhost/studies", "is not a PostgreSQL database"),
    ],
)
def test_other_storages_are_refused(tmp_path: Path, url: str, message: str) -> None:
    with pytest.raises(RunError, match=message) as caught:
        open_storage(url, tmp_path, "tiny")
    assert "postgresql://" in caught.value.hint
