"""A real PostgreSQL server for a test: on loopback, in a temporary folder, from its binaries."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

#: whose programs refuse to run as root
_NOBODY = 65534


class Server(NamedTuple):
    """A server's address, and how to stop it at once and start it again."""

    url: str
    restart: Callable[[], None]


@contextmanager
def postgres_server() -> Iterator[Server]:
    """A server; skips the test, and says why, where none can run."""
    pytest.importorskip(
        "psycopg", reason="psycopg is not installed: pip install trex-vit[postgres]"
    )
    initdb, pg_ctl = (_find(name) for name in ("initdb", "pg_ctl"))
    # Not pytest's temporary folder, which only its owner may enter.
    folder = Path(tempfile.mkdtemp(prefix="trex-postgres-"))
    try:
        as_user = []
        if os.geteuid() == 0:
            as_user = [_find("setpriv"), f"--reuid={_NOBODY}", f"--regid={_NOBODY}"]
            as_user.append("--clear-groups")
            os.chown(folder, _NOBODY, _NOBODY)
        data, log = folder / "data", folder / "log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        settings = (
            f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder} "
            "-c fsync=off"
        )

        def run(*words: object) -> None:
            subprocess.run(
                [*as_user, *map(str, words)], check=True, cwd=folder, stdout=subprocess.DEVNULL
            )

        run(initdb, "-D", data, "-U", "trex", "--auth=trust", "--no-sync", "-E", "UTF8")

        def start() -> None:
            run(pg_ctl, "-D", data, "-l", log, "-w", "-o", settings, "start")

        def restart() -> None:
            run(pg_ctl, "-D", data, "-m", "immediate", "stop")
            start()

        start()
        try:
            yield Server(f"postgresql://trex@127.0.0.1:{port}/postgres", restart)
        finally:
            run(pg_ctl, "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


def _find(name: str) -> str:
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    path = os.pathsep.join([os.environ.get("PATH", ""), *map(str, folders)])
    found = shutil.which(name, path=path)
    if found is None:
        pytest.skip(f"no {name} here: PostgreSQL is not installed")
    return found
