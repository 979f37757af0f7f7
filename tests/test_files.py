"""Files that a crash or a full disk cannot leave half-written."""

import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from trex.errors import RunError, StorageError
from trex.files import append_line, read_jsonl, repair_jsonl, sweep, write_atomic

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full on this system")


@pytest.mark.parametrize("content", ["naïve\n", b"\x00\xff", ""])
def test_what_is_written_is_read(content: str | bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    for _ in range(2):
        write_atomic(path, content)
        data = path.read_bytes()
        assert data == (content.encode() if isinstance(content, str) else content)
    assert list(tmp_path.iterdir()) == [path]


def test_a_written_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    (tmp_path / "usual").write_text("")
    write_atomic(tmp_path / "ours", "")
    append_line(tmp_path / "lines", "")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 1


def limited(tmp_path: Path, action: str) -> subprocess.CompletedProcess[str]:
    """Run `action` on `path` in a process whose files the system cuts off at 4096 bytes."""
    code = (
        "import resource; from pathlib import Path; from trex.files import *; "
        "from trex.errors import StorageError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        f"path = Path({str(tmp_path / 'file')!r})\n"
        f"try:\n    {action}\nexcept StorageError as error:\n    print(error.message)\n"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


@pytest.mark.parametrize("before", ["old content", None])
def test_a_write_that_the_system_cuts_off_changes_nothing(
    before: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    if before is not None:
        path.write_text(before)
    done = limited(tmp_path, "write_atomic(path, 'x' * 10_000)")
    assert f"{path}: cannot be written" in done.stdout
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == (
        {} if before is None else {"file": before}
    )


def test_an_append_that_the_system_cuts_off_is_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "file"
    append_line(path, '{"n": 1}')
    done = limited(tmp_path, "append_line(path, 'x' * 10_000)")
    assert f"{path}: cannot be written" in done.stdout
    assert path.read_text() == '{"n": 1}\n'


@needs_full
def test_a_full_disk_is_named_with_what_to_do() -> None:
    with pytest.raises(StorageError, match=r"/dev/full: cannot be written: No space") as caught:
        append_line(FULL, "{}")
    assert "free some space" in caught.value.hint
    assert caught.value.exit_code == 1


def test_a_full_disk_while_replacing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(StorageError) as caught:
        write_atomic(tmp_path / "file", "content")
    assert "free some space" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_and_a_folder_in_the_way(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file") as caught:
        write_atomic(tmp_path / "none" / "file", "")
    assert caught.value.hint == "create the folder first"
    with pytest.raises(StorageError):
        append_line(tmp_path / "none" / "file", "")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError):
        write_atomic(tmp_path / "folder", "")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_records_round_trip(tmp_path: Path) -> None:
    records = [{"plan": "5<-4", "top1": 0.5}, {"näme": ["\n", None]}]
    for record in records:
        append_line(tmp_path / "r.jsonl", json.dumps(record, ensure_ascii=False))
    read = read_jsonl(tmp_path / "r.jsonl")
    assert read.records == tuple(records)
    assert not read.torn
    assert not repair_jsonl(tmp_path / "r.jsonl")


@pytest.mark.parametrize("torn", ['{"n": 2', '{"n": 2}', "{", "\N{SNOWMAN}"])
@pytest.mark.parametrize("before", [0, 1, 3])
def test_a_torn_last_line_costs_only_itself(torn: str, before: int, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.touch()
    for n in range(before):
        append_line(path, json.dumps({"n": n}))
    with path.open("ab") as file:
        file.write(torn.encode()[:-1] if torn == "\N{SNOWMAN}" else torn.encode())
    expected = tuple({"n": n} for n in range(before))
    assert read_jsonl(path).records == expected
    assert read_jsonl(path).torn
    with pytest.raises(RunError, match="the last line is cut off"):
        read_jsonl(path, recover=False)
    assert repair_jsonl(path)
    append_line(path, '{"n": "next"}')
    assert read_jsonl(path, recover=False).records == (*expected, {"n": "next"})


@pytest.mark.parametrize("line", ["nonsense", "[1]", "", "3"])
def test_a_line_that_is_no_record_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(f'{{"n": 1}}\n{line}\n{{"n": 2}}\n')
    with pytest.raises(RunError, match=r"r\.jsonl:2: is not a JSON object"):
        read_jsonl(path)


def test_a_missing_record_file(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be read: No such file"):
        read_jsonl(tmp_path / "r.jsonl")


def test_appends_of_several_writers_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"

    def write(writer: int) -> None:
        for n in range(20):
            append_line(path, json.dumps({"writer": writer, "n": n, "pad": "x" * 5000}))

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    records = read_jsonl(path).records
    for writer in range(4):
        assert [r["n"] for r in records if r["writer"] == writer] == list(range(20))


def test_the_module_is_light() -> None:
    code = "import sys, trex.files; assert not {'torch', 'numpy', 'timm'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- what killed writers leave

KILLED = """
import os, signal, sys
from pathlib import Path
import trex.files as files
path = Path(sys.argv[1])
Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
files.write_atomic(path, "new")
"""


def test_what_a_kill_before_the_rename_leaves_is_swept(tmp_path: Path) -> None:
    path = tmp_path / "thing"
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)])
    assert done.returncode == -9
    (left,) = tmp_path.iterdir()
    assert sweep(tmp_path) == [left.name]
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_swept_from_under_a_writer_that_lives(tmp_path: Path, monkeypatch) -> None:
    swept: list[str] = []
    replace = Path.replace

    def sweeping(old: Path, new: Path) -> Path:
        swept.extend(sweep(tmp_path))
        return replace(old, new)

    monkeypatch.setattr(Path, "replace", sweeping)
    write_atomic(tmp_path / "file", "content")
    assert swept == []
    assert (tmp_path / "file").read_text() == "content"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_sweeping_takes_only_what_we_left(tmp_path: Path) -> None:
    for name in (
        ".hidden",
        "a.tmp",
        ".a.tmp",
        ".a.0badcafe.tmpx",
        ".a.0BADCAFE.tmp",
        "a.0badcafe.tmp",
    ):
        (tmp_path / name).write_text("")
    (tmp_path / ".link.0badcafe.tmp").symlink_to(tmp_path / ".hidden")
    assert sweep(tmp_path) == []
    assert sweep(tmp_path / "missing") == []


def test_two_writers_and_a_sweeper_lose_nothing(tmp_path: Path) -> None:
    stop = threading.Event()

    def sweeping() -> None:
        while not stop.is_set():
            sweep(tmp_path)

    sweeper = threading.Thread(target=sweeping)
    sweeper.start()
    try:
        for number in range(300):
            write_atomic(tmp_path / f"{number % 3}", f"{number}")
            assert (tmp_path / f"{number % 3}").read_text() == f"{number}"
    finally:
        stop.set()
        sweeper.join()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0", "1", "2"]
