"""Work shared through a real PostgreSQL server, as by many machines."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from postgres import Server, postgres_server
from shared_work import ALL, dies_once, made_up_phase, open_study, results
from small_runs import Inputs
from small_runs import results as run_results

from trex.cli import main
from trex.errors import RunError, StorageError
from trex.exporters.bundle import load_config
from trex.plan import Plan
from trex.search.storage import open_storage
from trex.search.study import check_study
from trex.search.workers import run_phase
from trex.store.run import Run

FORK = multiprocessing.get_context("fork")
# Python 3.12 and later warn of forking beside threads: torch's hold no lock that a child needs.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with postgres_server() as found:
        yield found


@pytest.fixture
def url(server: Server, request: pytest.FixtureRequest) -> str:
    """An empty database."""
    import psycopg

    name = f"db_{abs(hash(request.node.name))}"
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return server.url.replace("/postgres", f"/{name}")


def test_four_workers_and_a_killed_one_lose_and_double_nothing(url: str, tmp_path: Path) -> None:
    done = run_phase(made_up_phase(tmp_path, dies_once(tmp_path, 4), url), 4)
    assert (tmp_path / "died").exists()
    assert results(tmp_path) == ALL
    assert sorted(done) == ALL


def test_machines_that_start_apart_join(url: str, tmp_path: Path) -> None:
    phase = made_up_phase(tmp_path, lambda candidate: time.sleep(0.02), url)
    others = [FORK.Process(target=run_phase, args=(phase, 1)) for _ in range(3)]
    for other in others:
        other.start()
    run_phase(phase, 1)
    for other in others:
        other.join()
        assert other.exitcode == 0
    assert results(tmp_path) == ALL


@pytest.mark.parametrize("workers", [1, 3])
def test_a_restart_of_the_server_is_waited_for(
    workers: int, server: Server, url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def restarts_once(candidate: Plan) -> None:
        time.sleep(0.02)
        if candidate.key == ALL[4] and not (tmp_path / "restarted").exists():
            (tmp_path / "restarted").touch()
            server.restart()

    done = run_phase(made_up_phase(tmp_path, restarts_once, url), workers)
    assert (tmp_path / "restarted").exists()
    assert results(tmp_path) == ALL
    assert sorted(done) == ALL
    assert {record.name for record in caplog.records} <= {
        "trex.search.shared",
        "trex.search.study",
    }


def test_a_study_of_something_else_is_refused(url: str, tmp_path: Path) -> None:
    open_study(tmp_path, url).close()
    with pytest.raises(RunError, match='model was "tiny", now it is "other"') as caught:
        open_study(tmp_path, url, model="other")
    assert "--study" in caught.value.hint
    with closing(open_storage(url, tmp_path, "tiny")) as shared:
        check_study(shared, "tiny", {"model": "tiny"})
        check_study(shared, "another", {"model": "other"})
        with pytest.raises(RunError, match='model was "tiny", now it is "other"'):
            check_study(shared, "tiny", {"model": "other"})


def test_a_database_that_does_not_answer(server: Server, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"does not answer.*missing.* does not") as caught:
        open_storage(server.url.replace("/postgres", "/missing"), tmp_path, "tiny")
    assert "postgresql://user" in caught.value.hint
    # nobody listens at port 1
    with pytest.raises(StorageError, match="does not answer") as caught:
        open_storage("postgresql://me:secret@127.0.0.1:1/x", tmp_path, "tiny")
    assert "secret" not in str(caught.value)


def test_a_connection_that_breaks_lets_its_work_go(url: str, tmp_path: Path) -> None:
    import psycopg

    phase = made_up_phase(tmp_path, url=url)
    holders = (
        "FROM pg_locks l JOIN pg_database d ON l.database = d.oid "
        "WHERE l.locktype = 'advisory' AND d.datname = current_database()"
    )
    with (
        closing(open_study(tmp_path, url)) as first,
        psycopg.connect(url, autocommit=True) as connection,
    ):
        first.offer(phase.entries)
        key = first.claim(ALL)
        (first_pid,) = connection.execute(f"SELECT DISTINCT l.pid {holders}").fetchall()
        with closing(open_study(tmp_path, url)) as second:
            assert second.revive() == 0
            connection.execute("SELECT pg_terminate_backend(%s)", first_pid)
            while connection.execute(f"SELECT 1 {holders} AND l.pid = %s", first_pid).fetchall():
                time.sleep(0.01)
            assert second.revive() == 1
            assert second.claim([key]) == key


@pytest.mark.slow
def test_machines_with_folders_of_their_own_end_with_the_same_records(
    url: str, inputs: Inputs, tmp_path: Path
) -> None:
    alone, killed, other = (tmp_path / name for name in ("alone", "killed", "other"))
    rungs = ["--finetuned-candidates", "3", "2", "--finetune-images", "8", "20"]
    assert main(inputs.search(alone, *rungs)) == 0
    machines = [
        FORK.Process(target=main, args=(inputs.search(out, *rungs, "--storage", url),))
        for out in (killed, other)
    ]
    for machine in machines:
        machine.start()
    while not (killed / "results.jsonl").exists() and machines[0].is_alive():
        time.sleep(0.01)
    assert machines[0].pid is not None
    os.kill(machines[0].pid, signal.SIGKILL)
    for machine in machines:
        machine.join()
    assert machines[1].exitcode == 0
    assert main(inputs.search(killed, *rungs, "--storage", url)) == 0
    for out in (killed, other):
        assert run_results(Run.open(out)) == run_results(Run.open(alone))
        lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
        told = {(line["key"], line.get("rung", {"rung": "fitted"})["rung"]) for line in lines}
        assert len(told) == len(lines) == 5 + 3 + 2
        # who trained the winner hands over its weights, the other one trains it again
        hashes = [load_config(run / "finetuned")["weights_sha256"] for run in (out, alone)]
        assert hashes[0] == hashes[1]
